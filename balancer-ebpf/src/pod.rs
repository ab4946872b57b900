//! The client's pod: told by an ancestor of the calling task's cgroup, so that a container which started
//! a moment ago belongs to its pod before the agent has heard of either.

use crate::{context, lookup};
use balancer_common::hierarchy::SEARCH_LEVELS_MAX;

/// The cgroup id of the calling task's pod; outside of all pods that of the task's own cgroup.
// VERIFIER: a function of its own, so that its loop is not verified for every path that leads on
// from it, and so that it has registers of its own.
#[inline(never)]
pub(crate) fn current() -> u64 {
    match current_below_kubepods() {
        Some(pod) => pod,
        None => context::current_cgroup(),
    }
}

#[inline(always)]
fn current_below_kubepods() -> Option<u64> {
    let hierarchy = lookup::hierarchy()?;
    let kubepods = hierarchy.kubepods();
    if kubepods == 0 {
        return None;
    }
    let (level_min, search_levels) = hierarchy.levels();
    // VERIFIER: a constant bound; loops with one are accepted from Linux 5.3 on.
    for offset in 0..=SEARCH_LEVELS_MAX {
        if offset > search_levels {
            return None;
        }
        let level = level_min + offset;
        let ancestor = context::current_ancestor(level);
        if ancestor == kubepods {
            let child = context::current_ancestor(level + 1);
            let pod = if hierarchy.is_quality_class(child) {
                context::current_ancestor(level + 2)
            } else {
                child
            };
            return (pod != 0).then_some(pod);
        }
        if ancestor == 0 {
            return None;
        }
    }
    None
}
