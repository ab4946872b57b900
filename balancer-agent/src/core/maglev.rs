//! Maglev consistent hashing (Eisenbud et al., NSDI 2016, section 3.4), with weights.
//!
//! A table depends on the backends' addresses and weights alone: all nodes build the same one.

use super::schedule::Candidate;
use balancer_common::pick::mix;
use std::net::IpAddr;

/// Table sizes, all prime (each skip must visit every slot). Few sizes, far apart: when a set of
/// backends grows into the next size, most keys move once.
pub const SIZES: [u32; 4] = [1_021, 4_093, 16_381, 65_521];

/// Slots per backend below which shares become uneven (section 5.3: at 100 and more, the share of
/// no backend is more than 1 % off).
pub const SLOTS_PER_BACKEND_MIN: u32 = 100;

/// The slots of the table, each an index into `candidates`; `None` if there are more than fit.
pub fn table(candidates: &[Candidate]) -> Option<Vec<u32>> {
    let count = u32::try_from(candidates.len()).ok()?;
    let size = size_for(count)?;
    if count <= 1 {
        return Some((0..count).collect());
    }
    let weight_max = candidates.iter().map(|c| c.weight.max(1)).max()?;
    let mut walks: Vec<Walk> =
        (0..).zip(candidates).map(|(index, c)| Walk::new(index, c, size)).collect();
    let mut slots = vec![u32::MAX; size as usize];
    let mut left = size;
    let mut round: u64 = 0;
    // Ends: the heaviest takes a slot in each round.
    while left > 0 {
        round += 1;
        for walk in &mut walks {
            // A weight of w out of the largest takes w turns in as many rounds.
            if left == 0 || round * walk.weight < walk.due {
                continue;
            }
            walk.due += u64::from(weight_max);
            let Some(slot) = walk.take(&slots) else {
                continue;
            };
            slots[slot] = walk.index;
            left -= 1;
        }
    }
    Some(slots)
}

/// The smallest size with [`SLOTS_PER_BACKEND_MIN`] slots for each of `backends`, or the largest.
fn size_for(backends: u32) -> Option<u32> {
    let wanted = u64::from(backends) * u64::from(SLOTS_PER_BACKEND_MIN);
    let last = SIZES.last().copied().filter(|last| backends <= *last)?;
    Some(SIZES.iter().copied().find(|size| u64::from(*size) >= wanted).unwrap_or(last))
}

/// One backend's way through the slots: its permutation of them.
struct Walk {
    index: u32,
    weight: u64,
    due: u64,
    next: u32,
    skip: u32,
    size: u32,
}

// === impl Walk ===

impl Walk {
    fn new(index: u32, candidate: &Candidate, size: u32) -> Self {
        let octets = match candidate.address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let address = u128::from_be_bytes(octets);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
        let (high, low) = ((address >> 64) as u64, address as u64);
        let offset_hash = mix(mix(mix(high) ^ low) ^ u64::from(candidate.address.port()));
        let skip_hash = mix(!offset_hash);
        let below = |hash: u64, end: u32| u32::try_from(hash % u64::from(end)).unwrap_or_default();
        let next = below(offset_hash, size);
        let skip = below(skip_hash, size - 1) + 1;
        let weight = candidate.weight.max(1);
        Self { index, weight: u64::from(weight), due: u64::from(weight), next, skip, size }
    }

    /// The next slot of the permutation that is free; none only if the table is full.
    fn take(&mut self, slots: &[u32]) -> Option<usize> {
        for _ in 0..self.size {
            let slot = self.next as usize;
            self.next = (self.next + self.skip) % self.size;
            if slots[slot] == u32::MAX {
                return Some(slot);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    fn candidates(count: u8) -> Vec<Candidate> {
        let address = |n| SocketAddr::from(([10, 0, 0, n], 80));
        (0..count).map(|n| Candidate { address: address(n), weight: 1 }).collect()
    }

    fn share(slots: &[u32], index: u32) -> f64 {
        let own = slots.iter().filter(|slot| **slot == index).count();
        let exact = |count: usize| f64::from(u32::try_from(count).unwrap());
        exact(own) / exact(slots.len())
    }

    #[test]
    fn sizes_are_prime() {
        for size in SIZES {
            assert!((2..256).all(|divisor| size % divisor != 0), "{size}");
        }
    }

    #[test]
    fn shares_are_even() {
        for count in [2, 10, 40, 200] {
            let slots = table(&candidates(count)).unwrap();
            for index in 0..u32::from(count) {
                let relative = share(&slots, index) * f64::from(count);
                assert!((0.97..1.03).contains(&relative), "{relative} of {count}");
            }
        }
    }

    #[test]
    fn shares_follow_weights() {
        let mut candidates = candidates(3);
        candidates[0].weight = 2;
        let slots = table(&candidates).unwrap();
        assert!((share(&slots, 0) - 0.5).abs() < 0.01);
        assert!((share(&slots, 1) - 0.25).abs() < 0.01);
    }

    proptest! {
        #[test]
        fn a_backend_that_leaves_moves_few_others(count in 3u8..10, leaves: prop::sample::Index) {
            let all = candidates(count);
            let leaves = leaves.index(all.len());
            let mut rest = all.clone();
            rest.remove(leaves);
            let (before, after) = (table(&all).unwrap(), table(&rest).unwrap());
            prop_assert_eq!(before.len(), after.len());
            let moved = before
                .iter()
                .zip(&after)
                .filter(|(b, a)| all[**b as usize].address != rest[**a as usize].address)
                .filter(|(b, _)| **b as usize != leaves)
                .count();
            // Section 5.3: a few per cent of the keys of backends that stay.
            prop_assert!(moved * 10 < before.len(), "{} of {} moved", moved, before.len());
        }
    }
}
