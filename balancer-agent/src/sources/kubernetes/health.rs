//! What the connection to the Kubernetes API is like at the moment, for `status` and for metrics.
//! It can be read at any time.

use super::annotation::ANNOTATIONS;
use crate::core::discovery::{ANNOTATION_PREFIX, Counts, ObjectProblem};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// Most problems that are listed; all of them are counted.
const PROBLEMS_SHOWN_MAX: usize = 100;

/// How long a watch must have gone on to count as one that works: that the version is gone is told right
/// behind the answer that all is well.
const SETTLED: Duration = Duration::from_secs(2);

/// What problems are about that are not about one of our annotations.
const OTHER_PROBLEMS: [&str; 4] =
    ["unknown-annotation", "external-dns", "service", "endpoint-slice"];

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Services.
    Services,
    /// EndpointSlices.
    EndpointSlices,
    /// The own Node.
    Node,
    /// Pods of the own Node.
    Pods,
    /// Namespaces.
    Namespaces,
    /// Pods that terminate, in namespaces with balanced Services.
    Farewells,
}

/// Reads the health of the Kubernetes source. Clones read the same.
#[derive(Clone, Debug)]
pub struct KubernetesHealth(Arc<watch::Sender<Record>>);

/// The health of the Kubernetes source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesReport {
    /// Whether every kind was listed, so that services are known.
    pub synced: bool,
    /// Longest time for which any kind's changes may have gone unseen, in milliseconds.
    pub staleness_ms: u64,
    /// Each watch.
    pub watches: Vec<WatchHealth>,
    /// How much is known.
    pub counts: Counts,
    /// How many problems there are.
    pub problems_total: usize,
    /// How many there are of each kind: annotations by their names behind [`ANNOTATION_PREFIX`].
    pub problems_about: BTreeMap<String, usize>,
    /// What is refused at the moment, the first of it.
    pub problems: Vec<String>,
    /// Kubernetes Events that were written so far.
    pub events_written: u64,
    /// Kubernetes Events so far that could not be written.
    pub events_failed: u64,
    /// Times at which changes began that were left out so far, as they cannot be.
    pub triggers_ignored: u64,
}

/// The health of one watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchHealth {
    /// What is watched.
    pub kind: Kind,
    /// Whether it was listed completely once.
    pub synced: bool,
    /// Milliseconds since the API last told something; a quiet cluster tells nothing.
    pub last_event_age_ms: Option<u64>,
    /// Milliseconds for which changes may have gone unseen; zero while the watch works.
    pub staleness_ms: u64,
    /// Watches that there are: one, or one for each namespace that is watched by itself.
    pub scopes: usize,
    /// Complete lists so far.
    pub lists: u64,
    /// Times that the watch began anew after an error.
    pub restarts: u64,
    /// Errors so far.
    pub errors: u64,
    /// The last error.
    pub last_error: Option<String>,
    /// Milliseconds since then.
    pub last_error_age_ms: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Record {
    kinds: &'static [Kind],
    watches: [Watch; 6],
    counts: Counts,
    problems_total: usize,
    problems_about: BTreeMap<String, usize>,
    problems: Vec<String>,
    events_written: u64,
    events_failed: u64,
    triggers_ignored: u64,
}

#[derive(Debug, Default)]
struct Watch {
    synced: bool,
    scopes: Option<usize>,
    event_at: Option<Instant>,
    failing_since: Option<Instant>,
    /// When the API server agreed to watch, unless there was an error since.
    answered_at: Option<Instant>,
    lists: u64,
    restarts: u64,
    errors: u64,
    error: Option<(Instant, String)>,
}

// === impl Kind ===

impl Kind {
    /// The kinds that services come from.
    pub const OF_SERVICES: &'static [Self] = &[Self::Services, Self::EndpointSlices, Self::Node];
    /// The kinds that tell of this node's pods.
    pub const OF_PODS: &'static [Self] = &[Self::Pods, Self::Namespaces];

    /// The kind that tells which pods terminate. Nothing waits for it.
    pub const OF_FAREWELLS: &'static [Self] = &[Self::Farewells];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::EndpointSlices => "endpoint-slices",
            Self::Node => "node",
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::Farewells => "farewells",
        }
    }
}

// === impl KubernetesReport ===

impl KubernetesReport {
    /// The kinds that were not listed yet, each with the latest error. Not the pods' own word on
    /// their end: nothing depends on that.
    pub fn waiting(&self) -> impl Iterator<Item = String> {
        let waiting = self.watches.iter().filter(|it| !it.synced && it.kind != Kind::Farewells);
        waiting.map(|watch| {
            let error = watch.last_error.as_ref().map(|error| format!(" ({error})"));
            format!("{} of Kubernetes{}", watch.kind.name(), error.unwrap_or_default())
        })
    }
}

// === impl KubernetesHealth ===

impl Default for KubernetesHealth {
    fn default() -> Self {
        Self::of(Kind::OF_SERVICES)
    }
}

impl KubernetesHealth {
    /// The health of watches of these kinds.
    pub(super) fn of(kinds: &'static [Kind]) -> Self {
        Self(Arc::new(watch::Sender::new(Record {
            kinds,
            watches: Default::default(),
            counts: Counts::default(),
            problems_total: 0,
            problems_about: count_about(std::iter::empty()),
            problems: Vec::new(),
            events_written: 0,
            events_failed: 0,
            triggers_ignored: 0,
        })))
    }

    /// The health at this moment.
    pub fn snapshot(&self) -> KubernetesReport {
        let now = Instant::now();
        let record = self.0.borrow();
        let watch = |kind: &Kind| record.watches[*kind as usize].report(*kind, now);
        let watches: Vec<WatchHealth> = record.kinds.iter().map(watch).collect();
        KubernetesReport {
            synced: watches.iter().all(|watch| watch.synced),
            staleness_ms: watches.iter().map(|watch| watch.staleness_ms).max().unwrap_or(0),
            watches,
            counts: record.counts,
            problems_total: record.problems_total,
            problems_about: record.problems_about.clone(),
            problems: record.problems.clone(),
            events_written: record.events_written,
            events_failed: record.events_failed,
            triggers_ignored: record.triggers_ignored,
        }
    }

    /// Waits until the health is as wanted.
    pub async fn wait_for(
        &self,
        mut wanted: impl FnMut(&KubernetesReport) -> bool,
    ) -> KubernetesReport {
        let mut receiver = self.0.subscribe();
        loop {
            receiver.mark_unchanged();
            let report = self.snapshot();
            if wanted(&report) {
                return report;
            }
            // The sender lives as long as `self`.
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn note_event(&self, kind: Kind) {
        self.modify(kind, |watch| {
            watch.event_at = Some(Instant::now());
            watch.failing_since = None;
        });
    }

    /// Notes that the API server has agreed to watch. In a quiet cluster nothing else will come.
    pub(super) fn note_answer(&self, kind: Kind) {
        self.modify(kind, |watch| watch.answered_at = Some(Instant::now()));
    }

    pub(super) fn note_list(&self, kind: Kind) {
        self.modify(kind, |watch| {
            watch.synced = true;
            watch.lists += 1;
        });
    }

    /// Whether this error is the first of a row.
    pub(super) fn note_error(&self, kind: Kind, text: String) -> bool {
        let now = Instant::now();
        let mut first = false;
        self.modify(kind, |watch| {
            first = watch.failing_since(now).is_none();
            watch.failing_since = watch.failing_since(now).or(Some(now));
            watch.answered_at = None;
            watch.errors += 1;
            watch.error = Some((now, text));
        });
        first
    }

    pub(super) fn note_restart(&self, kind: Kind) {
        self.modify(kind, |watch| watch.restarts += 1);
    }

    /// Notes how many watches there are. None is as good as one that works.
    pub(super) fn note_scopes(&self, kind: Kind, count: usize) {
        self.modify(kind, |watch| {
            watch.scopes = Some(count);
            watch.synced |= count == 0;
        });
    }

    pub(super) fn note_counts(&self, counts: Counts) {
        self.0.send_if_modified(|record| {
            let differs = record.counts != counts;
            record.counts = counts;
            differs
        });
    }

    pub(super) fn note_problems<'p>(&self, problems: impl Iterator<Item = &'p ObjectProblem>) {
        let mut shown = Vec::new();
        let mut total = 0;
        let problems: Vec<_> = problems.collect();
        let about = count_about(problems.iter().copied());
        for problem in problems {
            total += 1;
            if shown.len() < PROBLEMS_SHOWN_MAX {
                shown.push(problem.to_string());
            }
        }
        self.0.send_modify(|record| {
            record.problems_total = total;
            record.problems_about = about;
            record.problems = shown;
        });
    }

    pub(super) fn note_event_written(&self, written: bool) {
        self.0.send_modify(|record| {
            if written {
                record.events_written += 1;
            } else {
                record.events_failed += 1;
            }
        });
    }

    pub(super) fn note_trigger_ignored(&self) {
        self.0.send_modify(|record| record.triggers_ignored += 1);
    }

    fn modify(&self, kind: Kind, change: impl FnOnce(&mut Watch)) {
        self.0.send_modify(|record| change(&mut record.watches[kind as usize]));
    }
}

// === impl Watch ===

impl Watch {
    /// Since when it fails; not one that has gone on for a while.
    fn failing_since(&self, now: Instant) -> Option<Instant> {
        let settled = self.answered_at.is_some_and(|at| now.duration_since(at) >= SETTLED);
        self.failing_since.filter(|_| !settled)
    }

    fn report(&self, kind: Kind, now: Instant) -> WatchHealth {
        let age = |at: Instant| ms(now.saturating_duration_since(at));
        WatchHealth {
            kind,
            synced: self.synced,
            last_event_age_ms: self.event_at.map(age),
            staleness_ms: match self.failing_since(now) {
                // Changes may have gone unseen since the last sign of life.
                Some(since) => age(self.event_at.unwrap_or(since)),
                None => 0,
            },
            scopes: self.scopes.unwrap_or(1),
            lists: self.lists,
            restarts: self.restarts,
            errors: self.errors,
            last_error: self.error.as_ref().map(|(_, text)| text.clone()),
            last_error_age_ms: self.error.as_ref().map(|(at, _)| age(*at)),
        }
    }
}

/// How many problems there are about each thing; all of these are named.
fn count_about<'p>(problems: impl Iterator<Item = &'p ObjectProblem>) -> BTreeMap<String, usize> {
    let mut count: BTreeMap<String, usize> =
        ANNOTATIONS.iter().chain(&OTHER_PROBLEMS).map(|about| ((*about).to_owned(), 0)).collect();
    for problem in problems {
        *count.entry(about(problem).to_owned()).or_default() += 1;
    }
    count
}

/// What a problem is about.
fn about(problem: &ObjectProblem) -> &'static str {
    let [unknown, external_dns, service, slice] = OTHER_PROBLEMS;
    let field = problem.fault.field.strip_prefix("metadata.annotations[");
    match field.and_then(|field| field.strip_suffix(']')) {
        None if problem.slice.is_some() => slice,
        None => service,
        Some(key) => key.strip_prefix(ANNOTATION_PREFIX).map_or(external_dns, |name| {
            ANNOTATIONS.iter().find(|known| **known == name).copied().unwrap_or(unknown)
        }),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
