//! A service as the kernel sees it: policy, socket options, and two banks of schedules.
//!
//! Invariant: the bank in force is chosen by the lowest bit of `generation` alone. The agent writes
//! new slots, then the other bank, then raises `generation`; as one byte cannot tear, a reader sees
//! the old set or the new one. A reader that finds the generation changed after its pick picks anew.

use bytemuck::{Pod, Zeroable};

/// Slots in one [`SlotChunk`].
pub const CHUNK_SLOTS: usize = 16;
/// Most slots of one schedule.
pub const SCHEDULE_SLOTS_MAX: u32 = 65_536;
/// Longest service name in bytes.
pub const SERVICE_NAME_BYTES: usize = 160;
/// The service that the agent proves the hooks with.
pub const SERVICE_SELF_TEST: u32 = 0;

/// Each connection of a pod takes the next slot of the schedule.
pub const POLICY_ROUND_ROBIN: u32 = 1;
/// Each connection takes a slot at random.
pub const POLICY_RANDOM: u32 = 2;
/// Each connection takes the backend with the fewest connections for its weight.
pub const POLICY_LEAST_CONNECTION: u32 = 3;
/// All connections of a pod take one backend, which stays the same while it serves.
pub const POLICY_MAGLEV: u32 = 4;

/// Each connection takes the backend with the fewest connections and requests in flight for its weight.
/// Requests are those on connections whose HTTP/2 frames are followed; where there are none of these, it
/// is [`POLICY_LEAST_CONNECTION`].
pub const POLICY_LEAST_REQUEST: u32 = 5;

/// The name of a policy, as configuration and commands spell it.
pub const fn policy_name(policy: u32) -> &'static str {
    match policy {
        POLICY_ROUND_ROBIN => "round-robin",
        POLICY_RANDOM => "random",
        POLICY_LEAST_CONNECTION => "least-connection",
        POLICY_MAGLEV => "maglev",
        POLICY_LEAST_REQUEST => "least-request",
        _ => "unknown",
    }
}

/// The service id is in use.
pub const SERVICE_VALID: u32 = 1;
/// Connections are tracked from `connect()` to their end.
pub const SERVICE_TRACKED: u32 = 1 << 1;
/// Backends that fail, or end connections by themselves, are passed over for a while; for tracked
/// services only.
pub const SERVICE_EJECTS: u32 = 1 << 2;
/// HTTP/2 frames of its connections are followed, so that they can be moved.
pub const SERVICE_HTTP2: u32 = 1 << 3;

/// A run of slots in the slot map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Schedule {
    /// Index of the first chunk.
    pub chunk: u32,
    /// Number of slots; zero when no backend can be chosen.
    pub slots: u32,
}

/// One version of a service's backend set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Bank {
    /// Slots for clients that dialled an IPv4 frontend.
    pub v4: Schedule,
    /// Slots for clients that dialled an IPv6 frontend.
    pub v6: Schedule,
    /// One of the `POLICY_*` values.
    pub policy: u32,
    /// Session affinity: seconds that a pod keeps its backend after its last connection; zero is off.
    pub affinity_s: u32,
}

const _: () = assert!(size_of::<Bank>() == 24);

/// A service. All zero when the id is free.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Service {
    /// The two versions; bit 0 of `generation` says which is in force.
    pub banks: [Bank; 2],
    /// Version of the backend set.
    pub generation: u32,
    /// `SERVICE_*` flags.
    pub flags: u32,
    /// `TCP_USER_TIMEOUT` in milliseconds (RFC 5482); zero leaves the socket's own.
    pub user_timeout_ms: u32,
    /// `TCP_KEEPIDLE` in seconds; zero leaves keepalive as the application set it.
    pub keepalive_idle_s: u32,
    /// `TCP_KEEPINTVL` in seconds.
    pub keepalive_interval_s: u32,
    /// `TCP_KEEPCNT`.
    pub keepalive_probes: u32,
    /// Kept zero.
    pub reserved: [u32; 2],
}

const _: () = assert!(size_of::<Service>() == 80 && align_of::<Service>() == 4);

impl Service {
    /// The bank in force.
    pub const fn bank(&self) -> &Bank {
        &self.banks[(self.generation & 1) as usize]
    }
}

/// Sixteen slots; each is a backend id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SlotChunk {
    /// Backend ids; slots behind the end of a schedule hold [`crate::backend::BACKEND_NONE`].
    pub backends: [u32; CHUNK_SLOTS],
}

const _: () = assert!(size_of::<SlotChunk>() == 64);

/// The name of a service, UTF-8, padded with zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ServiceName {
    /// Name bytes.
    pub bytes: [u8; SERVICE_NAME_BYTES],
}

#[cfg(any(test, feature = "std"))]
impl ServiceName {
    /// Holds `name`, or `None` if it is longer than [`SERVICE_NAME_BYTES`].
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; SERVICE_NAME_BYTES];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self { bytes })
    }
}

#[cfg(any(test, feature = "std"))]
impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = self.bytes.iter().position(|b| *b == 0).unwrap_or(SERVICE_NAME_BYTES);
        f.write_str(&String::from_utf8_lossy(&self.bytes[..end]))
    }
}

/// What the kernel counts for a service beyond its backends' counters.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ServiceStats {
    /// Connections to a frontend of this service that were left untouched.
    pub untouched: u64,
    /// Socket options of this service that the kernel refused.
    pub socket_option_failures: u64,
}

const _: () = assert!(size_of::<ServiceStats>() == 16);
