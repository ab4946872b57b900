//! What is told of watches and of what is refused.

use super::*;
use crate::core::discovery::{Fault, ObjectKey};

#[test]
fn kinds_that_were_not_listed_are_named_but_for_farewells() {
    let health = KubernetesHealth::default();
    health.note_list(Kind::Node);
    health.note_error(Kind::EndpointSlices, "list: forbidden".into());
    let mut report = health.snapshot();
    report.watches.extend(KubernetesHealth::of(Kind::OF_FAREWELLS).snapshot().watches);
    let waiting: Vec<_> = report.waiting().collect();
    let slices = "endpoint-slices of Kubernetes (list: forbidden)";
    assert_eq!(waiting, ["services of Kubernetes", slices]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_goes_on_is_not_stale_though_nothing_happens() {
    let health = KubernetesHealth::default();
    let kind = Kind::Services;
    let staleness_ms = || health.snapshot().watches[kind as usize].staleness_ms;
    let fails = || health.note_error(kind, "cut".into());
    health.note_event(kind);
    assert!(fails());
    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!(staleness_ms(), 60_000);
    // That the version is gone comes right behind the answer.
    health.note_answer(kind);
    assert!(!fails(), "it is the same trouble");
    tokio::time::advance(SETTLED).await;
    assert_eq!(staleness_ms(), 62_000);
    health.note_answer(kind);
    assert_eq!(staleness_ms(), 62_000);
    tokio::time::advance(SETTLED).await;
    assert_eq!(staleness_ms(), 0);
    assert!(fails(), "another trouble");
    assert!(staleness_ms() > 0);
}

#[test]
fn problems_are_counted_by_what_they_are_about() {
    let problem = |field: &str, slice: bool| ObjectProblem {
        service: ObjectKey::new("shop", "a"),
        uid: "uid".into(),
        slice: slice.then(|| ObjectKey::new("shop", "a-1")),
        fault: Fault { field: field.into(), cause: "bad".into(), fix: "mend".into() },
    };
    for (field, slice, expected) in [
        ("metadata.annotations[balancer.dev/policy]", false, "policy"),
        ("metadata.annotations[balancer.dev/polity]", false, "unknown-annotation"),
        ("metadata.annotations[external-dns.kubernetes.io/hostname]", false, "external-dns"),
        ("spec.ports[0].port", false, "service"),
        ("endpoints[3].addresses", true, "endpoint-slice"),
    ] {
        let problem = problem(field, slice);
        let count = count_about([&problem, &problem].into_iter());
        assert_eq!((count[expected], count.values().sum::<usize>()), (2, 2), "{field}");
        assert_eq!(count.len(), ANNOTATIONS.len() + OTHER_PROBLEMS.len());
    }
}
