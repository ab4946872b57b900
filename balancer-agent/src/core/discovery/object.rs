//! What is kept of Kubernetes objects: only what decides about balancing, so that a hundred
//! thousand endpoints stay small. Values are checked already; what was refused is listed with them.

use crate::core::model::{Behaviour, Keepalive, Policy};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
};

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace; empty for objects that have none.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

/// `metadata.resourceVersion`, where it can be compared: the API promises a decimal number that
/// grows with each change of any object of one kind (KEP-5504).
pub type Version = Option<u64>;

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceObject {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// How it is addressed.
    pub kind: ServiceKind,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// The annotation `balancer.dev/balance`.
    pub balance: Option<bool>,
    /// Whether another proxy is in charge (`service.kubernetes.io/service-proxy-name`).
    pub foreign: bool,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `internalTrafficPolicy: Local`.
    pub local_only: bool,
    /// `sessionAffinity: ClientIP`, in seconds.
    pub affinity_s: Option<NonZeroU32>,
    /// Names from external-dns annotations, in lower case and without the trailing dot.
    pub hosts: Vec<Arc<str>>,
    /// What annotations say about connections.
    pub overrides: Overrides,
    /// What of the object was refused.
    pub faults: Vec<Fault>,
}

/// How a Service is addressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// By virtual addresses, one for each family.
    Cluster(Vec<IpAddr>),
    /// By the addresses of its pods.
    Headless,
    /// By a name elsewhere, or not at all yet: nothing to balance.
    Other,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty if it has none.
    pub name: Arc<str>,
    /// Its number, never zero.
    pub number: u16,
    /// Whether name or `appProtocol` say that it speaks HTTP/2.
    pub speaks_h2: bool,
}

/// Settings that annotations override; the inner `None` is `off`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// How a backend is picked.
    pub policy: Option<Policy>,
    /// The weight of every backend.
    pub weight: Option<u32>,
    /// Session affinity in seconds.
    pub affinity_s: Option<Option<NonZeroU32>>,
    /// `TCP_USER_TIMEOUT` in milliseconds.
    pub user_timeout_ms: Option<Option<NonZeroU32>>,
    /// TCP keepalive.
    pub keepalive: Option<Option<Keepalive>>,
    /// How long draining backends keep connections, in seconds.
    pub drain_timeout_s: Option<Option<NonZeroU32>>,
    /// Whether connections are tracked.
    pub tracked: Option<bool>,
    /// Whether failing backends are passed over.
    pub ejects: Option<bool>,
    /// Whether HTTP/2 frames are followed, and live connections moved.
    pub http2: Option<bool>,
    /// How long a move waits for a quiet moment, in milliseconds.
    pub move_patience_ms: Option<Option<u32>>,
}

/// A part of an object that was refused: the rest of the object counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where it stands, such as `metadata.annotations[balancer.dev/policy]`.
    pub field: String,
    /// What is wrong.
    pub cause: String,
    /// How to mend it.
    pub fix: String,
}

/// An object that was refused as a whole. What was known of it before stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The Service that it belongs to, if that can be told.
    pub service: Option<ObjectKey>,
    /// What is wrong.
    pub fault: Fault,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceObject {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The Service that it belongs to (label `kubernetes.io/service-name`).
    pub service: Arc<str>,
    /// Whether its addresses are IPv6.
    pub v6: bool,
    /// Its TCP ports.
    pub ports: Box<[SlicePort]>,
    /// Its endpoints.
    pub endpoints: Box<[SliceEndpoint]>,
    /// What of the object was refused.
    pub faults: Vec<Fault>,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service's port that it serves.
    pub name: Arc<str>,
    /// Where pods listen, never zero.
    pub number: u16,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// How it is.
    pub readiness: Readiness,
    /// The pod that it is, if it is one (`targetRef`).
    pub pod: Option<PodKey>,
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
    /// Zones that it is meant for (`hints.forZones`).
    pub zones: Option<Arc<[Arc<str>]>>,
    /// Nodes that it is meant for (`hints.forNodes`).
    pub nodes: Option<Arc<[Arc<str>]>>,
}

/// Which pod an endpoint is: its `metadata.uid`, which no other pod ever has. 16 bytes, since there
/// may be a hundred thousand of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey([u8; 16]);

/// The conditions of an endpoint, best first: named twice, the better one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// Takes connections.
    Ready,
    /// Shuts down, and still answers.
    Terminating,
    /// Does not answer; connections that it has may still end well.
    NotServing,
    /// Does not answer and shuts down.
    Stopping,
}

/// The own Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeObject {
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
}

// === impl ObjectKey ===

impl ObjectKey {
    /// The key of an object.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl PodKey ===

impl PodKey {
    /// Reads a UID as the API server makes them: a UUID (RFC 9562) in hexadecimal with dashes.
    pub fn new(uid: &str) -> Option<Self> {
        let dashed =
            uid.len() == 36 && [8, 13, 18, 23].iter().all(|at| uid.as_bytes()[*at] == b'-');
        let digits = uid.bytes().filter(|byte| *byte != b'-');
        if !dashed || digits.clone().count() != 32 {
            return None;
        }
        digits
            .map(|digit| char::from(digit).to_digit(16))
            .try_fold(0_u128, |key, digit| Some(key << 4 | u128::from(digit?)))
            .map(|key| Self(key.to_be_bytes()))
    }
}

// === impl ServiceObject ===

impl ServiceObject {
    /// Whether connections to `port` are balanced: only those that were declared for it.
    pub fn balances(&self, port: &ServicePort) -> bool {
        let asked = match (&self.kind, self.balance) {
            // StatefulSets and their like know their pods by address.
            (ServiceKind::Other, _) | (ServiceKind::Headless, None) => false,
            (_, Some(balance)) => balance,
            (ServiceKind::Cluster(_), None) => port.speaks_h2,
        };
        asked && !self.foreign
    }

    /// Whether any port is balanced.
    pub fn is_balanced(&self) -> bool {
        self.ports.iter().any(|port| self.balances(port))
    }

    /// How connections are treated: annotations before the Service's own fields before `defaults`.
    pub fn behaviour(&self, defaults: &Behaviour) -> Behaviour {
        let overrides = &self.overrides;
        Behaviour {
            policy: overrides.policy.unwrap_or(defaults.policy),
            affinity_s: overrides
                .affinity_s
                .unwrap_or_else(|| self.affinity_s.or(defaults.affinity_s)),
            user_timeout_ms: overrides.user_timeout_ms.unwrap_or(defaults.user_timeout_ms),
            keepalive: overrides.keepalive.unwrap_or(defaults.keepalive),
            drain_timeout_s: overrides.drain_timeout_s.unwrap_or(defaults.drain_timeout_s),
            tracked: overrides.tracked.unwrap_or(defaults.tracked),
            ejects: overrides.ejects.unwrap_or(defaults.ejects),
            http2: overrides.http2.unwrap_or(defaults.http2),
            move_patience_ms: overrides.move_patience_ms.unwrap_or(defaults.move_patience_ms),
        }
    }
}

// === impl SliceObject ===

impl SliceObject {
    /// The key of its Service.
    pub fn owner(&self) -> ObjectKey {
        ObjectKey { namespace: self.key.namespace.clone(), name: self.service.clone() }
    }

    /// Every address and port that serves the Service's port `name`.
    pub fn addresses<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (SocketAddr, &'a SliceEndpoint)> {
        let ports = self.ports.iter().filter(move |port| *port.name == *name);
        ports.flat_map(|port| {
            let at = |endpoint: &SliceEndpoint| SocketAddr::new(endpoint.address, port.number);
            self.endpoints.iter().map(move |endpoint| (at(endpoint), endpoint))
        })
    }
}
