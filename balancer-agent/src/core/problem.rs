//! What stands in the way of a service: a claim that another one has, or a limit.

use super::{event::Source, model::ServiceName};
use std::net::SocketAddr;

/// Why a service, or a part of it, is not balanced as declared. The text names thing, cause, fix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Problem {
    /// Two services claim one frontend.
    #[error(
        "service `{service}`: frontend {frontend} belongs to service `{keeper}` ({keeper_source}) \
         already; remove it from one of the two"
    )]
    FrontendTaken {
        /// Who goes without.
        service: ServiceName,
        /// The frontend.
        frontend: SocketAddr,
        /// Who keeps it.
        keeper: ServiceName,
        /// Who declared the keeper.
        keeper_source: Source,
    },
    /// Two sources declare one name.
    #[error(
        "service `{service}` of source {source_ignored}: source {source_kept} declares the same \
         name and keeps it; rename one of the two"
    )]
    NameTaken {
        /// The name.
        service: ServiceName,
        /// Who keeps it.
        source_kept: Source,
        /// Who goes without.
        source_ignored: Source,
    },
    /// The policy needs connection counts.
    #[error(
        "service `{service}`: policy {policy} needs connection tracking, which is off; \
         balanced by round-robin until tracking is on or another policy is set"
    )]
    Untracked {
        /// The service.
        service: ServiceName,
        /// Its policy.
        policy: &'static str,
    },
    /// A map is full.
    #[error(
        "service `{service}`: needs {needed} more {resource}, {available} of {limit} are left; what \
         does not fit is left untouched; raise the limit or declare less"
    )]
    OverLimit {
        /// The service.
        service: ServiceName,
        /// What ran out.
        resource: Resource,
        /// How many more it needs.
        needed: u64,
        /// How many are left.
        available: u64,
        /// The size of the map.
        limit: u32,
    },
    /// More backends than one schedule has slots.
    #[error(
        "service `{service}`: {backends} backends take new connections, a schedule holds at most \
         {limit}; left untouched; split the service"
    )]
    ScheduleTooLong {
        /// The service.
        service: ServiceName,
        /// How many it has.
        backends: u64,
        /// Most slots of a schedule.
        limit: u32,
    },
}

impl Problem {
    /// Every kind, as [`Problem::kind`] names them.
    pub const KINDS: [&str; 5] =
        ["frontend-taken", "name-taken", "untracked", "over-limit", "schedule-too-long"];

    /// What kind of problem it is, as metrics name it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::FrontendTaken { .. } => "frontend-taken",
            Self::NameTaken { .. } => "name-taken",
            Self::Untracked { .. } => "untracked",
            Self::OverLimit { .. } => "over-limit",
            Self::ScheduleTooLong { .. } => "schedule-too-long",
        }
    }

    /// The service that suffers.
    pub const fn service(&self) -> &ServiceName {
        match self {
            Self::FrontendTaken { service, .. }
            | Self::NameTaken { service, .. }
            | Self::Untracked { service, .. }
            | Self::OverLimit { service, .. }
            | Self::ScheduleTooLong { service, .. } => service,
        }
    }
}

/// A map that can be full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Service ids.
    Services,
    /// Backend ids.
    Backends,
    /// Frontends of one family.
    Frontends,
    /// Consecutive chunks of slots.
    Chunks,
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Services => "services",
            Self::Backends => "backends",
            Self::Frontends => "frontends",
            Self::Chunks => "slot chunks in a row",
        })
    }
}
