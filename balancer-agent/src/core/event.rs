//! What sources tell the core. Sources emit events and decide nothing.

use super::model::{Lookup, Member, Service, ServiceName};
use std::fmt;

/// Who declares services. A service belongs to the source that declared it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The configuration file.
    File,
    /// The Kubernetes API.
    Kubernetes,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("file"),
            Self::Kubernetes => f.write_str("kubernetes"),
        }
    }
}

/// One observation of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything that a source declares; what it does not name any more is gone.
    Snapshot {
        /// Who speaks.
        source: Source,
        /// All of its services.
        services: Vec<Service>,
    },
    /// One service is new or different.
    ServiceChanged {
        /// Who speaks.
        source: Source,
        /// The service as it is now.
        service: Service,
    },
    /// One service is gone.
    ServiceRemoved {
        /// Who speaks.
        source: Source,
        /// Its name.
        name: ServiceName,
    },
    /// The members of a DNS set, all of them. A set that was never told of is *unknown*, which is
    /// not the same as empty: services that need it keep what the kernel has.
    MembersChanged {
        /// The set.
        lookup: Lookup,
        /// Its members.
        members: Vec<Member>,
    },
}
