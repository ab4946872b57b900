//! What the kernel would pick for a pod's next connection: its own choice functions, on a copy of its state.
//!
//! Pure, and so tested without a kernel: `crate::datapath` reads the state, this decides, and
//! nothing is changed by either.

use balancer_common::{
    backend::{Backend, STATE_ACTIVE},
    pick::{self, Load, SCAN_SLOTS_MAX},
    pod::Affinity,
    reason::Reason,
    service::{
        Bank, POLICY_LEAST_CONNECTION, POLICY_LEAST_REQUEST, POLICY_MAGLEV, POLICY_RANDOM,
        policy_name,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that the kernel looks at for a pick.
pub(super) struct Facts<'a> {
    pub(super) service: u32,
    pub(super) bank: Bank,
    /// Backend ids in the slots for the frontend's family.
    pub(super) slots: &'a [u32],
    pub(super) backends: &'a BTreeMap<u32, Backend>,
    /// Live connections by backend id.
    pub(super) active: &'a BTreeMap<u32, u64>,
    /// Requests in flight by backend id.
    pub(super) requests: &'a BTreeMap<u32, u64>,
    /// Backends that are passed over while others serve.
    pub(super) ejected: &'a BTreeSet<u32>,
    pub(super) pod: u64,
    /// The service's cursor, which a pod starts from.
    pub(super) shared_cursor: u64,
    pub(super) pod_cursor: Option<u64>,
    pub(super) affinity: Option<Affinity>,
    pub(super) now_ns: u64,
}

/// What the kernel would do.
#[derive(Debug, PartialEq)]
pub(super) struct Decision {
    pub(super) reason: Reason,
    /// Possible backends by id, each with its probability; one at 1 when nothing is left to chance.
    pub(super) chances: BTreeMap<u32, f64>,
    /// How it comes to that: what is looked at, and what is found.
    pub(super) steps: Vec<(&'static str, String)>,
}

impl Facts<'_> {
    /// Follows the kernel's steps.
    pub(super) fn decide(&self) -> Decision {
        let mut steps = Vec::new();
        if self.slots.is_empty() {
            steps.push(("schedule", "has no slots: no backend takes new connections".into()));
            return untouched(Reason::NoBackend, steps);
        }
        let slots = count(self.slots.len());
        let in_schedule: BTreeSet<_> = self.slots.iter().collect();
        let backends = in_schedule.len();
        steps.push(("schedule", format!("{slots} slots for {backends} backends")));
        if let Some(id) = self.kept(&mut steps) {
            let chances = BTreeMap::from([(id, 1.0)]);
            return Decision { reason: Reason::AffinityKept, chances, steps };
        }
        let taken = self.slots_taken(slots, &mut steps);
        let (mut chances, mut passed_over) = (BTreeMap::new(), BTreeSet::new());
        for (slot, chance) in taken {
            let admitted = self.admitted(slot, slots);
            if admitted != slot {
                passed_over.insert(slot);
            }
            *chances.entry(self.slots[admitted as usize]).or_insert(0.0) += chance;
        }
        for slot in &passed_over {
            let id = self.slots[*slot as usize];
            let text =
                format!("backend {id} of slot {slot} is ejected: the next one takes its place");
            steps.push(("ejection", text));
        }
        if chances.keys().all(|id| !self.is_usable(*id)) {
            let text = "leads to no backend of the service that takes new connections";
            steps.push(("slot", text.into()));
            return untouched(Reason::BackendMissing, steps);
        }
        // Where chance decides, only some cases may be passed over.
        let certain = chances.len() == 1 && passed_over.len() == 1;
        let reason = if certain { Reason::EjectedPassedOver } else { Reason::Picked };
        Decision { reason, chances, steps }
    }

    /// The slot that is taken instead, if that one's backend is ejected and another one's is not.
    fn admitted(&self, slot: u32, slots: u32) -> u32 {
        let is_ejected =
            |slot: u32| self.slots.get(slot as usize).is_none_or(|id| self.ejected.contains(id));
        if !is_ejected(slot) {
            return slot;
        }
        pick::next_admitted(slot, slots, is_ejected).unwrap_or(slot)
    }

    /// The backend that session affinity keeps.
    fn kept(&self, steps: &mut Vec<(&'static str, String)>) -> Option<u32> {
        let affinity_s = self.bank.affinity_s;
        if affinity_s == 0 {
            steps.push(("affinity", "off".into()));
            return None;
        }
        let Some(affinity) = self.affinity else {
            steps.push(("affinity", "the pod has none yet".into()));
            return None;
        };
        let id = affinity.backend;
        if !affinity.holds(self.now_ns, affinity_s) {
            let text = format!("that to backend {id} has run out after {affinity_s} s without use");
            steps.push(("affinity", text));
            return None;
        }
        let same = |backend: &Backend| backend.incarnation == affinity.incarnation;
        if !self.is_usable(id) || !self.backends.get(&id).is_some_and(same) {
            let text = format!("backend {id} takes no new connections any more");
            steps.push(("affinity", text));
            return None;
        }
        if self.ejected.contains(&id) {
            steps.push(("affinity", format!("backend {id} is ejected")));
            return None;
        }
        let idle_s = self.now_ns.saturating_sub(affinity.used_ns) / 1_000_000_000;
        let left_s = u64::from(affinity_s).saturating_sub(idle_s);
        let text = format!("holds backend {id} for another {left_s} s, and each use renews it");
        steps.push(("affinity", text));
        Some(id)
    }

    /// The slots that may be taken, each with its probability.
    fn slots_taken(
        &self,
        slots: u32,
        steps: &mut Vec<(&'static str, String)>,
    ) -> BTreeMap<u32, f64> {
        let name = policy_name(self.bank.policy);
        let certain = |slot| BTreeMap::from([(slot, 1.0)]);
        match self.bank.policy {
            POLICY_RANDOM => {
                steps.push(("policy", format!("{name}: each slot alike, 1 in {slots}")));
                (0..slots).map(|slot| (slot, 1.0 / f64::from(slots))).collect()
            }
            POLICY_MAGLEV => {
                let slot = pick::slot_of_cursor(pick::mix(self.pod), slots);
                let pod = self.pod;
                let text = format!("{name}: pod {pod} hashes to slot {slot}, the same every time");
                steps.push(("policy", text));
                certain(slot)
            }
            POLICY_LEAST_CONNECTION | POLICY_LEAST_REQUEST => {
                let cursor = self.cursor(steps);
                if self.counts_requests() {
                    let text = "connections, and requests in flight on those that are followed";
                    steps.push(("load", text.into()));
                }
                let first = pick::slot_of_cursor(cursor, slots);
                if slots <= SCAN_SLOTS_MAX {
                    let text = format!(
                        "{name}: the least loaded for its weight of all {slots} slots, equals in \
                         turn from slot {first} on"
                    );
                    steps.push(("policy", text));
                    return certain(self.least_loaded(cursor, 0, slots));
                }
                let text = format!(
                    "{name}: the less loaded for its weight of slot {first} and another one at \
                     random"
                );
                steps.push(("policy", text));
                // The kernel's random number counts by its remainder only: these are all cases.
                let cases = slots - 1;
                let mut taken = BTreeMap::new();
                for random in 0..cases {
                    let slot = self.least_loaded(cursor, random, slots);
                    *taken.entry(slot).or_insert(0.0) += 1.0 / f64::from(cases);
                }
                taken
            }
            _ => {
                let slot = pick::slot_of_cursor(self.cursor(steps), slots);
                steps.push(("policy", format!("{name}: the cursor stands on slot {slot}")));
                certain(slot)
            }
        }
    }

    fn least_loaded(&self, cursor: u64, random: u32, slots: u32) -> u32 {
        pick::least_loaded(
            cursor,
            || random,
            slots,
            |slot| {
                let id = *self.slots.get(slot as usize)?;
                if self.ejected.contains(&id) {
                    return None;
                }
                let weight = self.backends.get(&id).map_or(0, |backend| backend.weight);
                let count =
                    |loads: &BTreeMap<u32, u64>| loads.get(&id).copied().unwrap_or_default();
                let requests = if self.counts_requests() { count(self.requests) } else { 0 };
                Some(Load { active: count(self.active) + requests, weight })
            },
        )
    }

    fn counts_requests(&self) -> bool {
        self.bank.policy == POLICY_LEAST_REQUEST
    }

    /// The pod's own cursor; a pod without one starts from the service's.
    fn cursor(&self, steps: &mut Vec<(&'static str, String)>) -> u64 {
        if let Some(cursor) = self.pod_cursor {
            steps.push(("cursor", format!("the pod's own stands at {cursor}")));
            return cursor;
        }
        let cursor = self.shared_cursor;
        let text = format!("the pod has none yet, and starts from the service's at {cursor}");
        steps.push(("cursor", text));
        cursor
    }

    /// Whether the kernel sends new connections of this service there.
    pub(super) fn is_usable(&self, id: u32) -> bool {
        let backend = self.backends.get(&id);
        backend.is_some_and(|it| it.state == STATE_ACTIVE && it.service == self.service)
    }
}

fn untouched(reason: Reason, steps: Vec<(&'static str, String)>) -> Decision {
    let chances = BTreeMap::new();
    Decision { reason, chances, steps }
}

fn count(slots: usize) -> u32 {
    u32::try_from(slots).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_common::service::{POLICY_ROUND_ROBIN, Schedule};

    struct State {
        slots: Vec<u32>,
        backends: BTreeMap<u32, Backend>,
        active: BTreeMap<u32, u64>,
        requests: BTreeMap<u32, u64>,
        ejected: BTreeSet<u32>,
    }

    /// Backends 1.. of service 9 with these loads, one slot each.
    fn state(active: &[u64]) -> State {
        let ids = 1..=u32::try_from(active.len()).unwrap();
        let backend = Backend {
            state: STATE_ACTIVE,
            service: 9,
            weight: 1,
            incarnation: 5,
            ..Backend::default()
        };
        State {
            slots: ids.clone().collect(),
            backends: ids.clone().map(|id| (id, backend)).collect(),
            active: ids.zip(active.iter().copied()).collect(),
            requests: BTreeMap::new(),
            ejected: BTreeSet::new(),
        }
    }

    fn facts(state: &State, policy: u32) -> Facts<'_> {
        let schedule = Schedule { chunk: 0, slots: count(state.slots.len()) };
        Facts {
            service: 9,
            bank: Bank { v4: schedule, v6: schedule, policy, affinity_s: 0 },
            slots: &state.slots,
            backends: &state.backends,
            active: &state.active,
            requests: &state.requests,
            ejected: &state.ejected,
            pod: 77,
            shared_cursor: 2,
            pod_cursor: None,
            affinity: None,
            now_ns: 50_000_000_000,
        }
    }

    fn only(decision: &Decision) -> u32 {
        assert_eq!(decision.reason, Reason::Picked);
        assert_eq!(decision.chances.len(), 1, "{decision:?}");
        *decision.chances.keys().next().unwrap()
    }

    #[test]
    fn round_robin_takes_the_pods_cursor_and_else_the_services() {
        let state = state(&[0; 4]);
        let mut facts = facts(&state, POLICY_ROUND_ROBIN);
        assert_eq!(only(&facts.decide()), 3);
        facts.pod_cursor = Some(7);
        assert_eq!(only(&facts.decide()), 4);
    }

    #[test]
    fn least_connection_takes_the_least_loaded() {
        let state = state(&[3, 2, 3, 2]);
        assert_eq!(only(&facts(&state, POLICY_LEAST_CONNECTION).decide()), 4);
    }

    #[test]
    fn least_request_counts_requests_as_well() {
        let mut state = state(&[1, 2, 3, 3]);
        assert_eq!(only(&facts(&state, POLICY_LEAST_REQUEST).decide()), 1, "there are none");
        state.requests = BTreeMap::from([(1, 5), (2, 2)]);
        let decision = facts(&state, POLICY_LEAST_REQUEST).decide();
        assert_eq!(only(&decision), 3);
        assert!(decision.steps.iter().any(|(_, text)| text.contains("requests in flight")));
        assert_eq!(only(&facts(&state, POLICY_LEAST_CONNECTION).decide()), 1);
    }

    #[test]
    fn two_choices_are_told_with_their_chances() {
        // Slot 2 is busier than slots 0 and 1, and even with all others.
        let mut active = [5; 21];
        (active[0], active[1]) = (0, 0);
        let state = state(&active);
        let decision = facts(&state, POLICY_LEAST_CONNECTION).decide();
        let chance = |id| decision.chances[&id];
        assert!((chance(1) - 1.0 / 20.0).abs() < 1e-9);
        assert!((chance(3) - 18.0 / 20.0).abs() < 1e-9, "{decision:?}");
        assert!((decision.chances.values().sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn random_weighs_by_slots_and_maglev_stays() {
        let mut state = state(&[0, 0]);
        state.slots = vec![1, 2, 2, 2];
        let decision = facts(&state, POLICY_RANDOM).decide();
        assert!((decision.chances[&2] - 0.75).abs() < 1e-9);
        let slot = pick::slot_of_cursor(pick::mix(77), 4);
        let expected = state.slots[slot as usize];
        assert_eq!(only(&facts(&state, POLICY_MAGLEV).decide()), expected);
    }

    #[test]
    fn affinity_holds_until_it_runs_out_or_its_backend_leaves() {
        let mut state = state(&[0; 4]);
        let affinity = Affinity { used_ns: 45_000_000_000, backend: 2, incarnation: 5 };
        let decide = |state: &State, affinity, affinity_s| {
            let mut facts = facts(state, POLICY_ROUND_ROBIN);
            facts.bank.affinity_s = affinity_s;
            facts.affinity = Some(affinity);
            facts.decide()
        };
        let kept = decide(&state, affinity, 60);
        assert_eq!(kept.reason, Reason::AffinityKept);
        assert_eq!(kept.chances, BTreeMap::from([(2, 1.0)]));
        assert!(kept.steps[1].1.contains("another 55 s"), "{kept:?}");
        assert_eq!(only(&decide(&state, affinity, 5)), 3);
        let incarnation = 4;
        let successor = Affinity { incarnation, ..affinity };
        assert_eq!(only(&decide(&state, successor, 60)), 3);
        state.backends.get_mut(&2).unwrap().state = balancer_common::backend::STATE_DRAINING;
        assert_eq!(only(&decide(&state, affinity, 60)), 3);
    }

    #[test]
    fn an_ejected_backend_is_passed_over_while_another_serves() {
        let mut state = state(&[0; 4]);
        state.ejected = BTreeSet::from([3, 4]);
        let decision = facts(&state, POLICY_ROUND_ROBIN).decide();
        assert_eq!(decision.reason, Reason::EjectedPassedOver);
        assert_eq!(decision.chances, BTreeMap::from([(1, 1.0)]), "slot 2 leads to backend 3");
        assert_eq!(only(&facts(&state, POLICY_LEAST_CONNECTION).decide()), 1);
        let mut sticky = facts(&state, POLICY_ROUND_ROBIN);
        sticky.bank.affinity_s = 60;
        sticky.affinity = Some(Affinity { used_ns: 45_000_000_000, backend: 3, incarnation: 5 });
        assert_eq!(sticky.decide().chances, BTreeMap::from([(1, 1.0)]));
        state.ejected = BTreeSet::from([1, 2, 3, 4]);
        assert_eq!(only(&facts(&state, POLICY_ROUND_ROBIN).decide()), 3, "somebody has to try");
    }

    #[test]
    fn what_is_left_untouched_has_its_reason() {
        let mut state = state(&[]);
        assert_eq!(facts(&state, POLICY_RANDOM).decide().reason, Reason::NoBackend);
        state.slots = vec![6];
        assert_eq!(facts(&state, POLICY_RANDOM).decide().reason, Reason::BackendMissing);
    }
}
