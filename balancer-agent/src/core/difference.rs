//! What differs between the desired state and the maps, in words: the heart of `status`.

use super::{
    Core,
    desired::{self, Desired},
    kernel::socket,
    model::ServiceName,
    write::{KernelService, KernelState},
};
use balancer_common::{
    backend::{STATE_GONE, state_name},
    service::{SERVICE_EJECTS, SERVICE_HTTP2, SERVICE_TRACKED, policy_name},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// One thing that is not as desired.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Difference {
    /// The service that it belongs to; empty if it belongs to none.
    pub service: String,
    /// What differs.
    pub text: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.service.is_empty() {
            return f.write_str(&self.text);
        }
        write!(f, "service `{}`: {}", self.service, self.text)
    }
}

// === impl Core ===

impl Core {
    /// Compares the maps, as they were read back, with what they should hold. Services that were
    /// refused are problems, not differences, and are left out.
    pub fn differences(&self, kernel: &KernelState) -> Vec<Difference> {
        let mut found = Findings::default();
        let by_name: BTreeMap<&str, (u32, &KernelService)> =
            kernel.services.iter().map(|(id, s)| (s.name.as_str(), (*id, s))).collect();
        let backends = backends_by_service(kernel);
        let mut declared = BTreeSet::new();
        for (_, service) in self.observed.services() {
            declared.insert(service.name.as_str());
            if self.refused.contains_key(&service.name) {
                continue;
            }
            let Some(desired) = self.desired(&service.name) else {
                continue;
            };
            found.service = service.name.to_string();
            let Some((id, held)) = by_name.get(service.name.as_str()) else {
                found.add("is missing in the kernel".into());
                continue;
            };
            compare_settings(&mut found, &desired, held);
            compare_slots(&mut found, &desired, held, kernel);
            compare_backends(&mut found, &desired, backends.get(id));
            for address in &desired.frontends {
                match kernel.frontends.get(address) {
                    Some(service) if service == id => {}
                    Some(other) => {
                        found.add(format!("frontend {address} leads to service id {other}"));
                    }
                    None => found.add(format!("frontend {address} is missing in the kernel")),
                }
            }
        }
        self.find_leftovers(&mut found, kernel, &declared);
        found.list.sort_unstable();
        found.list
    }

    /// What the maps hold and nobody declares. Before all sources have spoken, everything may yet
    /// be declared.
    fn find_leftovers(
        &self,
        found: &mut Findings,
        kernel: &KernelState,
        declared: &BTreeSet<&str>,
    ) {
        if !self.observed.silent.is_empty() {
            return;
        }
        for service in kernel.services.values() {
            if !declared.contains(service.name.as_str()) {
                found.service.clone_from(&service.name);
                found.add("is in the kernel, but no source declares it".into());
            }
        }
        for (address, id) in &kernel.frontends {
            let name = kernel.services.get(id).map_or("", |service| service.name.as_str());
            let refused = ServiceName::new(name).is_ok_and(|name| self.refused.contains_key(&name));
            let owner = self.observed.owner(address).map(ServiceName::as_str);
            if owner != Some(name) && !refused {
                name.clone_into(&mut found.service);
                found.add(format!("frontend {address} is in the kernel, but is not the service's"));
            }
        }
        for (id, record) in &kernel.backends {
            if record.state != STATE_GONE && !kernel.services.contains_key(&record.service) {
                found.service = String::new();
                let (address, service) = (socket(record), record.service);
                found.add(format!("backend {id} ({address}) belongs to service id {service}, which is not in the kernel"));
            }
        }
    }
}

#[derive(Default)]
struct Findings {
    service: String,
    list: Vec<Difference>,
}

// === impl Findings ===

impl Findings {
    fn add(&mut self, text: String) {
        self.list.push(Difference { service: self.service.clone(), text });
    }

    fn compare<T: Copy + PartialEq + std::fmt::Display>(
        &mut self,
        what: &str,
        kernel: T,
        desired: T,
    ) {
        if kernel != desired {
            self.add(format!("{what} is {kernel} in the kernel, should be {desired}"));
        }
    }
}

fn compare_settings(found: &mut Findings, desired: &Desired, held: &KernelService) {
    let (record, settings) = (&held.record, &desired.settings);
    let bank = record.bank();
    found.compare("policy", policy_name(bank.policy), desired.policy.name());
    found.compare("affinity in seconds", bank.affinity_s, desired.affinity_s);
    let tracked = |flags: u32| flags & SERVICE_TRACKED != 0;
    found.compare("tracking", tracked(record.flags), tracked(settings.flags));
    let ejects = |flags: u32| flags & SERVICE_EJECTS != 0;
    found.compare("ejection", ejects(record.flags), ejects(settings.flags));
    let http2 = |flags: u32| flags & SERVICE_HTTP2 != 0;
    found.compare("HTTP/2", http2(record.flags), http2(settings.flags));
    found.compare("user time-out in ms", record.user_timeout_ms, settings.user_timeout_ms);
    found.compare("keepalive idle in s", record.keepalive_idle_s, settings.keepalive_idle_s);
    found.compare(
        "keepalive interval in s",
        record.keepalive_interval_s,
        settings.keepalive_interval_s,
    );
    found.compare("keepalive probes", record.keepalive_probes, settings.keepalive_probes);
}

fn compare_slots(
    found: &mut Findings,
    desired: &Desired,
    held: &KernelService,
    kernel: &KernelState,
) {
    let Some(slots) = desired::slots(desired.policy, &desired.backends) else {
        return;
    };
    let families = [("IPv4", &held.slots_v4, &slots.v4), ("IPv6", &held.slots_v6, &slots.v6)];
    for (family, ids, wanted) in families {
        let addresses: Vec<Option<SocketAddr>> =
            ids.iter().map(|id| kernel.backends.get(id).map(socket)).collect();
        if !addresses.iter().eq(wanted
            .iter()
            .map(|address| Some(*address))
            .collect::<Vec<_>>()
            .iter())
        {
            let count = |set: BTreeSet<SocketAddr>| set.len();
            let held = count(addresses.iter().flatten().copied().collect());
            let wanted_count = count(wanted.iter().copied().collect());
            found.add(format!(
                "{family} slots differ: {} slots of {held} backends in the kernel, should be {} of \
                 {wanted_count}",
                ids.len(),
                wanted.len()
            ));
        }
    }
}

type BackendsOfService = BTreeMap<SocketAddr, (u32, u32)>;

fn backends_by_service(kernel: &KernelState) -> BTreeMap<u32, BackendsOfService> {
    let mut by_service: BTreeMap<u32, BackendsOfService> = BTreeMap::new();
    for record in kernel.backends.values().filter(|record| record.state != STATE_GONE) {
        let backends = by_service.entry(record.service).or_default();
        backends.insert(socket(record), (record.state, record.weight));
    }
    by_service
}

fn compare_backends(found: &mut Findings, desired: &Desired, held: Option<&BackendsOfService>) {
    for (address, backend) in &desired.backends {
        let Some((state, weight)) = held.and_then(|held| held.get(address)) else {
            found.add(format!("backend {address} is missing in the kernel"));
            continue;
        };
        found.compare(
            &format!("backend {address}"),
            state_name(*state),
            state_name(backend.state.code()),
        );
        found.compare(&format!("weight of backend {address}"), *weight, backend.weight);
    }
    for address in held.into_iter().flat_map(BTreeMap::keys) {
        if !desired.backends.contains_key(address) {
            found.add(format!("backend {address} is in the kernel, but should be gone"));
        }
    }
}
