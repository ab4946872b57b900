//! Metrics of the Kubernetes source: how fresh each watch is, how much is known, what was refused.

use super::{Sheet, View};
use crate::sources::kubernetes::{KubernetesReport, WatchHealth};
use prometheus_client::registry::Unit;
use std::fmt;

/// Milliseconds in a second.
const MS_PER_S: f64 = 1e3;

pub(super) fn write(view: &View, sheet: &mut Sheet<'_>) -> fmt::Result {
    let Some(report) = view.vitals.as_ref().and_then(|vitals| vitals.kubernetes.as_ref()) else {
        return Ok(());
    };
    write_watches(report, sheet)?;
    let counts = &report.counts;
    let objects = [
        ("services", counts.services),
        ("services-balanced", counts.services_balanced),
        ("endpoint-slices", counts.slices),
        ("addresses", counts.addresses),
    ];
    sheet.gauges(
        ("kubernetes_objects", None, "What is known of the cluster."),
        objects.map(|(kind, count)| ([("kind", kind)], count)),
    )?;
    sheet.gauges(
        ("kubernetes_problems", None, "What of Services and EndpointSlices is refused now."),
        report.problems_about.iter().map(|(about, count)| ([("about", about.as_str())], *count)),
    )?;
    sheet.counter(
        "kubernetes_refused",
        "Objects, and parts of objects, that were refused.",
        counts.refused,
    )?;
    sheet.counter(
        "kubernetes_outdated",
        "Changes that were older than what was known.",
        counts.outdated,
    )?;
    let events = [("written", report.events_written), ("failed", report.events_failed)];
    sheet.counters(
        ("kubernetes_events", "Kubernetes Events on what was refused, by what became of them."),
        events.map(|(result, count)| ([("result", result)], count)),
    )?;
    sheet.counter(
        "trigger_times_ignored",
        "Trigger times of EndpointSlices that cannot be: garbage, in the future, long ago.",
        report.triggers_ignored,
    )
}

fn write_watches(report: &KubernetesReport, sheet: &mut Sheet<'_>) -> fmt::Result {
    fn each<V>(
        report: &KubernetesReport,
        value: impl Fn(&WatchHealth) -> V,
    ) -> impl Iterator<Item = ([(&'static str, &'static str); 1], V)> {
        report.watches.iter().map(move |watch| ([("kind", watch.kind.name())], value(watch)))
    }
    sheet.gauges(
        ("watch_synced", None, "Whether a kind was listed completely once."),
        each(report, |watch| u32::from(watch.synced)),
    )?;
    sheet.gauges(
        (
            "watch_staleness",
            Some(Unit::Seconds),
            "Time for which changes of a kind may have gone unseen; zero while its watch works.",
        ),
        each(report, |watch| seconds(watch.staleness_ms)),
    )?;
    sheet.counters(
        ("watch_lists", "Complete lists of a kind, the first one included."),
        each(report, |watch| watch.lists),
    )?;
    sheet.counters(
        ("watch_restarts", "Times that a watch began anew after an error."),
        each(report, |watch| watch.restarts),
    )?;
    sheet.counters(("watch_errors", "Errors of a watch."), each(report, |watch| watch.errors))
}

#[expect(clippy::cast_precision_loss, reason = "ages are far below 2^52 ms")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / MS_PER_S
}
