//! Choosing a slot: the pure half of every policy, run by the kernel and by `explain` alike.

/// Least-connection and least-request look at every slot up to this many, and at two candidates beyond.
pub const SCAN_SLOTS_MAX: u32 = 16;

/// The slot that a cursor stands on.
#[inline(always)]
#[expect(clippy::inline_always, reason = "kernel programs must not call out for arithmetic")]
#[expect(clippy::cast_possible_truncation, reason = "the remainder is below a u32")]
pub const fn slot_of_cursor(cursor: u64, slots: u32) -> u32 {
    if slots == 0 { 0 } else { (cursor % slots as u64) as u32 }
}

/// Spreads neighbouring keys over all 64 bits (the finaliser of `SplitMix64`, Steele et al. 2014).
///
/// Cgroup ids are small consecutive numbers; a table lookup by their remainder would put
/// neighbours next to each other.
#[inline(always)]
#[expect(clippy::inline_always, reason = "kernel programs must not call out for arithmetic")]
pub const fn mix(key: u64) -> u64 {
    let key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let key = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let key = (key ^ (key >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ (key >> 31)
}

/// How loaded a candidate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Connections that it has, and requests in flight if those count.
    pub active: u64,
    /// Its weight; zero counts as one.
    pub weight: u32,
}

impl Load {
    /// Whether one more connection would load this candidate less than the other, for its weight.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs must not call out for a compare")]
    pub const fn is_below(self, other: Self) -> bool {
        let (own_weight, other_weight) = (self.weight as u64, other.weight as u64);
        // Connection counts are bounded by the flow table, weights by the configuration: neither
        // product comes near 64 bits.
        (self.active.wrapping_add(1)).wrapping_mul(if other_weight == 0 { 1 } else { other_weight })
            < (other.active.wrapping_add(1)).wrapping_mul(if own_weight == 0 {
                1
            } else {
                own_weight
            })
    }
}

/// The slot with the least load, looking from the cursor's slot on, so that equals take turns.
///
/// Small schedules are searched whole. In larger ones the cursor's slot competes with one at
/// random (`random`, asked only then), the "power of two choices" (Mitzenmacher 2001; Envoy's
/// least-request). `load_of` returns `None` for a slot that cannot be used.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the closure must be inlined for the verifier")]
pub fn least_loaded(
    cursor: u64,
    random: impl FnOnce() -> u32,
    slots: u32,
    load_of: impl Fn(u32) -> Option<Load>,
) -> u32 {
    let first = slot_of_cursor(cursor, slots);
    if slots <= 1 {
        return first;
    }
    let mut best = first;
    let mut best_load = load_of(first);
    if slots > SCAN_SLOTS_MAX {
        let second =
            slot_of_cursor(u64::from(first) + 1 + u64::from(random() % (slots - 1)), slots);
        return if is_better(load_of(second), best_load) { second } else { first };
    }
    // VERIFIER: a constant bound; loops with one are accepted from Linux 5.3 on. Each slot is derived
    // anew from the first: a running position that wraps would have as many states as slots.
    for step in 1..SCAN_SLOTS_MAX {
        if step >= slots {
            break;
        }
        let ahead = first + step;
        let slot = if ahead >= slots { ahead - slots } else { ahead };
        let load = load_of(slot);
        if is_better(load, best_load) {
            best = slot;
            best_load = load;
        }
    }
    best
}

/// The nearest slot after `first` that is not ejected, at most [`SCAN_SLOTS_MAX`] slots ahead.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the closure must be inlined for the verifier")]
pub fn next_admitted(first: u32, slots: u32, is_ejected: impl Fn(u32) -> bool) -> Option<u32> {
    // VERIFIER: as in `least_loaded`.
    for step in 1..=SCAN_SLOTS_MAX {
        if step >= slots {
            break;
        }
        let ahead = first + step;
        let slot = if ahead >= slots { ahead - slots } else { ahead };
        if !is_ejected(slot) {
            return Some(slot);
        }
    }
    None
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "kernel programs must not call out for a compare")]
fn is_better(candidate: Option<Load>, best: Option<Load>) -> bool {
    match (candidate, best) {
        (Some(candidate), Some(best)) => candidate.is_below(best),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Deals `count` connections and returns how many each slot got.
    fn deal(count: u64, weights: &[u32]) -> Vec<u64> {
        let mut active = vec![0; weights.len()];
        for cursor in 0..count {
            let slots = u32::try_from(weights.len()).unwrap();
            let slot = least_loaded(
                cursor,
                || 7,
                slots,
                |slot| Some(Load { active: active[slot as usize], weight: weights[slot as usize] }),
            );
            active[slot as usize] += 1;
        }
        active
    }

    #[test]
    fn least_connection_deals_evenly_and_by_weight() {
        assert_eq!(deal(32, &[1, 1, 1, 1]), [8, 8, 8, 8]);
        assert_eq!(deal(40, &[1, 3]), [10, 30]);
        assert_eq!(deal(5, &[0]), [5]);
    }

    #[test]
    fn unusable_slots_are_passed_over() {
        let only_third = |slot| (slot == 2).then_some(Load { active: 9, weight: 1 });
        assert_eq!(least_loaded(0, || 0, 4, only_third), 2);
    }

    #[test]
    fn ejected_slots_are_passed_over_in_order() {
        assert_eq!(next_admitted(1, 4, |slot| slot != 0), Some(0));
        assert_eq!(next_admitted(0, 4, |slot| slot == 1), Some(2));
        assert_eq!(next_admitted(0, 4, |_| true), None);
        assert_eq!(next_admitted(0, 1, |_| false), None, "there is no other");
        let far = SCAN_SLOTS_MAX + 1;
        assert_eq!(next_admitted(0, 100, |slot| slot < far), None, "the search is bounded");
        assert_eq!(next_admitted(0, 100, |slot| slot < far - 1), Some(SCAN_SLOTS_MAX));
    }

    proptest! {
        #[test]
        fn a_small_set_always_yields_a_minimum(
            cursor: u64, random: u32,
            active in proptest::collection::vec(0u64..1000, 1..=SCAN_SLOTS_MAX as usize),
        ) {
            let slots = u32::try_from(active.len()).unwrap();
            let slot = least_loaded(cursor, || random, slots, |slot| {
                Some(Load { active: active[slot as usize], weight: 1 })
            });
            prop_assert_eq!(active[slot as usize], *active.iter().min().unwrap());
        }

        #[test]
        fn two_choices_never_take_the_worse(
            cursor: u64, random: u32, slots in SCAN_SLOTS_MAX + 1..1000,
        ) {
            // Load rises with the slot: the winner is the lower of the two candidates.
            let slot = least_loaded(cursor, || random, slots, |slot| {
                Some(Load { active: u64::from(slot), weight: 1 })
            });
            prop_assert!(slot < slots && slot <= slot_of_cursor(cursor, slots));
        }
    }
}
