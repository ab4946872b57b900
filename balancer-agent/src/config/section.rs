//! The sections about the agent itself: `node`, `dns`, `limits`, `log`.

use super::{
    cause::Cause,
    dns::DnsSettings,
    error::{KeyPath, Problems},
    mapping::Mapping,
    scalar,
    tree::Node,
};
use crate::core::write::Limits;
use balancer_common::{abi, service::CHUNK_SLOTS};
use std::{collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, time::Duration};

/// Keys of `node`.
pub(super) const NODE_KEYS: &[&str] = &["rank"];
/// Keys of `dns`.
pub(super) const DNS_KEYS: &[&str] = &[
    "servers",
    "min-ttl",
    "max-ttl",
    "timeout",
    "attempts",
    "serve-stale",
    "removal-delay",
    "grace",
];
/// Keys of `limits`.
pub(super) const LIMITS_KEYS: &[&str] =
    &["services", "backends", "frontends", "slots", "connections", "pod-services"];
/// Keys of `log`.
pub(super) const LOG_KEYS: &[&str] = &["datapath-level"];

/// Most servers that are asked for one name.
const DNS_SERVERS_MAX: usize = 8;
/// Most records of one map; at 80 bytes each that is 80 MB of kernel memory.
const RECORDS_MAX: u32 = 1 << 20;
/// Most slots, 1 GiB of kernel memory.
const SLOTS_MAX: u32 = 1 << 28;
/// `CHUNK_SLOTS` as the configuration counts.
#[expect(clippy::cast_possible_truncation, reason = "16")]
const SLOTS_STEP: u32 = CHUNK_SLOTS as u32;

/// How much the kernel programs log. Set when they are loaded, and free of cost when off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DatapathLevel {
    /// Nothing.
    #[default]
    Off,
    /// What should not happen.
    Error,
    /// What deserves a look.
    Warn,
    /// Rare events.
    Info,
    /// Every decision.
    Debug,
    /// Every step.
    Trace,
}

impl DatapathLevel {
    /// Every level.
    pub const ALL: [Self; 6] =
        [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// aya-log's number for this level.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The sizes that the kernel programs are built with.
#[expect(clippy::cast_possible_truncation, reason = "constants far below u32::MAX")]
pub(super) const fn default_limits() -> Limits {
    Limits {
        services: abi::SERVICES_MAX as u32,
        backends: abi::BACKENDS_MAX as u32,
        frontends: abi::FRONTENDS_MAX as u32,
        chunks: abi::CHUNKS_MAX as u32,
        flows: abi::FLOWS_MAX as u32,
        pod_services: abi::POD_SERVICES_MAX as u32,
    }
}

/// Reads `node.rank`; `None` for `auto`.
pub(super) fn node_rank(
    node: &Node<'_>,
    path: KeyPath<'_>,
    problems: &mut Problems,
) -> Option<u32> {
    let rank = |node: &Node<'_>| match node.text() {
        Some("auto") => Ok(None),
        _ => scalar::number_or(node, 0..=u32::MAX, "`auto` or a whole number").map(Some),
    };
    Mapping::open(node, path, NODE_KEYS, problems)?.read("rank", problems, rank).flatten()
}

/// Reads `log`.
pub(super) fn log(node: &Node<'_>, path: KeyPath<'_>, problems: &mut Problems) -> DatapathLevel {
    Mapping::open(node, path, LOG_KEYS, problems)
        .and_then(|map| {
            map.read("datapath-level", problems, |node| {
                scalar::word(node, &DatapathLevel::ALL, DatapathLevel::name)
            })
        })
        .unwrap_or_default()
}

/// Reads `limits`.
pub(super) fn limits(node: &Node<'_>, path: KeyPath<'_>, problems: &mut Problems) -> Limits {
    let mut limits = default_limits();
    let Some(map) = Mapping::open(node, path, LIMITS_KEYS, problems) else {
        return limits;
    };
    // Id 0 belongs to the self-test among services, and to nobody among backends.
    let fields: [(&str, &mut u32, u32); 5] = [
        ("services", &mut limits.services, 2),
        ("backends", &mut limits.backends, 2),
        ("frontends", &mut limits.frontends, 2),
        ("connections", &mut limits.flows, 1),
        ("pod-services", &mut limits.pod_services, 1),
    ];
    for (key, limit, min) in fields {
        if let Some(number) =
            map.read(key, problems, |node| scalar::number(node, min..=RECORDS_MAX))
        {
            *limit = number;
        }
    }
    if let Some(chunks) = map.read("slots", problems, chunks) {
        limits.chunks = chunks;
    }
    limits
}

fn chunks(node: &Node<'_>) -> Result<u32, Cause> {
    let slots = scalar::number(node, SLOTS_STEP..=SLOTS_MAX)?;
    if !slots.is_multiple_of(SLOTS_STEP) {
        return Err(Cause::NotMultiple { number: slots, of: SLOTS_STEP });
    }
    Ok(slots / SLOTS_STEP)
}

/// Reads `dns`.
pub(super) fn dns(node: &Node<'_>, path: KeyPath<'_>, problems: &mut Problems) -> DnsSettings {
    let mut dns = DnsSettings::default();
    let Some(map) = Mapping::open(node, path, DNS_KEYS, problems) else {
        return dns;
    };
    dns.servers = dns_servers(&map, problems);
    let (ms, s, day) = (Duration::from_millis(1), Duration::from_secs(1), Duration::from_hours(24));
    let fields: [(&str, &mut Duration, RangeInclusive<Duration>); 6] = [
        ("min-ttl", &mut dns.ttl_min, 100 * ms..=day),
        ("max-ttl", &mut dns.ttl_max, s..=day),
        ("timeout", &mut dns.timeout, 10 * ms..=60 * s),
        // RFC 8767 section 5 recommends at most seven days.
        ("serve-stale", &mut dns.serve_stale, Duration::ZERO..=7 * day),
        ("removal-delay", &mut dns.removal_delay, Duration::ZERO..=day),
        ("grace", &mut dns.grace, Duration::ZERO..=7 * day),
    ];
    for (key, field, range) in fields {
        if let Some(duration) = map.read(key, problems, |node| scalar::duration(node, range)) {
            *field = duration;
        }
    }
    if let Some(attempts) = map.read("attempts", problems, |node| scalar::number(node, 1..=10)) {
        dns.attempts = usize::try_from(attempts).unwrap_or(usize::MAX);
    }
    if dns.ttl_min > dns.ttl_max
        && let Some(at) = map.get("min-ttl").or_else(|| map.get("max-ttl"))
    {
        problems.add(at.at, path, Cause::Order { low: "min-ttl", high: "max-ttl" });
    }
    dns
}

fn dns_servers(map: &Mapping<'_>, problems: &mut Problems) -> Vec<SocketAddr> {
    let path = map.path.key("servers");
    let items = map.list("servers", problems);
    let mut first_lines = BTreeMap::new();
    let mut servers = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match scalar::dns_server(item) {
            Ok(server) => {
                let first_line = *first_lines.entry(server).or_insert(item.at.line);
                if servers.contains(&server) {
                    problems.add(item.at, path.item(index), Cause::RepeatedKey { first_line });
                } else {
                    servers.push(server);
                }
            }
            Err(cause) => problems.add(item.at, path.item(index), cause),
        }
        if index == DNS_SERVERS_MAX {
            let cause = Cause::TooMany { count: items.len(), max: DNS_SERVERS_MAX };
            problems.add(item.at, path, cause);
            break;
        }
    }
    servers
}
