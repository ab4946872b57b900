//! One traced decision, as it travels through the ring buffer.

use crate::address::Address;
use bytemuck::{Pod, Zeroable};

/// A decision of the kernel programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct TraceEvent {
    /// When it was made, by `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The client, as [`crate::pod::PodServiceKey::pod`] tells it.
    pub pod: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// The address that was dialled.
    pub frontend: Address,
    /// The port that was dialled, network byte order.
    pub frontend_port_be: u16,
    /// The family of the socket.
    pub family: u16,
    /// A [`crate::reason::Reason`].
    pub reason: u32,
    /// The service, or zero.
    pub service: u32,
    /// The backend that was chosen, or [`crate::backend::BACKEND_NONE`].
    pub backend: u32,
    /// The generation of the backend set.
    pub generation: u32,
    /// The slot that was taken.
    pub slot: u32,
    /// How many slots there were to choose from.
    pub slots: u32,
    /// Process id (thread group) of the client; zero outside a process, and on kernels that do not tell.
    pub pid: u32,
}

const _: () = assert!(size_of::<TraceEvent>() == 72 && align_of::<TraceEvent>() == 8);
