//! Metrics of HTTP/2 connections by service: what is known of their frames, and how many were moved. They begin
//! with a service's first such connection on this node, and end with the service.

use super::{Sheet, View};
use crate::{
    admin::{Http2Account, NOT_FOLLOWED},
    core::rebalance::Cause,
};
use balancer_common::http2::flow::Visibility;
use std::{collections::BTreeMap, fmt};

pub(super) fn write(view: &View, sheet: &mut Sheet<'_>) -> fmt::Result {
    let Some(vitals) = &view.vitals else {
        return Ok(());
    };
    sheet.gauge(
        "http2_interfaces",
        "Interfaces of pods and other clients whose packets are seen.",
        vitals.http2.interfaces,
    )?;
    // Which services have series of their own is for the kernel's maps to say, as everywhere.
    let Some(kernel) = &view.kernel else {
        return Ok(());
    };
    let told = kernel.services.keys().take(view.services_max);
    let services: Vec<(&str, &Http2Account)> =
        told.filter_map(|name| Some((&**name, vitals.http2.services.get(&**name)?))).collect();
    let of = |counts: &BTreeMap<String, u64>, name| counts.get(name).copied().unwrap_or_default();
    let states = || Visibility::ALL.map(Visibility::name).into_iter().chain([NOT_FOLLOWED]);
    sheet.gauges(
        (
            "http2_connections",
            None,
            "Connections of services that ask for HTTP/2, by what is known.",
        ),
        services.iter().flat_map(|(service, account)| {
            states().map(|state| {
                ([("service", *service), ("state", state)], of(&account.connections, state))
            })
        }),
    )?;
    sheet.counters(
        ("http2_moves_begun", "Moves of live connections that were begun, by cause."),
        services.iter().flat_map(|(service, account)| {
            Cause::ALL
                .map(Cause::name)
                .map(|cause| ([("service", *service), ("cause", cause)], of(&account.begun, cause)))
        }),
    )?;
    sheet.counters(
        ("http2_moves_ended", "Moves that came to an end, by what became of them."),
        services.iter().flat_map(|(service, account)| {
            [("made", account.made), ("given-up", account.given_up)]
                .map(|(result, count)| ([("service", *service), ("result", result)], count))
        }),
    )?;
    sheet.gauges(
        (
            "http2_stubborn_connections",
            None,
            "Connections whose clients were told to leave and stayed.",
        ),
        services.iter().map(|(service, account)| ([("service", *service)], account.stubborn)),
    )
}
