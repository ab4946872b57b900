//! The contract between pinned kernel state and the agents that adopt it: version, map names, limits.

/// Version of every layout in this crate. Raised whenever a shared type, the meaning of one of its
/// fields, or the set of maps changes; pinned state of another version is never reinterpreted.
pub const ABI_VERSION: u32 = 4;

/// Version of the maps in [`map::HTTP2`]. They have one of their own, and fixed sizes, since moved
/// connections depend on them: another [`ABI_VERSION`] or other limits leave them as they are.
pub const HTTP2_VERSION: u32 = 4;

/// Names of the maps, as the kernel programs declare them and as their pins are called.
pub mod map {
    /// [`crate::frontend::FrontendKeyV4`] → [`crate::frontend::Frontend`].
    pub const FRONTENDS_V4: &str = "FRONTENDS_V4";
    /// [`crate::frontend::FrontendKeyV6`] → [`crate::frontend::Frontend`].
    pub const FRONTENDS_V6: &str = "FRONTENDS_V6";
    /// Service id → [`crate::service::Service`].
    pub const SERVICES: &str = "SERVICES";
    /// Service id → [`crate::service::ServiceName`]; read by people and by an adopting agent.
    pub const SERVICE_NAMES: &str = "SERVICE_NAMES";
    /// Service id → [`crate::service::ServiceStats`].
    pub const SERVICE_STATS: &str = "SERVICE_STATS";
    /// Service id → `u64`, the cursor that a pod's first connection to the service takes.
    pub const CURSORS: &str = "CURSORS";
    /// Chunk index → [`crate::service::SlotChunk`].
    pub const SLOTS: &str = "SLOTS";
    /// Backend id → [`crate::backend::Backend`].
    pub const BACKENDS: &str = "BACKENDS";
    /// Backend id → [`crate::backend::BackendStats`].
    pub const BACKEND_STATS: &str = "BACKEND_STATS";
    /// [`crate::pod::PodServiceKey`] → `u64`, the pod's own cursor.
    pub const POD_CURSORS: &str = "POD_CURSORS";
    /// [`crate::pod::PodServiceKey`] → [`crate::pod::Affinity`].
    pub const AFFINITIES: &str = "AFFINITIES";
    /// Low bits of a socket cookie → [`crate::flow::Seat`].
    pub const SEATS: &str = "SEATS";
    /// Socket cookie (`u64`) → [`crate::flow::Flow`], of those whose seat was taken.
    pub const FLOWS: &str = "FLOWS";
    /// [`crate::reason::Reason`] as index → `u64` per CPU.
    pub const REASONS: &str = "REASONS";
    /// Index 0 → [`crate::settings::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// Index 0 → [`crate::hierarchy::Hierarchy`].
    pub const HIERARCHY: &str = "HIERARCHY";
    /// Cgroup id of a pod (`u64`) → [`crate::pod::Skip`].
    pub const SKIPPED_PODS: &str = "SKIPPED_PODS";
    /// Ring buffer of [`crate::trace::TraceEvent`].
    pub const TRACES: &str = "TRACES";
    /// [`crate::http2::flow::Http2Key`] → [`crate::http2::flow::Http2Flow`].
    pub const HTTP2_FLOWS: &str = "HTTP2_FLOWS";
    /// Cgroup id of a pod (`u64`) → `u64`, its live entries in [`HTTP2_FLOWS`].
    pub const HTTP2_PODS: &str = "HTTP2_PODS";
    /// A ring of [`crate::http2::flow::Http2Closed`]: entries that wait to be removed.
    pub const HTTP2_CLOSED: &str = "HTTP2_CLOSED";
    /// Index 0 → `u64`, how many places of [`HTTP2_CLOSED`] were given away.
    pub const HTTP2_TURNS: &str = "HTTP2_TURNS";
    /// [`crate::http2::counts::Http2TotalsKey`] → [`crate::http2::counts::Http2Totals`].
    pub const HTTP2_TOTALS: &str = "HTTP2_TOTALS";
    /// Backend id → `u64`, its streams in flight on connections in [`HTTP2_FLOWS`].
    pub const HTTP2_IN_FLIGHT: &str = "HTTP2_IN_FLIGHT";
    /// Index → [`crate::http2::held::Held`], a place for bytes behind a hole.
    pub const HTTP2_HELD: &str = "HTTP2_HELD";
    /// Index of `http2::PROGRAM_*` → the program that a pod's interface leads to.
    pub const HTTP2_PROGRAMS: &str = "HTTP2_PROGRAMS";

    /// Every map that holds state across a restart of the agent.
    pub const PINNED: [&str; 18] = [
        FRONTENDS_V4,
        FRONTENDS_V6,
        SERVICES,
        SERVICE_NAMES,
        SERVICE_STATS,
        CURSORS,
        SLOTS,
        BACKENDS,
        BACKEND_STATS,
        POD_CURSORS,
        AFFINITIES,
        SEATS,
        FLOWS,
        REASONS,
        SETTINGS,
        HIERARCHY,
        SKIPPED_PODS,
        TRACES,
    ];

    /// Maps about HTTP/2 connections, which hold state across a change of [`PINNED`] as well.
    pub const HTTP2: [&str; 8] = [
        HTTP2_FLOWS,
        HTTP2_PODS,
        HTTP2_CLOSED,
        HTTP2_TURNS,
        HTTP2_TOTALS,
        HTTP2_IN_FLIGHT,
        HTTP2_HELD,
        HTTP2_PROGRAMS,
    ];
}

/// Most services (ids below this), unless the configuration says otherwise.
pub const SERVICES_MAX: usize = 16_384;
/// Most backends of all services, those that have left but still carry connections included.
pub const BACKENDS_MAX: usize = 131_072;
/// Most frontends of each address family.
pub const FRONTENDS_MAX: usize = 65_536;
/// Most chunks of slots; one chunk is [`crate::service::CHUNK_SLOTS`] slots.
pub const CHUNKS_MAX: usize = 65_536;
/// Most tracked connections of the node: half of them in seats, half in the table behind.
pub const FLOWS_MAX: usize = 16_384;
/// Length of [`map::SEATS`]; see [`crate::flow::seats_of`].
pub const SEATS_MAX: usize = FLOWS_MAX / 2;
/// Most (pod, service) pairs that are remembered; the least recently used is forgotten.
pub const POD_SERVICES_MAX: usize = 65_536;
/// Most pods that are skipped; kubelet runs 110 pods on a node unless it is told otherwise.
pub const SKIPPED_PODS_MAX: usize = 4_096;
/// Bytes of the trace ring buffer.
pub const TRACES_BYTES: usize = 1 << 18;
/// Most connections whose frames are followed.
pub const HTTP2_FLOWS_MAX: usize = 65_536;
/// Most pods whose connections are counted at a time; the least recently used is forgotten.
pub const HTTP2_PODS_MAX: usize = 4_096;
/// Most live connections of one pod whose frames are followed.
pub const HTTP2_POD_FLOWS_MAX: u64 = 2_048;
/// Places for closed connections whose last segments may still have to be shifted. The oldest makes way.
pub const HTTP2_CLOSED_MAX: usize = 1_024;
/// Most backends with totals of their HTTP/2 connections. Connections to further ones are not followed.
pub const HTTP2_TOTALS_MAX: usize = 16_384;
/// Backends whose streams in flight are counted: those with ids below this. The others have none.
pub const HTTP2_IN_FLIGHT_MAX: usize = BACKENDS_MAX;
/// Places for bytes behind a hole, of which each takes 320 KiB. A connection needs one from a loss until what
/// was lost has come.
pub const HTTP2_HELD_MAX: usize = 32;
/// Places that a pod's connections may take: a pod cannot take them all.
pub const HTTP2_POD_HELD_MAX: u32 = 8;
