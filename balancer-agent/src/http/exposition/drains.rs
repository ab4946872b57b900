//! Metrics of connections that were destroyed since their backends had left, and of the pods whose
//! connections are balanced or left alone.

use super::{Sheet, View};
use std::fmt;

pub(super) fn write(view: &View, sheet: &mut Sheet<'_>) -> fmt::Result {
    let Some(vitals) = &view.vitals else {
        return Ok(());
    };
    let drained = &vitals.drained;
    let causes = [("drain-timeout", drained.drain_timeout), ("backend-gone", drained.backend_gone)];
    sheet.counters(
        ("connections_destroyed", "Connections that were destroyed, by cause."),
        causes.map(|(cause, count)| ([("cause", cause)], count)),
    )?;
    let failures = [("not-found", drained.not_found), ("failed", drained.failed)];
    sheet.counters(
        ("destroy_failures", "Tries to destroy a connection that came to nothing."),
        failures.map(|(how, count)| ([("how", how)], count)),
    )?;
    sheet.gauges(
        ("pods", None, "Pods of this node, by what becomes of their connections."),
        vitals.pods.iter().map(|(treatment, count)| ([("treatment", *treatment)], *count)),
    )
}
