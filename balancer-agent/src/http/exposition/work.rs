//! Metrics of the core's work: from events to map writes, and what stands in the way.

use super::{Sheet, View};
use std::fmt;

pub(super) fn write(view: &View, sheet: &mut Sheet<'_>) -> fmt::Result {
    let Some(vitals) = &view.vitals else {
        return Ok(());
    };
    let totals = &vitals.totals;
    sheet.counter("events", "Observations that the sources sent.", totals.events)?;
    let changes = [("applied", totals.changes), ("cut-short", totals.changes_failed)];
    sheet.counters(
        ("changes", "Changes of services, by whether all of their map writes landed."),
        changes.map(|(result, count)| ([("result", result)], count)),
    )?;
    sheet.counter("map_writes", "Map writes that landed.", totals.writes)?;
    sheet.counter(
        "map_write_failures",
        "Map writes that the kernel refused; each is tried again.",
        vitals.write_failures,
    )?;
    sheet.counter(
        "services_refused",
        "Times that a service, or a change of one, did not fit into the tables.",
        totals.refusals,
    )?;
    sheet.histogram(
        "programming_duration",
        "From the arrival of a change to its last map write.",
        vitals.latency.histogram(),
    )?;
    sheet.histogram(
        "trigger_programming_duration",
        "From the change of a Pod or Service to its last map write, by the slice's trigger time.",
        vitals.trigger_latency.histogram(),
    )?;
    sheet.gauge(
        "sources_unsynced",
        "Sources, and kinds that are watched, that have not told all yet.",
        vitals.unsynced.len(),
    )?;
    sheet.gauge(
        "reconciled",
        "Whether the maps hold what is wanted, but for services that do not fit.",
        u32::from(!vitals.needs_retry),
    )?;
    sheet.gauges(
        ("problems", None, "What is not balanced as declared, by kind."),
        vitals.problems.iter().map(|(kind, count)| ([("kind", *kind)], *count)),
    )
}
