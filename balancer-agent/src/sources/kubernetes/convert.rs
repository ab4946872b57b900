//! From the API's objects to the little that discovery keeps of them. Nothing is trusted: what the
//! API server's validation should have refused is refused here too, with its field, cause and fix.
#![expect(clippy::result_large_err, reason = "what is malformed is rare, and says all of itself")]

use super::{
    annotation,
    intern::Interner,
    slice::{Endpoint, Named, Slice, Target},
};
use crate::core::discovery::{
    Fault, Malformed, NodeObject, ObjectKey, PodKey, Readiness, ServiceKind, ServiceObject,
    ServicePort, SliceEndpoint, SliceObject, SlicePort, Version,
};
use k8s_openapi::{
    api::core::v1::{Node, Service, ServicePort as ApiPort, ServiceSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{net::IpAddr, num::NonZeroU32, sync::Arc};

/// The label that says which Service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that puts another proxy in charge of a Service.
pub(super) const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The label that says in which zone a Node is.
const ZONE: &str = "topology.kubernetes.io/zone";
/// `appProtocol`s of services that speak HTTP/2 without TLS, or gRPC.
const H2_PROTOCOLS: [&str; 3] = ["grpc", "kubernetes.io/h2c", "kubernetes.io/grpc"];
/// Most endpoints and ports of a slice (validation of discovery.k8s.io/v1).
const ENDPOINTS_MAX: usize = 1_000;
const PORTS_MAX: usize = 20_000;
/// What Kubernetes takes for `sessionAffinity: ClientIP` without a timeout, and the longest one.
const AFFINITY_S: i32 = 10_800;
const AFFINITY_S_MAX: i32 = 86_400;
/// Most faults of one object that are told of.
const FAULTS_MAX: usize = 8;

/// Faults of one object, of which the first few are kept.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, cause: impl Into<String>, fix: &str) {
        if self.0.len() < FAULTS_MAX {
            let (field, cause) = (field.into(), cause.into());
            self.0.push(Fault { field, cause, fix: fix.to_owned() });
        }
    }
}

/// The version of an object.
pub(super) fn version(metadata: &ObjectMeta) -> Version {
    metadata.resource_version.as_deref()?.parse().ok()
}

/// Namespace and name of an object; empty where they are missing.
pub(super) fn key(metadata: &ObjectMeta) -> ObjectKey {
    let text = |text: &Option<String>| excerpt(text.as_deref().unwrap_or_default());
    ObjectKey::new(&text(&metadata.namespace), &text(&metadata.name))
}

/// An object that is refused as a whole.
pub(super) fn malformed(
    metadata: &ObjectMeta,
    field: &str,
    cause: impl Into<String>,
    fix: &str,
) -> Malformed {
    let key = key(metadata);
    let labels = metadata.labels.as_ref();
    let service = labels
        .and_then(|labels| labels.get(SERVICE_NAME))
        .map(|name| ObjectKey { namespace: key.namespace.clone(), name: excerpt(name).into() });
    let (field, cause) = (field.to_owned(), cause.into());
    Malformed { key, service, fault: Fault { field, cause, fix: fix.to_owned() } }
}

fn check_key(metadata: &ObjectMeta) -> Result<ObjectKey, Malformed> {
    let key = key(metadata);
    if key.namespace.is_empty() || key.name.is_empty() {
        let cause = "namespace or name is missing";
        return Err(malformed(metadata, "metadata", cause, "apply the object anew"));
    }
    Ok(key)
}

/// What is kept of a Service.
pub(super) fn service(service: &Service) -> Result<ServiceObject, Malformed> {
    let metadata = &service.metadata;
    let key = check_key(metadata)?;
    let no_spec = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&no_spec);
    let refuse = |field: &str, cause: String, fix: &str| malformed(metadata, field, cause, fix);
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        if !is_tcp(port.protocol.as_deref()) {
            continue;
        }
        let number = dialled(port.port).ok_or_else(|| {
            let field = format!("spec.ports[{index}].port");
            refuse(&field, format!("{} is no port", port.port), "choose one from 1 to 65535")
        })?;
        let name = port.name.as_deref().unwrap_or_default();
        ports.push(ServicePort { name: name.into(), number, speaks_h2: speaks_h2(name, port) });
    }
    let kind = service_kind(spec)
        .map_err(|(field, cause)| refuse(field, cause, "let Kubernetes allocate the address"))?;
    let mut faults = Faults::default();
    let affinity_s = affinity(spec, &mut faults);
    let no_annotations = std::collections::BTreeMap::new();
    let said = annotation::read_all(metadata.annotations.as_ref().unwrap_or(&no_annotations));
    faults.0.extend(said.faults);
    Ok(ServiceObject {
        key,
        uid: metadata.uid.as_deref().unwrap_or_default().into(),
        kind,
        ports,
        balance: said.balance,
        foreign: metadata.labels.iter().any(|labels| labels.contains_key(PROXY_NAME)),
        publish_not_ready: spec.publish_not_ready_addresses == Some(true),
        local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
        affinity_s,
        hosts: said.hosts,
        overrides: said.overrides,
        faults: faults.0,
    })
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

fn dialled(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

fn speaks_h2(name: &str, port: &ApiPort) -> bool {
    let protocol = port.app_protocol.as_deref();
    protocol.is_some_and(|protocol| H2_PROTOCOLS.contains(&protocol))
        || name == "grpc"
        || name.starts_with("grpc-")
}

/// How a Service is addressed, or the field that is wrong and why.
fn service_kind(spec: &ServiceSpec) -> Result<ServiceKind, (&'static str, String)> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(ServiceKind::Other);
    }
    let single = spec.cluster_ip.iter();
    let written: Vec<&String> = match &spec.cluster_ips {
        Some(all) if !all.is_empty() => all.iter().collect(),
        _ => single.collect(),
    };
    if written.iter().any(|text| *text == "None") {
        return Ok(ServiceKind::Headless);
    }
    let mut addresses = Vec::new();
    for text in written.into_iter().filter(|text| !text.is_empty()) {
        let address = address(text, None).map_err(|cause| ("spec.clusterIPs", cause))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    // No address yet: the API server is about to allocate one.
    Ok(if addresses.is_empty() { ServiceKind::Other } else { ServiceKind::Cluster(addresses) })
}

fn affinity(spec: &ServiceSpec, faults: &mut Faults) -> Option<NonZeroU32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let timeout_s = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let timeout_s = timeout_s.unwrap_or(AFFINITY_S);
    if !(1..=AFFINITY_S_MAX).contains(&timeout_s) {
        faults.add(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!(
                "{timeout_s} is out of range: from 1 to {AFFINITY_S_MAX}; {AFFINITY_S} applies"
            ),
            "choose a number in that range",
        );
        return NonZeroU32::new(AFFINITY_S.unsigned_abs());
    }
    NonZeroU32::new(timeout_s.unsigned_abs())
}

/// What is kept of a slice; `None` if it belongs to no Service or has no IP addresses.
pub(super) fn slice(
    metadata: &ObjectMeta,
    slice: &Slice<'_>,
    interner: &mut Interner,
) -> Result<Option<SliceObject>, Malformed> {
    let labels = metadata.labels.as_ref();
    let owner = labels.and_then(|labels| labels.get(SERVICE_NAME)).filter(|name| !name.is_empty());
    let foreign = labels.is_some_and(|labels| labels.contains_key(PROXY_NAME));
    let v6 = match slice.address_type.as_deref().unwrap_or_default() {
        "IPv4" => false,
        "IPv6" => true,
        "FQDN" => return Ok(None),
        other => {
            let cause = format!("`{}` is none of IPv4, IPv6, FQDN", excerpt(other));
            return Err(malformed(metadata, "addressType", cause, "choose one of them"));
        }
    };
    let Some(owner) = owner.filter(|_| !foreign) else {
        return Ok(None);
    };
    let key = check_key(metadata)?;
    let written = slice.endpoints.as_deref().unwrap_or_default();
    let count = written.len();
    if count > ENDPOINTS_MAX {
        let cause = format!("{count} endpoints are more than the {ENDPOINTS_MAX} of one slice");
        return Err(malformed(metadata, "endpoints", cause, "split it into several slices"));
    }
    let mut faults = Faults::default();
    let ports = slice_ports(metadata, slice, interner)?;
    let mut endpoints = Vec::with_capacity(count);
    for (index, it) in written.iter().enumerate() {
        match endpoint(it, v6, interner) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(cause) => {
                let field = format!("endpoints[{index}].addresses");
                faults.add(field, cause, "give the address of one host that others can reach");
            }
        }
    }
    Ok(Some(SliceObject {
        key,
        service: excerpt(owner).into(),
        v6,
        ports,
        endpoints: endpoints.into(),
        faults: faults.0,
    }))
}

fn slice_ports(
    metadata: &ObjectMeta,
    slice: &Slice<'_>,
    interner: &mut Interner,
) -> Result<Box<[SlicePort]>, Malformed> {
    let written = slice.ports.as_deref().unwrap_or_default();
    if written.len() > PORTS_MAX {
        let cause = format!("{} ports are more than the {PORTS_MAX} of one slice", written.len());
        return Err(malformed(metadata, "ports", cause, "split it into several slices"));
    }
    let mut ports = Vec::new();
    for (index, port) in written.iter().enumerate() {
        // A port without a number stands for all ports, which is no Service's.
        let (true, Some(number)) = (is_tcp(port.protocol.as_deref()), port.number) else {
            continue;
        };
        let Some(number) = dialled(number) else {
            let field = format!("ports[{index}].port");
            let cause = format!("{number} is no port");
            return Err(malformed(metadata, &field, cause, "choose one from 1 to 65535"));
        };
        let name = interner.get(port.name.as_deref().unwrap_or_default());
        let port = SlicePort { name, number };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports.into())
}

fn endpoint(
    endpoint: &Endpoint<'_>,
    v6: bool,
    interner: &mut Interner,
) -> Result<SliceEndpoint, String> {
    // "No semantics are defined for additional addresses beyond the first, and kube-proxy does not
    // look at them" (discovery.k8s.io/v1).
    let written = endpoint.addresses.iter().flatten().next().ok_or("there is no address")?;
    let address = address(written, Some(v6))?;
    let conditions = endpoint.conditions.unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(true);
    let readiness = match (conditions.terminating.unwrap_or(false), ready, serving) {
        // `publishNotReadyAddresses` makes even terminating endpoints ready; they leave all the same.
        (true, _, true) => Readiness::Terminating,
        (true, _, false) => Readiness::Stopping,
        (false, true, _) => Readiness::Ready,
        (false, false, _) => Readiness::NotServing,
    };
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref());
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref());
    Ok(SliceEndpoint {
        address,
        readiness,
        pod: endpoint.target_ref.as_ref().and_then(pod),
        node: endpoint.node_name.as_deref().map(|name| interner.get(name)),
        zones: zones.map(|zones| interner.list(names(zones))),
        nodes: nodes.map(|nodes| interner.list(names(nodes))),
    })
}

fn names<'t>(named: &'t [Named<'_>]) -> impl Iterator<Item = &'t str> {
    named.iter().map(|it| &*it.name)
}

/// The pod that an endpoint is.
fn pod(target: &Target<'_>) -> Option<PodKey> {
    let is_pod = target.kind.as_deref() == Some("Pod");
    PodKey::new(target.uid.as_deref()?).filter(|_| is_pod)
}

/// An address that another host can have.
fn address(text: &str, v6: Option<bool>) -> Result<IpAddr, String> {
    let short = excerpt(text);
    let address: IpAddr = text.parse().map_err(|_| format!("`{short}` is no IP address"))?;
    if v6.is_some_and(|v6| v6 != address.is_ipv6()) {
        return Err(format!("{short} is not of the slice's address type"));
    }
    let (link_local, mapped) = match address {
        IpAddr::V4(v4) => (v4.is_link_local() || v4.is_broadcast(), false),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.to_ipv4_mapped().is_some()),
    };
    let kind = match address {
        _ if address.is_unspecified() => "unspecified",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        _ if link_local => "a link-local or broadcast address",
        _ if mapped => "an IPv4 address mapped into IPv6",
        _ => return Ok(address),
    };
    Err(format!("{short} is {kind}"))
}

/// What is kept of the own Node.
pub(super) fn node(node: &Node) -> NodeObject {
    let labels = node.metadata.labels.as_ref();
    let zone = labels.and_then(|labels| labels.get(ZONE)).filter(|zone| !zone.is_empty());
    NodeObject { zone: zone.map(|zone| Arc::from(zone.as_str())) }
}

/// Text that fits a message: Kubernetes' own names have at most 253 characters.
pub(super) fn excerpt(text: &str) -> String {
    if text.len() <= 253 && !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().take(253).flat_map(char::escape_debug).collect()
}
