//! From records to addresses, ports and weights. It stands apart because it is pure: all of it is
//! tested by tables, without a server.

use crate::core::model::WEIGHT_MAX;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

#[cfg(test)]
mod tests;

/// Why an address from an answer is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Of no host.
    Unspecified,
    /// Of a group.
    Multicast,
    /// Of everybody.
    Broadcast,
    /// Of a link that is not told.
    LinkLocal,
    /// IPv4 in an AAAA record.
    Mapped,
    /// Port 0.
    PortZero,
}

/// An address family, in the order in which names are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What an SRV record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Lower case.
    pub name: Name,
    /// Where it listens.
    pub port: u16,
    /// Its share, as SRV records have it.
    pub weight: u16,
}

/// Addresses of one name and family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// In the order of the records.
    pub ips: Vec<IpAddr>,
    /// Smallest TTL of the records, aliases included.
    pub ttl: Option<Duration>,
}

// === impl Refusal ===

impl Refusal {
    /// Why a client cannot dial `address`, if it cannot.
    pub fn of(address: SocketAddr) -> Option<Self> {
        if address.port() == 0 {
            return Some(Self::PortZero);
        }
        match address.ip() {
            ip if ip.is_unspecified() => Some(Self::Unspecified),
            ip if ip.is_multicast() => Some(Self::Multicast),
            IpAddr::V4(v4) if v4.is_broadcast() => Some(Self::Broadcast),
            // RFC 4007 section 6: a link-local address means nothing without a zone, which a
            // record does not carry.
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(Self::LinkLocal),
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some(Self::Mapped),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "the unspecified address is no destination",
            Self::Multicast => "a multicast address takes no TCP connections",
            Self::Broadcast => "the broadcast address takes no TCP connections",
            Self::LinkLocal => "a link-local address needs a zone",
            Self::Mapped => "an IPv4-mapped address belongs into an A record",
            Self::PortZero => "nobody listens on port 0",
        })
    }
}

// === impl Family ===

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The records that hold its addresses.
    pub const fn record_type(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }

    fn ip(self, record: &Record) -> Option<IpAddr> {
        match (self, &record.data) {
            (Self::V4, RData::A(a)) => Some(IpAddr::V4(a.0)),
            (Self::V6, RData::AAAA(aaaa)) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        }
    }
}

/// The addresses in the answer to a query for `family`.
pub fn addresses(answers: &[Record], family: Family) -> Addresses {
    Addresses {
        ips: answers.iter().filter_map(|record| family.ip(record)).collect(),
        ttl: ttl_min(answers),
    }
}

/// The addresses that come along with SRV records.
pub fn glue(additionals: &[Record]) -> BTreeMap<(Name, Family), Addresses> {
    let mut glue: BTreeMap<(Name, Family), Addresses> = BTreeMap::new();
    for record in additionals {
        for family in Family::ALL {
            if let Some(ip) = family.ip(record) {
                let known = glue.entry((record.name.to_lowercase(), family)).or_default();
                known.ips.push(ip);
                known.ttl = known.ttl.into_iter().chain(Some(seconds(record.ttl))).min();
            }
        }
    }
    glue
}

/// The targets of lowest priority value, in a stable order.
///
/// RFC 2782: "A client MUST attempt to contact the target host with the lowest-numbered priority
/// it can reach". Whether it can be reached is not known here, so the other groups are unused.
pub fn targets(answers: &[Record]) -> Vec<Target> {
    let services = || {
        answers.iter().filter_map(|record| match &record.data {
            // RFC 2782: "A Target of "." means that the service is decidedly not available".
            RData::SRV(srv) if !srv.target.is_root() => Some(srv),
            _ => None,
        })
    };
    let first = services().map(|srv| srv.priority).min();
    let mut targets: Vec<Target> = services()
        .filter(|srv| Some(srv.priority) == first)
        .map(|srv| Target { name: srv.target.to_lowercase(), port: srv.port, weight: srv.weight })
        .collect();
    targets.sort_by(|a, b| (&a.name, a.port, b.weight).cmp(&(&b.name, b.port, a.weight)));
    targets
}

/// Smallest TTL of all records.
pub fn ttl_min(records: &[Record]) -> Option<Duration> {
    records.iter().map(|record| seconds(record.ttl)).min()
}

/// RFC 2181 section 8: a TTL with the top bit set is treated as zero.
pub fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(if ttl > i32::MAX.cast_unsigned() { 0 } else { ttl.into() })
}

/// Weights of addresses, from the weight of the target that each belongs to and the number of
/// addresses that share it. A weight of zero counts as one; ratios are kept where
/// [`WEIGHT_MAX`] allows.
pub fn weights(shares: &[(u16, usize)]) -> Vec<u32> {
    let counts = shares.iter().map(|(_, count)| u64::try_from(*count).unwrap_or(1).max(1));
    // Beyond this the least common multiple serves nobody, and products could overflow.
    let scale = counts.clone().fold(1, |scale, count| {
        let multiple = u32::try_from(lcm(scale, count)).unwrap_or(WEIGHT_MAX);
        u64::from(multiple)
    });
    let scaled: Vec<u64> = shares
        .iter()
        .zip(counts)
        .map(|((weight, _), count)| u64::from((*weight).max(1)) * scale / count)
        .collect();
    let divisor = if scale == 1 { 1 } else { scaled.iter().copied().fold(0, gcd).max(1) };
    let largest = scaled.iter().copied().max().unwrap_or(1) / divisor;
    let limit = u64::from(WEIGHT_MAX);
    let fit = |weight: u64| {
        if largest > limit { weight * limit / largest } else { weight }
    };
    let weight = |scaled: &u64| u32::try_from(fit(scaled / divisor)).unwrap_or(WEIGHT_MAX).max(1);
    scaled.iter().map(weight).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn lcm(a: u64, b: u64) -> u64 {
    (a / gcd(a, b)).saturating_mul(b)
}
