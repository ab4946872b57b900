//! The section `services`: each service by itself, then what no two of them may share.

use super::{
    cause::Cause,
    endpoint,
    error::{KeyPath, Position, Problems},
    mapping::Mapping,
    scalar,
    tree::{Node, Value},
};
use crate::core::{
    model::{BackendSource, Behaviour, FrontendSource, Lookup, Service, ServiceName},
    write::Limits,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// Keys of a service.
pub(super) const SERVICE_KEYS: &[&str] = &[
    "name",
    "frontends",
    "backends",
    "dns",
    "policy",
    "session-affinity",
    "tcp-user-timeout",
    "keepalive",
    "drain-timeout",
    "tracking",
    "ejection",
    "http2",
    "move-patience",
];

/// Reads `services`.
pub(super) fn services(
    root: &Mapping<'_>,
    defaults: Behaviour,
    limits: &Limits,
    problems: &mut Problems,
) -> Vec<Service> {
    let path = root.path.key("services");
    let mut reader = ServicesReader::default();
    let mut services = Vec::new();
    for (index, node) in root.list("services", problems).iter().enumerate() {
        let path = path.item(index);
        let Some(map) = Mapping::open(node, path, SERVICE_KEYS, problems) else {
            continue;
        };
        services.extend(reader.service(&map, defaults, problems));
    }
    if let Some(node) = root.get("services") {
        check_limits(&services, limits, node.at, path, problems);
    }
    services
}

/// What the services read so far have taken.
#[derive(Default)]
struct ServicesReader {
    names: BTreeMap<ServiceName, u32>,
    frontends: BTreeMap<FrontendSource, (ServiceName, u32)>,
}

// === impl ServicesReader ===

impl ServicesReader {
    fn service(
        &mut self,
        map: &Mapping<'_>,
        defaults: Behaviour,
        problems: &mut Problems,
    ) -> Option<Service> {
        let name = self.name(map, problems);
        let behaviour = Behaviour::read(map, defaults, problems);
        let both = match map.get("dns") {
            Some(node) => endpoint::service_dns(node, map.path.key("dns"), problems),
            None => None,
        };
        let frontends = self.frontends(map, name.as_ref(), both.as_ref(), problems);
        let backends = backends(map, both.as_ref(), problems);
        let name = name?;
        // A list whose items are all wrong is told of by its items alone.
        if map.get("dns").is_none() {
            let service = || name.to_string();
            if is_empty(map, "frontends") {
                problems.add(map.node.at, map.path, Cause::NoFrontend { service: service() });
            }
            if is_empty(map, "backends") {
                problems.add(map.node.at, map.path, Cause::NoBackend { service: service() });
            }
        }
        Some(Service {
            name,
            frontends,
            backends,
            policy: behaviour.policy,
            affinity_s: behaviour.affinity_s,
            tracked: behaviour.tracked,
            ejects: behaviour.ejects,
            http2: behaviour.http2,
            user_timeout_ms: behaviour.user_timeout_ms,
            keepalive: behaviour.keepalive,
            drain_timeout_s: behaviour.drain_timeout_s,
            move_patience_ms: behaviour.move_patience_ms,
        })
    }

    fn name(&mut self, map: &Mapping<'_>, problems: &mut Problems) -> Option<ServiceName> {
        let decode = |node: &Node<'_>| ServiceName::new(scalar::text(node)?).map_err(Cause::Name);
        let name = map.require("name", "name: payments", problems, decode)?;
        let at = map.get("name").map_or(map.node.at, |node| node.at);
        if let Some(first_line) = self.names.insert(name.clone(), at.line) {
            self.names.insert(name.clone(), first_line);
            let cause = Cause::NameTaken { name: name.to_string(), first_line };
            problems.add(at, map.path.key("name"), cause);
        }
        Some(name)
    }

    fn frontends(
        &mut self,
        map: &Mapping<'_>,
        service: Option<&ServiceName>,
        both: Option<&Lookup>,
        problems: &mut Problems,
    ) -> BTreeSet<FrontendSource> {
        let mut frontends = BTreeSet::new();
        let path = map.path.key("frontends");
        for (index, node) in map.list("frontends", problems).iter().enumerate() {
            let path = path.item(index);
            if let Some(frontend) = endpoint::frontend(node, path, problems) {
                self.take(&frontend, service, node.at, path, problems);
                frontends.insert(frontend);
            }
        }
        if let (Some(lookup), Some(node)) = (both, map.get("dns")) {
            let frontend = FrontendSource::Resolved(lookup.clone());
            self.take(&frontend, service, node.at, map.path.key("dns"), problems);
            frontends.insert(frontend);
        }
        frontends
    }

    /// Notes whose a frontend is. Two services cannot share one: connections to it would have to
    /// choose between them.
    fn take(
        &mut self,
        frontend: &FrontendSource,
        service: Option<&ServiceName>,
        at: Position,
        path: KeyPath<'_>,
        problems: &mut Problems,
    ) {
        let Some(service) = service else { return };
        if let Some((first_service, first_line)) = self.frontends.get(frontend) {
            let cause = Cause::FrontendTaken {
                frontend: match frontend {
                    FrontendSource::Fixed(address) => address.to_string(),
                    FrontendSource::Resolved(lookup) => lookup.to_string(),
                },
                service: service.to_string(),
                first_service: first_service.to_string(),
                first_line: *first_line,
            };
            problems.add(at, path, cause);
        } else {
            self.frontends.insert(frontend.clone(), (service.clone(), at.line));
        }
    }
}

fn is_empty(map: &Mapping<'_>, key: &str) -> bool {
    map.get(key).is_none_or(|node| node.value == Value::List(Vec::new()))
}

/// What names a backend within its service, whatever its weight and state.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum BackendKey {
    Fixed(SocketAddr),
    Resolved(Lookup),
}

fn backends(
    map: &Mapping<'_>,
    both: Option<&Lookup>,
    problems: &mut Problems,
) -> BTreeSet<BackendSource> {
    let mut first_lines = BTreeMap::new();
    let mut backends = BTreeSet::new();
    if let (Some(lookup), Some(node)) = (both, map.get("dns")) {
        first_lines.insert(BackendKey::Resolved(lookup.clone()), node.at.line);
        backends.insert(BackendSource::Resolved { lookup: lookup.clone(), weight: 1 });
    }
    let path = map.path.key("backends");
    for (index, node) in map.list("backends", problems).iter().enumerate() {
        let path = path.item(index);
        let Some(backend) = endpoint::backend(node, path, problems) else {
            continue;
        };
        let (key, shown) = match &backend {
            BackendSource::Fixed(endpoint) => {
                (BackendKey::Fixed(endpoint.address), endpoint.address.to_string())
            }
            BackendSource::Resolved { lookup, .. } => {
                (BackendKey::Resolved(lookup.clone()), lookup.to_string())
            }
        };
        let first_line = *first_lines.entry(key).or_insert(node.at.line);
        if first_line != node.at.line || backends.contains(&backend) {
            problems.add(node.at, path, Cause::BackendTwice { backend: shown, first_line });
        }
        backends.insert(backend);
    }
    backends
}

/// Refuses what the maps cannot hold. What DNS adds later is bounded where it is planned.
fn check_limits(
    services: &[Service],
    limits: &Limits,
    at: Position,
    path: KeyPath<'_>,
    problems: &mut Problems,
) {
    let frontends = |wanted: fn(&SocketAddr) -> bool| {
        let fixed = |source: &&FrontendSource| match source {
            FrontendSource::Fixed(address) => wanted(address),
            FrontendSource::Resolved(_) => false,
        };
        services.iter().map(|service| service.frontends.iter().filter(fixed).count()).sum()
    };
    let fixed = |source: &&BackendSource| matches!(source, BackendSource::Fixed(_));
    let backends = services.iter().map(|service| service.backends.iter().filter(fixed).count());
    // Id 0 belongs to the self-test, which has one frontend of each family and one backend too.
    let counts: [(usize, &'static str, u32, &'static str); 4] = [
        (services.len(), "services", limits.services - 1, "limits.services"),
        (backends.sum(), "backends", limits.backends - 1, "limits.backends"),
        (
            frontends(SocketAddr::is_ipv4),
            "IPv4 frontends",
            limits.frontends - 1,
            "limits.frontends",
        ),
        (
            frontends(SocketAddr::is_ipv6),
            "IPv6 frontends",
            limits.frontends - 1,
            "limits.frontends",
        ),
    ];
    for (count, what, max, key) in counts {
        if usize::try_from(max).is_ok_and(|max| count > max) {
            problems.add(at, path, Cause::Limit { count, what, max, key });
        }
    }
}
