//! Who has which id and which extent of chunks: bounded, and never the same one twice.

use balancer_common::service::CHUNK_SLOTS;
use range_alloc::RangeAllocator;
use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
};

/// Ids from a range. Freed ones are given out again in the order in which they came back, so that
/// an id rests as long as possible.
#[derive(Debug)]
pub struct Ids {
    next: u32,
    end: u32,
    free: VecDeque<u32>,
}

// === impl Ids ===

impl Ids {
    /// All ids of `range` but those in `used`.
    pub fn new(range: Range<u32>, used: &BTreeSet<u32>) -> Self {
        let next = used.last().map_or(range.start, |last| last.saturating_add(1).max(range.start));
        let free = (range.start..next.min(range.end)).filter(|id| !used.contains(id)).collect();
        Self { next: next.min(range.end), end: range.end, free }
    }

    /// Takes an id.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.free.pop_front() {
            return Some(id);
        }
        let id = (self.next < self.end).then_some(self.next)?;
        self.next += 1;
        Some(id)
    }

    /// Gives an id back that was taken.
    pub fn put(&mut self, id: u32) {
        debug_assert!(id < self.next && !self.free.contains(&id), "id {id} was not taken");
        self.free.push_back(id);
    }

    /// How many can be taken.
    pub fn available(&self) -> u64 {
        u64::from(self.end - self.next) + self.free.len() as u64
    }
}

/// Extents of consecutive chunks.
#[derive(Debug)]
pub struct Extents {
    ranges: RangeAllocator<u32>,
    end: u32,
    used: u32,
}

// === impl Extents ===

impl Extents {
    /// All chunks below `end` but the `used` ones. Extents that overlap another or the end are
    /// refused; the caller must treat what they held as lost. Returns the refused ones' indices.
    pub fn new(end: u32, used: &[Range<u32>]) -> (Self, BTreeSet<usize>) {
        let mut order: Vec<usize> = (0..used.len()).collect();
        order.sort_by_key(|index| (used[*index].start, used[*index].end));
        let mut refused = BTreeSet::new();
        let mut extents = Self { ranges: RangeAllocator::new(0..end), end, used: 0 };
        if end == 0 {
            return (extents, (0..used.len()).collect());
        }
        // The allocator cannot take a given range: take all, then give back the gaps.
        let taken = extents.ranges.allocate_range(end).is_ok();
        debug_assert!(taken, "a fresh allocator has its whole range");
        let mut covered = 0;
        for index in order {
            let range = &used[index];
            if range.start < covered || range.end > end || range.is_empty() {
                refused.insert(index);
                continue;
            }
            if range.start > covered {
                extents.ranges.free_range(covered..range.start);
            }
            covered = range.end;
            extents.used += range.end - range.start;
        }
        if covered < end {
            extents.ranges.free_range(covered..end);
        }
        (extents, refused)
    }

    /// Takes an extent that holds `slots` slots.
    pub fn take(&mut self, slots: usize) -> Option<Range<u32>> {
        let chunks = u32::try_from(slots.div_ceil(CHUNK_SLOTS)).ok().filter(|n| *n > 0)?;
        if chunks > self.end - self.used {
            return None;
        }
        let range = self.ranges.allocate_range(chunks).ok()?;
        self.used += chunks;
        Some(range)
    }

    /// Gives an extent back that was taken.
    pub fn put(&mut self, range: Range<u32>) {
        self.used -= range.end - range.start;
        self.ranges.free_range(range);
    }

    /// How many chunks are free, though perhaps not in a row.
    pub const fn available(&self) -> u64 {
        (self.end - self.used) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rest_before_they_return() {
        let mut ids = Ids::new(1..4, &BTreeSet::new());
        assert_eq!([ids.take(), ids.take()], [Some(1), Some(2)]);
        ids.put(2);
        ids.put(1);
        assert_eq!(ids.available(), 3);
        assert_eq!(
            [ids.take(), ids.take(), ids.take(), ids.take()],
            [Some(2), Some(1), Some(3), None]
        );
    }

    #[test]
    fn adopted_ids_are_taken() {
        let mut ids = Ids::new(1..6, &BTreeSet::from([2, 4]));
        assert_eq!(ids.available(), 3);
        assert_eq!(
            [ids.take(), ids.take(), ids.take(), ids.take()],
            [Some(1), Some(3), Some(5), None]
        );
    }

    #[test]
    fn adopted_extents_are_taken_and_damaged_ones_refused() {
        let (mut extents, refused) = Extents::new(8, &[4..6, 1..2, 5..7, 7..9]);
        assert_eq!(refused, BTreeSet::from([2, 3]));
        assert_eq!(extents.available(), 5);
        assert_eq!(extents.take(33), None, "no three in a row but 6..8 and 2..4");
        assert_eq!(extents.take(32), Some(2..4));
        assert_eq!(extents.take(1), Some(0..1));
        extents.put(4..6);
        assert_eq!(extents.take(64), Some(4..8));
        assert_eq!(extents.take(1), None);
        assert_eq!(extents.take(0), None);
    }
}
