//! What can go wrong when DNS is asked. It stands apart because servers, queries and the health
//! report all speak of it.

use hickory_resolver::{
    net::{DnsError, NetError},
    proto::op::ResponseCode,
};
use serde::Serialize;
use std::{io, net::SocketAddr, path::PathBuf};

/// Why there is no server to ask.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServersError {
    /// resolv.conf is missing or unreadable.
    #[error(
        "read the DNS servers from `{path}`: {cause}; hint: make the file readable, or name \
         servers under `dns.servers` in the configuration"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// resolv.conf names no server.
    #[error(
        "read the DNS servers from `{path}`: {cause}; hint: add a line `nameserver ADDRESS`, or \
         name servers under `dns.servers` in the configuration"
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        cause: NetError,
    },
    /// A resolver cannot be made.
    #[error("prepare queries to the DNS server {server}: {cause}; hint: restart the agent")]
    Build {
        /// The server.
        server: SocketAddr,
        /// What the resolver says.
        cause: NetError,
    },
}

/// What kind of failure a query met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No answer in time.
    Timeout,
    /// The server failed to find out (SERVFAIL).
    Servfail,
    /// The server does not serve us (REFUSED).
    Refused,
    /// The server was not reached.
    Network,
    /// The answer made no sense.
    Protocol,
    /// The name is none.
    Name,
    /// There is no server to ask; the cause was logged where it arose.
    Servers,
}

/// A query that brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) text: String,
}

// === impl FailureKind ===

impl FailureKind {
    /// The name that metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Servfail => "servfail",
            Self::Refused => "refused",
            Self::Network => "network",
            Self::Protocol => "protocol",
            Self::Name => "name",
            Self::Servers => "servers",
        }
    }

    /// What kind of failure `error` is.
    pub(super) fn of(error: &NetError) -> Self {
        match error {
            NetError::Timeout => FailureKind::Timeout,
            NetError::Io(_) | NetError::NoConnections | NetError::Busy => FailureKind::Network,
            NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => FailureKind::Servfail,
            NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => FailureKind::Refused,
            _ => FailureKind::Protocol,
        }
    }
}
