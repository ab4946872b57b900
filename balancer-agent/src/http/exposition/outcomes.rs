//! Metrics of what the kernel programs did, by reason.

use super::{Sheet, View};
use balancer_common::reason::Effect;
use std::fmt;

pub(super) fn write(view: &View, sheet: &mut Sheet<'_>) -> fmt::Result {
    let Some(kernel) = &view.kernel else {
        return Ok(());
    };
    sheet.counters(
        ("outcomes", "Runs of the kernel programs, by how they ended."),
        kernel.reasons.iter().map(|(reason, count)| {
            let effect = match reason.effect() {
                Effect::Balanced => "balanced",
                Effect::Untouched => "untouched",
                Effect::Observed => "observed",
            };
            ([("reason", reason.name()), ("effect", effect)], *count)
        }),
    )
}
