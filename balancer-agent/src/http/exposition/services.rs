//! Metrics of services. Counters start with the agent; those of untracked services are left out where
//! they would say nothing.

use super::{super::view::ServiceView, Sheet, View};
use balancer_common::backend::{
    STATE_ACTIVE, STATE_DRAINING, STATE_GONE, STATE_INACTIVE, state_name,
};
use std::fmt;

/// States of backends, each told of every service.
const STATES: [u32; 4] = [STATE_ACTIVE, STATE_DRAINING, STATE_INACTIVE, STATE_GONE];

pub(super) fn write(view: &View, sheet: &mut Sheet<'_>) -> fmt::Result {
    let Some(kernel) = &view.kernel else {
        return Ok(());
    };
    sheet.gauge("services", "Services in the kernel.", kernel.services.len())?;
    let cut = [
        ("services", kernel.services.len().saturating_sub(view.services_max)),
        ("backends", kernel.backends_cut),
        ("dns-sets", view.dns.len().saturating_sub(view.services_max)),
    ];
    sheet.gauges(
        ("series_cut", None, "Things that have no series of their own, being over the limit."),
        cut.map(|(what, count)| ([("what", what)], count)),
    )?;
    let services: Vec<(&str, &ServiceView)> =
        kernel.services.iter().take(view.services_max).map(|(name, it)| (&**name, it)).collect();
    let tracked = || services.iter().copied().filter(|(_, service)| service.tracked);
    sheet.gauges(
        ("service_backends", None, "Backends of a service, by state."),
        services.iter().flat_map(|(name, service)| {
            STATES.map(|state| {
                let state = state_name(state);
                let count = service.backends.get(state).copied().unwrap_or_default();
                ([("service", *name), ("state", state)], count)
            })
        }),
    )?;
    sheet.gauges(
        ("service_connections", None, "Connections that have not ended."),
        tracked().map(|(name, service)| ([("service", name)], service.connections)),
    )?;
    sheet.counters(
        ("service_connections_opened", "Connections that were sent to a backend."),
        services.iter().map(|(name, service)| ([("service", *name)], service.counts.opened)),
    )?;
    write_endings(sheet, tracked)?;
    sheet.counters(
        ("service_connections_untouched", "Connections that were left to go where they dialled."),
        services.iter().map(|(name, service)| ([("service", *name)], service.untouched)),
    )?;
    sheet.counters(
        ("service_socket_option_failures", "Socket options that the kernel refused."),
        services
            .iter()
            .map(|(name, service)| ([("service", *name)], service.socket_option_failures)),
    )
}

fn write_endings<'v, I: Iterator<Item = (&'v str, &'v ServiceView)>>(
    sheet: &mut Sheet<'_>,
    tracked: impl Fn() -> I,
) -> fmt::Result {
    sheet.counters(
        ("service_connections_established", "Connections whose handshake was completed."),
        tracked().map(|(name, service)| ([("service", name)], service.counts.established)),
    )?;
    sheet.counters(
        ("service_connections_ended", "Connections that ended, by how."),
        tracked().flat_map(|(name, service)| {
            service.counts.ended().map(|(how, count)| ([("service", name), ("how", how)], count))
        }),
    )?;
    sheet.counters(
        ("service_retransmits", "Segments that clients had to send again."),
        tracked().map(|(name, service)| ([("service", name)], service.counts.retransmits)),
    )
}
