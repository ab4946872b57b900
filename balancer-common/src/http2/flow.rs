//! What is kept of a connection whose frames are followed.

use super::{
    gate::{INJECTED, MISSED_IN, MISSED_OUT, OPAQUE, WANTED, WANTED_NOW},
    grid::STARTED,
    streams::STREAM_SLOTS,
    track::{BROKEN, LOST, Track},
};
use crate::address::Address;
use bytemuck::{Pod, Zeroable};

/// A connection as its client's end sees it. Addresses of different pods may be the same, their network
/// namespaces are not.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Http2Key {
    /// Cookie of the client's network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// The client's address.
    pub client: Address,
    /// The backend's address.
    pub server: Address,
    /// The client's port, network byte order.
    pub client_port_be: u16,
    /// The backend's port, network byte order.
    pub server_port_be: u16,
    /// Kept zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Http2Key>() == 48 && align_of::<Http2Key>() == 8);

/// A connection whose frames are followed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Http2Flow {
    /// See [`super::gate`].
    pub gate: u64,
    /// The client's socket.
    pub cookie: u64,
    /// The client, as [`crate::pod::PodServiceKey::pod`] tells it.
    pub pod: u64,
    /// When the frame was put in, by `CLOCK_MONOTONIC`.
    pub moved_ns: u64,
    /// What the server sends; changed under `LOCKED_IN`.
    pub inbound: Track,
    /// What the client sends; changed under `LOCKED_OUT`.
    pub outbound: Track,
    /// What the client has acknowledged, and the window that it gave with it.
    pub client_ack: u32,
    /// That window, not scaled.
    pub client_window: u32,
    /// The scale that the server has shown to use.
    pub window_scale: u32,
    /// Streams that the client opened; changed under `LOCKED_OUT`.
    pub opened: u32,
    /// Streams that found no slot, and so are not in `in_flight`.
    pub uncounted: u32,
    /// Streams that ended by the client's RST_STREAM; changed under `LOCKED_OUT`.
    pub reset_by_client: u32,
    /// Streams that ended by the server's RST_STREAM; changed under `LOCKED_IN`.
    pub reset_by_server: u32,
    /// Streams that ended by the server's END_STREAM; changed under `LOCKED_IN`.
    pub ended: u32,
    /// GOAWAY frames that the server sent by itself.
    pub goaways: u32,
    /// Segments that could not be changed as they had to be, and were dropped for the server to repeat.
    pub dropped: u32,
    /// Segments that carried the frame.
    pub frames: u32,
    /// Kept zero.
    pub reserved: u32,
    /// Open streams.
    pub streams: [u32; STREAM_SLOTS],
}

const _: () = assert!(size_of::<Http2Flow>() == 240 + 4 * STREAM_SLOTS);

/// What can be said of a connection's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Visibility {
    /// Its preface and first SETTINGS are still to come, or the interface does not lead to the programs.
    Awaited,
    /// Every frame is seen, so that it can be moved.
    Visible,
    /// Bytes went by that were not understood: it is left alone.
    OutOfSync,
    /// TLS, another protocol, or a form that is left alone.
    Opaque,
    /// The frame was put in.
    Moved,
}

// === impl Visibility ===

impl Visibility {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Awaited, Self::Visible, Self::OutOfSync, Self::Opaque, Self::Moved];

    /// The name in commands and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Awaited => "awaited",
            Self::Visible => "visible",
            Self::OutOfSync => "out-of-sync",
            Self::Opaque => "opaque",
            Self::Moved => "moved",
        }
    }
}

// === impl Http2Flow ===

impl Http2Flow {
    /// What can be said of its frames.
    #[must_use]
    pub const fn visibility(&self) -> Visibility {
        let tracks = self.inbound.flags | self.outbound.flags;
        if self.gate & INJECTED != 0 {
            Visibility::Moved
        } else if self.gate & OPAQUE != 0 || tracks & BROKEN != 0 {
            Visibility::Opaque
        } else if self.gate & (MISSED_IN | MISSED_OUT) != 0 || tracks & LOST != 0 {
            Visibility::OutOfSync
        } else if self.inbound.grid.flags & self.outbound.grid.flags & STARTED == 0 {
            Visibility::Awaited
        } else {
            Visibility::Visible
        }
    }

    /// Whether the agent has asked for a move that was not made yet.
    #[must_use]
    pub const fn is_asked_to_move(&self) -> bool {
        self.gate & (WANTED | WANTED_NOW) != 0 && self.gate & INJECTED == 0
    }

    /// Streams that are open now.
    pub const fn in_flight(&self) -> u32 {
        let closed =
            self.ended.wrapping_add(self.reset_by_client).wrapping_add(self.reset_by_server);
        self.opened.wrapping_sub(self.uncounted).wrapping_sub(closed)
    }
}

/// A connection that was closed after it was moved: its last segments are still to be shifted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Http2Closed {
    /// The connection.
    pub key: Http2Key,
    /// Its client's socket.
    pub cookie: u64,
}

const _: () = assert!(size_of::<Http2Closed>() == 56);
