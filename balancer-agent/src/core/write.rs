//! Single map writes: the only way in which decisions reach the kernel, and what adoption reads back.

use balancer_common::{
    backend::Backend,
    service::{Service, SlotChunk},
};
use std::{collections::BTreeMap, net::SocketAddr};

/// One map write. The order in which the core emits them is what makes a change atomic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a backend's record; a record of zeros frees the id.
    Backend {
        /// Backend id, from 1.
        id: u32,
        /// The record.
        record: Backend,
    },
    /// Zeroes a backend's counters, before its id is used anew.
    BackendStatsReset {
        /// Backend id.
        id: u32,
    },
    /// Zeroes a service's own counters, before its id is used anew.
    ServiceStatsReset {
        /// Service id.
        id: u32,
    },
    /// Sets one chunk of slots that no bank in force points to.
    Slots {
        /// Chunk index.
        chunk: u32,
        /// The slots.
        slots: SlotChunk,
    },
    /// Sets the cursor that a pod's first connection to a new service takes.
    Cursor {
        /// Service id.
        service: u32,
        /// First slot.
        cursor: u64,
    },
    /// Names a service id, before the service is valid.
    Name {
        /// Service id.
        service: u32,
        /// The name.
        name: String,
    },
    /// Forgets a service id's name, after the service is invalid.
    NameRemoved {
        /// Service id.
        service: u32,
    },
    /// Sets a service's record.
    Service {
        /// Service id.
        id: u32,
        /// The record. Where its generation is raised, the bank in force was written before.
        record: Service,
    },
    /// Leads a frontend to a service.
    Frontend {
        /// What clients dial.
        address: SocketAddr,
        /// Service id.
        service: u32,
    },
    /// Stops balancing a frontend.
    FrontendRemoved {
        /// What clients dialled.
        address: SocketAddr,
    },
}

/// Sizes of the maps: the bounds that plans must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Services, the self-test's included; ids are below this.
    pub services: u32,
    /// Backends; ids are below this, and id 0 is never used.
    pub backends: u32,
    /// Frontends of each family.
    pub frontends: u32,
    /// Chunks of slots.
    pub chunks: u32,
    /// Tracked connections.
    pub flows: u32,
    /// Remembered (pod, service) pairs.
    pub pod_services: u32,
}

/// What the kernel holds, read back from the maps: what an agent adopts, and what `status`
/// compares with what is desired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// Valid services by id, with their names. The self-test's is left out.
    pub services: BTreeMap<u32, KernelService>,
    /// Used backend ids, those of state *gone* included.
    pub backends: BTreeMap<u32, Backend>,
    /// Service ids by frontend.
    pub frontends: BTreeMap<SocketAddr, u32>,
}

/// A service as the maps hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelService {
    /// Its name.
    pub name: String,
    /// Its record.
    pub record: Service,
    /// Backend ids in the slots for IPv4 frontends, in slot order.
    pub slots_v4: Vec<u32>,
    /// Backend ids in the slots for IPv6 frontends, in slot order.
    pub slots_v6: Vec<u32>,
}
