//! Metrics of HTTP/2 connections: what is known of their frames, and how many were moved.

use super::{Sheet, View};
use crate::core::rebalance::Cause;
use balancer_common::http2::flow::Visibility;
use std::{collections::BTreeMap, fmt};

/// How connections are counted whose frames are not followed.
const NOT_FOLLOWED: &str = "not-followed";

pub(super) fn write(view: &View, sheet: &mut Sheet<'_>) -> fmt::Result {
    let Some(vitals) = &view.vitals else {
        return Ok(());
    };
    let http2 = &vitals.http2;
    let of = |counts: &BTreeMap<String, u64>, name| counts.get(name).copied().unwrap_or_default();
    let states = Visibility::ALL.map(Visibility::name).into_iter().chain([NOT_FOLLOWED]);
    sheet.gauges(
        (
            "http2_connections",
            None,
            "Connections of services that ask for HTTP/2, by what is known.",
        ),
        states.map(|state| ([("state", state)], of(&http2.connections, state))),
    )?;
    sheet.gauge(
        "http2_interfaces",
        "Interfaces of pods and other clients whose packets are seen.",
        http2.interfaces,
    )?;
    sheet.counters(
        ("http2_moves_begun", "Moves of live connections that were begun, by cause."),
        Cause::ALL.map(|cause| ([("cause", cause.name())], of(&http2.begun, cause.name()))),
    )?;
    let ends = [("made", http2.made), ("given-up", http2.given_up)];
    sheet.counters(
        ("http2_moves_ended", "Moves that came to an end, by what became of them."),
        ends.map(|(result, count)| ([("result", result)], count)),
    )?;
    sheet.gauge(
        "http2_stubborn_connections",
        "Connections whose clients were told to leave and stayed.",
        http2.stubborn,
    )
}
