//! Metrics of HTTP/2 requests by backend, as the kernel counts them. Like those of backends they last as long
//! as the backend does.

use super::{Sheet, View};
use crate::core::requests::Requests;
use std::fmt;

/// Ends of buckets, as powers of two of nanoseconds: from 131 µs to 34 s, a factor of four apart.
const BUCKET_POWERS: [u32; 10] = [17, 19, 21, 23, 25, 27, 29, 31, 33, 35];

pub(super) fn write(view: &View, sheet: &mut Sheet<'_>) -> fmt::Result {
    let Some(kernel) = &view.kernel else {
        return Ok(());
    };
    let requests = kernel.requests.iter();
    let names: Vec<(&str, String, &Requests)> =
        requests.map(|((service, address), it)| (&**service, address.to_string(), it)).collect();
    sheet.gauges(
        (
            "backend_requests_in_flight",
            None,
            "Requests in flight on connections that are followed.",
        ),
        names.iter().map(|(service, backend, it)| {
            ([("service", *service), ("backend", backend.as_str())], it.in_flight)
        }),
    )?;
    sheet.counters(
        ("backend_requests", "Requests on connections that are followed."),
        names.iter().map(|(service, backend, it)| {
            ([("service", *service), ("backend", backend.as_str())], it.sums.opened)
        }),
    )?;
    sheet.counters(
        ("backend_requests_ended", "Requests that ended, by how."),
        names.iter().flat_map(|(service, backend, it)| {
            ends(it).map(|(how, count)| {
                ([("service", *service), ("backend", backend.as_str()), ("how", how)], count)
            })
        }),
    )?;
    sheet.counts(
        ("backend_request_duration", "From a request's HEADERS to its end; the sum is of buckets."),
        names.iter().map(|(service, backend, it)| {
            ([("service", *service), ("backend", backend.as_str())], buckets(it))
        }),
    )
}

const fn ends(requests: &Requests) -> [(&'static str, u64); 4] {
    [
        ("finished", requests.sums.ended),
        ("reset-by-client", requests.sums.reset_by_client),
        ("reset-by-server", requests.sums.reset_by_server),
        ("abandoned", requests.abandoned),
    ]
}

/// Each bucket's end in seconds, and how many requests are in it and in none below.
fn buckets(requests: &Requests) -> Vec<(f64, u64)> {
    let cumulative: Vec<_> = requests.latency().cumulative().collect();
    let mut below = 0;
    let mut buckets = Vec::new();
    for power in BUCKET_POWERS {
        let end = std::time::Duration::from_nanos(1 << power);
        let within = cumulative.iter().rfind(|(bound, _)| *bound <= end).map_or(0, |(_, it)| *it);
        buckets.push((end.as_secs_f64(), within.saturating_sub(below)));
        below = within;
    }
    buckets.push((f64::INFINITY, requests.latency().count().saturating_sub(below)));
    buckets
}
