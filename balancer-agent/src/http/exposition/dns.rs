//! Metrics of the DNS source, for each set that services need.

use super::{Sheet, View};
use prometheus_client::registry::Unit;
use std::fmt;

/// Milliseconds in a second.
const MS_PER_S: f64 = 1e3;

pub(super) fn write(view: &View, sheet: &mut Sheet<'_>) -> fmt::Result {
    let sets = || view.dns.iter().take(view.services_max);
    sheet.gauges(
        ("dns_set_standing", None, "1 for how the queries for a DNS set fare."),
        sets()
            .map(|set| ([("set", set.lookup.as_str()), ("standing", set.standing.name())], 1_u32)),
    )?;
    sheet.gauges(
        ("dns_set_members", None, "Members of a DNS set, by whether the answers still name them."),
        sets().flat_map(|set| {
            let departed = set.members.iter().filter(|member| member.departed).count();
            let present = set.members.len() - departed;
            [("present", present), ("departed", departed)].map(|(presence, count)| {
                ([("set", set.lookup.as_str()), ("presence", presence)], count)
            })
        }),
    )?;
    sheet.gauges(
        ("dns_set_answer_age", Some(Unit::Seconds), "Time since all queries of a set succeeded."),
        sets().filter_map(|set| {
            Some(([("set", set.lookup.as_str())], seconds(set.last_success_age_ms?)))
        }),
    )?;
    sheet.counters(
        ("dns_queries", "Queries for a DNS set."),
        sets().map(|set| ([("set", set.lookup.as_str())], set.queries)),
    )?;
    sheet.counters(
        ("dns_failures", "Failed queries for a DNS set, by kind."),
        sets().flat_map(|set| {
            set.failures.iter().map(|(kind, count)| {
                ([("set", set.lookup.as_str()), ("kind", kind.name())], *count)
            })
        }),
    )?;
    sheet.counters(
        ("dns_addresses_refused", "Addresses in answers that nobody can dial."),
        sets().map(|set| ([("set", set.lookup.as_str())], set.addresses_refused)),
    )?;
    sheet.gauges(
        ("dns_set_members_cut", None, "Members of the latest answer that the set has no room for."),
        sets().map(|set| ([("set", set.lookup.as_str())], set.excess)),
    )?;
    sheet.gauges(
        ("dns_sets_left_out", None, "DNS sets that services need and that are not resolved."),
        [([], view.dns_counts.left_out)],
    )?;
    sheet.counters(
        ("dns_followers_restarted", "Tasks that follow a DNS set, begun anew after a panic."),
        [([], view.dns_counts.restarted)],
    )
}

#[expect(clippy::cast_precision_loss, reason = "ages are far below 2^52 ms")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / MS_PER_S
}
