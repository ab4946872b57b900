//! What is observed of the world: services, where their endpoints come from, and how to pick one.

use balancer_common::service;
use std::{
    borrow::Borrow, collections::BTreeSet, fmt, net::SocketAddr, num::NonZeroU32, sync::Arc,
};

/// The unique name of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// Accepts a name of 1 to [`service::SERVICE_NAME_BYTES`] bytes without control characters.
    ///
    /// # Errors
    /// Says what is wrong with the name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > service::SERVICE_NAME_BYTES {
            return Err(NameError::TooLong { bytes: name.len() });
        }
        if name.chars().any(char::is_control) {
            return Err(NameError::ControlCharacter);
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name equals, orders and hashes as its text does.
impl Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no service name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("the name is empty")]
    Empty,
    /// It does not fit the kernel's record.
    #[error("the name has {bytes} bytes; at most {} fit", service::SERVICE_NAME_BYTES)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It would garble a terminal or a log.
    #[error("the name has a control character")]
    ControlCharacter,
}

/// How a backend is picked for a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Connections of a pod take the backends in turn.
    RoundRobin,
    /// At random.
    Random,
    /// The fewest connections for its weight.
    LeastConnection,
    /// The fewest connections and requests in flight for its weight. Requests are known where HTTP/2
    /// frames are followed; elsewhere it is the same as [`Self::LeastConnection`].
    #[default]
    LeastRequest,
    /// By consistent hashing of the client pod.
    Maglev,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 5] =
        [Self::RoundRobin, Self::Random, Self::LeastConnection, Self::LeastRequest, Self::Maglev];

    /// The kernel's code for this policy.
    pub const fn code(self) -> u32 {
        match self {
            Self::RoundRobin => service::POLICY_ROUND_ROBIN,
            Self::Random => service::POLICY_RANDOM,
            Self::LeastConnection => service::POLICY_LEAST_CONNECTION,
            Self::LeastRequest => service::POLICY_LEAST_REQUEST,
            Self::Maglev => service::POLICY_MAGLEV,
        }
    }

    /// Whether it needs the connection counts that tracking gives.
    pub const fn needs_counts(self) -> bool {
        matches!(self, Self::LeastConnection | Self::LeastRequest)
    }

    /// The name in configuration and commands.
    pub const fn name(self) -> &'static str {
        service::policy_name(self.code())
    }
}

/// Whether an endpoint takes new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointState {
    /// Takes new connections.
    #[default]
    Active,
    /// Takes no new connections for now and may do so again, such as one that is not ready; live
    /// ones stay, whatever the time.
    Inactive,
    /// Shuts down: takes no new connections; live ones stay for as long as the service allows.
    Draining,
}

/// An address and port that serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Relative share of connections, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// Whether it takes new connections.
    pub state: EndpointState,
}

/// Largest weight of an endpoint.
pub const WEIGHT_MAX: u32 = 1_000;

/// What to ask DNS for, and so the name of a set of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lookup {
    /// A and AAAA records of `host`; every address serves on `port`.
    Host {
        /// Lower case, without the trailing dot.
        host: Arc<str>,
        /// The port, which A and AAAA records do not carry.
        port: u16,
    },
    /// SRV records of `name` (RFC 2782), which carry port and weight.
    Srv {
        /// Lower case, without the trailing dot; for example `_grpc._tcp.shop.internal`.
        name: Arc<str>,
    },
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Srv { name } => write!(f, "srv:{name}"),
        }
    }
}

/// A member of a set that DNS told of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// Address and port.
    pub address: SocketAddr,
    /// From SRV; 1 otherwise.
    pub weight: u32,
    /// Whether it stands in the current answer.
    pub presence: Presence,
}

/// Whether a member stands in the current answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Presence {
    /// It does, or has been missing for too short a time to count.
    Present,
    /// It left a while ago: clients that remember it may still dial it, so that it stays a
    /// frontend; as a backend it drains.
    Departed,
}

/// Where a service's frontends come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendSource {
    /// One fixed address and port.
    Fixed(SocketAddr),
    /// Every member of a DNS set.
    Resolved(Lookup),
}

/// Where a service's backends come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendSource {
    /// One fixed endpoint.
    Fixed(Endpoint),
    /// Every member of a DNS set, with weights times `weight`.
    Resolved {
        /// The set.
        lookup: Lookup,
        /// Factor on each member's weight.
        weight: u32,
    },
}

/// TCP keepalive of a service's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keepalive {
    /// Idle time before the first probe, in seconds.
    pub idle_s: NonZeroU32,
    /// Time between probes, in seconds.
    pub interval_s: NonZeroU32,
    /// Unanswered probes before the connection is given up.
    pub probes: NonZeroU32,
}

/// How a service treats its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Behaviour {
    /// How a backend is picked.
    pub policy: Policy,
    /// Session affinity in seconds since a pod's last connection.
    pub affinity_s: Option<NonZeroU32>,
    /// `TCP_USER_TIMEOUT` in milliseconds.
    pub user_timeout_ms: Option<NonZeroU32>,
    /// TCP keepalive.
    pub keepalive: Option<Keepalive>,
    /// How long a draining backend keeps its connections, in seconds; for ever if not set.
    pub drain_timeout_s: Option<NonZeroU32>,
    /// Whether connections are tracked from `connect()` to their end.
    pub tracked: bool,
    /// Whether failing backends are passed over for a while.
    pub ejects: bool,
    /// Whether HTTP/2 frames of tracked connections are followed, and live connections moved.
    pub http2: bool,
    /// How long a move waits for a moment without open streams, in milliseconds, before calmer ones among the
    /// others and then any boundary between frames will do; if not set, none ever does.
    pub move_patience_ms: Option<u32>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            affinity_s: None,
            user_timeout_ms: None,
            keepalive: None,
            drain_timeout_s: None,
            tracked: true,
            ejects: true,
            http2: true,
            move_patience_ms: Some(500),
        }
    }
}

/// A named set of frontends and backends with one policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Unique over all sources.
    pub name: ServiceName,
    /// What clients dial.
    pub frontends: BTreeSet<FrontendSource>,
    /// What serves.
    pub backends: BTreeSet<BackendSource>,
    /// How a backend is picked.
    pub policy: Policy,
    /// Session affinity in seconds since a pod's last connection.
    pub affinity_s: Option<NonZeroU32>,
    /// Whether connections are tracked from `connect()` to their end. Without it there are no
    /// connection counts, no original peer name, no least-connection or least-request, no ejection, and
    /// no moves.
    pub tracked: bool,
    /// Whether backends that fail, or end connections by themselves, are passed over for a while.
    pub ejects: bool,
    /// Whether HTTP/2 frames of tracked connections are followed, and live connections moved.
    pub http2: bool,
    /// How long a move waits for a moment without open streams, as [`Behaviour::move_patience_ms`].
    pub move_patience_ms: Option<u32>,
    /// `TCP_USER_TIMEOUT` in milliseconds.
    pub user_timeout_ms: Option<NonZeroU32>,
    /// TCP keepalive.
    pub keepalive: Option<Keepalive>,
    /// How long a draining backend keeps its connections, in seconds; for ever if not set.
    pub drain_timeout_s: Option<NonZeroU32>,
}

impl Service {
    /// Whether HTTP/2 frames of its connections are followed: only those of tracked ones can be.
    pub const fn is_followed(&self) -> bool {
        self.tracked && self.http2
    }

    /// The DNS sets that this service needs.
    pub fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        let frontends = self.frontends.iter().filter_map(|source| match source {
            FrontendSource::Fixed(_) => None,
            FrontendSource::Resolved(lookup) => Some(lookup),
        });
        let backends = self.backends.iter().filter_map(|source| match source {
            BackendSource::Fixed(_) => None,
            BackendSource::Resolved { lookup, .. } => Some(lookup),
        });
        frontends.chain(backends)
    }
}
