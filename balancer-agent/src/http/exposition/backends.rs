//! Metrics of backends. Counters start when a backend joins its service.

use super::{super::view::BackendView, Sheet, View};
use prometheus_client::registry::Unit;
use std::fmt;

/// Microseconds in a second.
const US_PER_S: f64 = 1e6;

/// A backend with its labels.
struct Row<'v> {
    service: &'v str,
    address: String,
    backend: &'v BackendView,
}

impl Row<'_> {
    fn labels(&self) -> [(&'static str, &str); 2] {
        [("service", self.service), ("backend", &self.address)]
    }
}

pub(super) fn write(view: &View, sheet: &mut Sheet<'_>) -> fmt::Result {
    let Some(kernel) = &view.kernel else {
        return Ok(());
    };
    let rows: Vec<Row<'_>> = kernel
        .backends
        .iter()
        .map(|((service, address), backend)| Row { service, address: address.to_string(), backend })
        .collect();
    let tracked = || rows.iter().filter(|row| row.backend.tracked);
    sheet.gauges(
        ("backend_state", None, "1 for the state that a backend is in."),
        rows.iter().map(|row| {
            let [service, address] = row.labels();
            ([service, address, ("state", row.backend.state_name())], 1_u32)
        }),
    )?;
    sheet.gauges(
        ("backend_weight", None, "A backend's share among those of its service."),
        rows.iter().map(|row| (row.labels(), row.backend.weight)),
    )?;
    sheet.gauges(
        ("backend_connections", None, "Connections that have not ended."),
        tracked().map(|row| (row.labels(), row.backend.connections)),
    )?;
    sheet.counters(
        ("backend_connections_opened", "Connections that were sent to a backend."),
        rows.iter().map(|row| (row.labels(), row.backend.counts.opened)),
    )?;
    sheet.counters(
        ("backend_connections_established", "Connections whose handshake was completed."),
        tracked().map(|row| (row.labels(), row.backend.counts.established)),
    )?;
    sheet.counters(
        ("backend_connections_ended", "Connections that ended, by how."),
        tracked().flat_map(|row| {
            let [service, address] = row.labels();
            let ended = row.backend.counts.ended();
            ended.map(|(how, count)| ([service, address, ("how", how)], count))
        }),
    )?;
    sheet.counters(
        ("backend_retransmits", "Segments that clients had to send again."),
        tracked().map(|row| (row.labels(), row.backend.counts.retransmits)),
    )?;
    sheet.counters(
        ("backend_ejections", "Times that a backend was passed over for a while."),
        tracked().map(|row| (row.labels(), row.backend.counts.ejections)),
    )?;
    let sampled = tracked().filter(|row| row.backend.srtt_us > 0);
    sheet.gauges(
        ("backend_srtt", Some(Unit::Seconds), "Smoothed round-trip time of the latest sample."),
        sampled.map(|row| (row.labels(), seconds(row.backend.srtt_us))),
    )
}

#[expect(clippy::cast_precision_loss, reason = "round-trip times are far below 2^52 µs")]
fn seconds(us: u64) -> f64 {
    us as f64 / US_PER_S
}
