//! Requests by service and backend: live connections and totals of closed ones, added up. Pure.

use balancer_common::http2::{
    counts::{Http2Sums, Http2Totals, Http2TotalsKey, LATENCY_BUCKETS, latency_bound_ns},
    flow::Http2Flow,
};
use bytemuck::Zeroable;
use std::{collections::BTreeMap, time::Duration};

/// What is known of the requests to a backend, or to all backends of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requests {
    /// Connections whose frames are followed now.
    pub live: u64,
    /// Connections that were followed, and are closed or cannot be followed any more.
    pub settled: u64,
    /// Connections that were not followed, since their pod had too many, or there was no room.
    pub refused: u64,
    /// Bytes that clients sent on followed connections.
    pub sent_bytes: u64,
    /// Bytes that backends sent on them.
    pub received_bytes: u64,
    /// Requests in flight now.
    pub in_flight: u64,
    /// Requests that were open when their connection closed, or was lost sight of.
    pub abandoned: u64,
    /// All counters, of live and of settled connections.
    pub sums: Http2Sums,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            live: 0,
            settled: 0,
            refused: 0,
            sent_bytes: 0,
            received_bytes: 0,
            in_flight: 0,
            abandoned: 0,
            sums: Http2Sums::zeroed(),
        }
    }
}

// === impl Requests ===

impl Requests {
    /// Adds a connection that is followed; nothing if it is in the totals already.
    pub fn add_live(&mut self, flow: &Http2Flow) {
        if flow.is_settled() {
            return;
        }
        self.live += 1;
        self.sent_bytes += flow.sent_bytes;
        self.received_bytes += flow.received_bytes;
        self.in_flight += u64::from(flow.counts.in_flight());
        self.sums.add(&flow.counts);
    }

    /// Adds what closed connections counted.
    pub fn add_totals(&mut self, totals: &Http2Totals) {
        self.settled += totals.connections;
        self.refused += totals.refused;
        self.sent_bytes += totals.sent_bytes;
        self.received_bytes += totals.received_bytes;
        self.abandoned += totals.sums.in_flight();
        self.sums.merge(&totals.sums);
    }

    /// Adds those of another backend.
    pub fn merge(&mut self, other: &Self) {
        self.live += other.live;
        self.settled += other.settled;
        self.refused += other.refused;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.in_flight += other.in_flight;
        self.abandoned += other.abandoned;
        self.sums.merge(&other.sums);
    }

    /// Requests that came to an end that was seen.
    pub const fn finished(&self) -> u64 {
        self.sums.ended + self.sums.reset_by_client + self.sums.reset_by_server
    }

    /// Requests begun in each second since `earlier`.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
    pub fn per_second(&self, earlier: &Self, elapsed: Duration) -> f64 {
        if elapsed.is_zero() {
            return 0.0;
        }
        self.sums.opened.saturating_sub(earlier.sums.opened) as f64 / elapsed.as_secs_f64()
    }

    /// Their latencies.
    pub const fn latency(&self) -> Latency<'_> {
        Latency(&self.sums.latency)
    }
}

/// Times from requests to their ends, two buckets for each power of two.
#[derive(Clone, Copy, Debug)]
pub struct Latency<'a>(&'a [u64; LATENCY_BUCKETS]);

impl Latency<'_> {
    /// Each bucket but the last one with its end, and how many requests took no longer: as cumulative
    /// histograms want it.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let counts = self.0.iter().take(LATENCY_BUCKETS - 1).enumerate();
        counts.scan(0, |sum, (bucket, count)| {
            *sum += *count;
            Some((Duration::from_nanos(latency_bound_ns(bucket)), *sum))
        })
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time within which this part (0 to 1) of all requests ended, with as much of its bucket as the
    /// part takes up; nothing if there were none. The last bucket counts as its beginning.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a quantile of buckets that are 33 to 50 percent wide"
    )]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        // What rounding adds must not lead into the next bucket.
        let rank = (part.clamp(0.0, 1.0) * total as f64 * (1.0 - 1e-12)).max(1.0);
        let mut below = 0;
        for (bucket, count) in self.0.iter().enumerate() {
            if *count == 0 || ((below + count) as f64) < rank {
                below += count;
                continue;
            }
            let begin = bucket.checked_sub(1).map_or(0, latency_bound_ns);
            if bucket == LATENCY_BUCKETS - 1 {
                return Some(Duration::from_nanos(begin));
            }
            let width = (latency_bound_ns(bucket) - begin) as f64;
            let within = width * (rank - below as f64) / *count as f64;
            return Some(Duration::from_nanos(begin + within as u64));
        }
        None
    }
}

/// Adds up live connections and totals by service and backend id. Several incarnations of an id are added,
/// so that counters do not fall while the older one's totals are still there.
pub fn by_backend<'a>(
    live: impl IntoIterator<Item = &'a Http2Flow>,
    totals: impl IntoIterator<Item = (&'a Http2TotalsKey, &'a Http2Totals)>,
) -> BTreeMap<(u32, u32), Requests> {
    let mut sums = BTreeMap::<_, Requests>::new();
    for flow in live {
        sums.entry((flow.service, flow.backend)).or_default().add_live(flow);
    }
    for (key, totals) in totals {
        sums.entry((key.service, key.backend)).or_default().add_totals(totals);
    }
    sums
}

/// Adds up backends by service.
pub fn by_service(backends: &BTreeMap<(u32, u32), Requests>) -> BTreeMap<u32, Requests> {
    let mut sums = BTreeMap::<u32, Requests>::new();
    for ((service, _), requests) in backends {
        sums.entry(*service).or_default().merge(requests);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_common::http2::{counts::latency_bucket, gate::SETTLED};
    use proptest::prelude::*;

    fn flow(service: u32, backend: u32, opened: u32, ended: u32) -> Http2Flow {
        let mut flow = Http2Flow::zeroed();
        (flow.service, flow.backend, flow.sent_bytes) = (service, backend, 100);
        (flow.counts.opened, flow.counts.ended) = (opened, ended);
        flow
    }

    fn totals(sums: [&Http2Flow; 2]) -> Http2Totals {
        let mut totals = Http2Totals::zeroed();
        for flow in sums {
            totals.connections += 1;
            totals.sent_bytes += flow.sent_bytes;
            totals.sums.add(&flow.counts);
        }
        totals
    }

    #[test]
    fn live_and_closed_connections_are_added_up() {
        let mut settled = flow(1, 1, 50, 50);
        settled.gate = SETTLED;
        let live = [flow(1, 1, 5, 3), flow(1, 2, 7, 7), flow(2, 3, 1, 0), settled];
        let key = |incarnation| Http2TotalsKey { service: 1, backend: 1, incarnation, reserved: 0 };
        let closed = totals([&settled, &flow(1, 1, 10, 8)]);
        let all = [(key(1), closed), (key(2), closed)];
        let backends = by_backend(&live, all.iter().map(|(key, totals)| (key, totals)));
        let first = backends[&(1, 1)];
        assert_eq!((first.live, first.settled, first.sums.opened), (1, 4, 125));
        assert_eq!((first.in_flight, first.abandoned, first.finished()), (2, 4, 119));
        assert_eq!(first.sent_bytes, 500);
        let services = by_service(&backends);
        assert_eq!(services.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!((services[&1].sums.opened, services[&2].in_flight), (132, 1));
        let rate = services[&1].per_second(&first, Duration::from_secs(7));
        assert!((rate - 1.0).abs() < 1e-9);
        assert!(services[&1].per_second(&first, Duration::ZERO).abs() < 1e-9);
    }

    #[test]
    fn nothing_has_no_latency() {
        assert_eq!(Requests::default().latency().quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn a_quantile_lies_in_the_bucket_of_its_request(
            mut times in proptest::collection::vec(0u64..1 << 40, 1..200), permille in 0u32..=1_000,
        ) {
            let mut requests = Requests::default();
            for ns in &times {
                requests.sums.latency[latency_bucket(*ns)] += 1;
            }
            times.sort_unstable();
            let rank = (times.len() * permille as usize).div_ceil(1_000).max(1);
            let quantile = requests.latency().quantile(f64::from(permille) / 1_000.0).unwrap();
            let bucket = latency_bucket(times[rank - 1]);
            let begin = bucket.checked_sub(1).map_or(0, latency_bound_ns);
            let ns = u64::try_from(quantile.as_nanos()).unwrap();
            prop_assert!((begin..=latency_bound_ns(bucket)).contains(&ns));
            let last = requests.latency().cumulative().last().unwrap();
            prop_assert_eq!(last.1, times.len() as u64);
        }
    }
}
