//! The Kubernetes part of `status`, as the agent's health report tells.

use crate::cli::page::{Page, or_dash};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Changes that may have gone unseen for longer than this are worth a complaint.
const STALENESS_MS_MAX: u64 = 60_000;

/// The connection to the cluster.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Cluster {
    pub(super) synced: bool,
    pub(super) staleness_ms: u64,
    pub(super) watches: Vec<Watch>,
    pub(super) counts: Counts,
    pub(super) problems_total: usize,
    pub(super) problems_about: BTreeMap<String, usize>,
    pub(super) problems: Vec<String>,
    pub(super) events_written: u64,
    pub(super) events_failed: u64,
    pub(super) triggers_ignored: u64,
}

/// One watch.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Watch {
    pub(super) kind: String,
    pub(super) synced: bool,
    pub(super) last_event_age_ms: Option<u64>,
    pub(super) staleness_ms: u64,
    pub(super) scopes: usize,
    pub(super) lists: u64,
    pub(super) restarts: u64,
    pub(super) errors: u64,
    pub(super) last_error: Option<String>,
    pub(super) last_error_age_ms: Option<u64>,
}

/// How much is known.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) services: usize,
    pub(super) services_balanced: usize,
    pub(super) slices: usize,
    pub(super) addresses: usize,
    pub(super) refused: u64,
    pub(super) outdated: u64,
}

// === impl Cluster ===

impl Cluster {
    /// What is wrong with it. Mistakes in single Services are their owners' and no complaint.
    pub(super) fn complaint(&self) -> Option<String> {
        if self.synced && self.staleness_ms <= STALENESS_MS_MAX {
            return None;
        }
        let failing = self.watches.iter().filter(|it| !it.synced || it.staleness_ms > 0);
        let mut errors = failing.filter_map(|watch| watch.last_error.as_deref());
        let error = errors.next_back().unwrap_or("no answer yet");
        let (state, meanwhile) = if self.synced {
            let age_s = self.staleness_ms / 1_000;
            (format!("unseen for {age_s}s"), "what was known stays in force")
        } else {
            ("not known yet".to_owned(), "what is pinned stays in force")
        };
        Some(format!(
            "Kubernetes: services are {state}: {error}; {meanwhile}; hint: check that the API server \
             can be reached from this node, and the agent's ClusterRole"
        ))
    }

    /// As people read it.
    pub(super) fn lay_out(&self, page: &mut Page) {
        page.heading("kubernetes");
        let counts = &self.counts;
        page.pairs(&[
            (
                "services",
                format!("{} of {} are balanced", counts.services_balanced, counts.services),
            ),
            ("slices", format!("{} with {} addresses", counts.slices, counts.addresses)),
            ("refused", format!("{} so far, {} now", counts.refused, self.problems_total)),
            ("events", format!("{} written, {} failed", self.events_written, self.events_failed)),
        ]);
        let age_s = |ms: Option<u64>| or_dash(ms.map(|ms| format!("{}s", ms / 1_000)));
        let rows = self.watches.iter().map(|watch| {
            let state = match (watch.synced, watch.staleness_ms) {
                (false, _) => "waiting",
                (true, 0) => "synced",
                (true, _) => "stale",
            };
            vec![
                watch.kind.clone(),
                state.to_owned(),
                age_s(watch.last_event_age_ms),
                watch.errors.to_string(),
                or_dash(watch.last_error.as_ref()),
            ]
        });
        page.table(&["watch", "state", "#last event", "#errors", "~last error"], rows.collect());
        page.list("refused", &self.problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::kubernetes::KubernetesHealth;

    #[test]
    fn the_agents_report_is_read_and_a_silent_api_is_a_complaint() {
        let report = serde_json::to_value(KubernetesHealth::default().snapshot()).unwrap();
        let mut cluster: Cluster = serde_json::from_value(report.clone()).unwrap();
        assert_eq!(serde_json::to_value(&cluster).unwrap(), report, "nothing is left out");
        assert!(cluster.complaint().unwrap().contains("what is pinned stays in force"));
        cluster.synced = true;
        assert_eq!(cluster.complaint(), None);
        cluster.staleness_ms = 61_000;
        assert!(cluster.complaint().unwrap().contains("unseen for 61s"));
    }
}
