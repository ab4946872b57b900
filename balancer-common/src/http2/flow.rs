//! What is kept of a connection whose frames are followed.

use super::{
    counts::Http2Counts,
    gate::{INJECTED, MISSED_IN, MISSED_OUT, OPAQUE, SETTLED, WANTED, WANTED_NOW},
    grid::STARTED,
    streams::STREAM_SLOTS,
    track::{BROKEN, LOST, Track},
};
use crate::address::Address;
use bytemuck::{Pod, Zeroable};
use core::mem::offset_of;

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
///
/// What a packet needs lies together: what both directions read is beside the gate, and each direction writes to
/// two cache lines of its own, since they are handled by different processors.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Http2Flow {
    /// See [`super::gate`].
    pub gate: u64,
    /// The service; this and the next two are written before the entry is inserted, and never again.
    pub service: u32,
    /// The backend that the connection went to.
    pub backend: u32,
    /// That backend's incarnation.
    pub incarnation: u32,
    /// Kept zero.
    pub reserved: u32,
    /// What the server sends; changed under `LOCKED_IN`, as are the next fields up to half of the counters.
    pub inbound: Track,
    /// Bytes that the server sent, as far as they were followed.
    pub received_bytes: u64,
    /// When the server last ended a stream, by `CLOCK_MONOTONIC`.
    pub answered_ns: u64,
    /// The scale of the client's window that the server has shown to use.
    pub window_scale: u32,
    /// Most streams that the server takes at a time (SETTINGS_MAX_CONCURRENT_STREAMS), [`u32::MAX`] if it
    /// has not told.
    pub streams_max: u32,
    /// Its counters, which are not changed any more once the gate has `SETTLED`. Those of the server's side come
    /// first, those of the client's side last.
    pub counts: Http2Counts,
    /// What the client has acknowledged, and the window that it gave with it.
    pub client_ack: u32,
    /// That window, not scaled.
    pub client_window: u32,
    /// When the client last opened a stream, by `CLOCK_MONOTONIC`; changed under `LOCKED_OUT`, as are the next two.
    pub requested_ns: u64,
    /// What the client sends.
    pub outbound: Track,
    /// Bytes that the client sent, as far as they were followed.
    pub sent_bytes: u64,
    /// The client's socket; this and the next one are written before the entry is inserted, and never again.
    pub cookie: u64,
    /// The client, as [`crate::pod::PodServiceKey::pod`] tells it.
    pub pod: u64,
    /// When the frame was put in, by `CLOCK_MONOTONIC`.
    pub moved_ns: u64,
    /// Segments that could not be changed as they had to be, and were dropped for the server to repeat.
    pub dropped: u32,
    /// Segments that carried the frame.
    pub frames: u32,
    /// Open streams and when they were opened; see [`super::streams::slot_word`].
    pub streams: [u64; STREAM_SLOTS],
}

/// What the kernel's hash table puts before a value: 56 bytes (Linux 6.18) and the key.
const BEFORE_BYTES: usize = 56 + size_of::<Http2Key>();
// Together with that, it fits the allocator's 2,048.
const _: () = assert!(BEFORE_BYTES + size_of::<Http2Flow>() <= 2_048);
const LINE_BYTES: usize = 64;
const _: () = assert!((BEFORE_BYTES + offset_of!(Http2Flow, inbound)).is_multiple_of(LINE_BYTES));
const _: () = assert!((BEFORE_BYTES + offset_of!(Http2Flow, outbound)).is_multiple_of(LINE_BYTES));

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

    /// Why the connection is out of sync, if it is.
    #[must_use]
    pub const fn lost_by(&self) -> Option<&'static str> {
        if !matches!(self.visibility(), Visibility::OutOfSync) {
            return None;
        }
        match (self.inbound.lost_by(), self.outbound.lost_by()) {
            (Some(why), _) | (None, Some(why)) => Some(why),
            // Seen by nobody yet who holds a lock.
            (None, None) => Some("a segment went by while another processor was at work"),
        }
    }

    /// Whether the agent has asked for a move that was not made yet.
    #[must_use]
    pub const fn is_asked_to_move(&self) -> bool {
        self.gate & (WANTED | WANTED_NOW) != 0 && self.gate & INJECTED == 0
    }

    /// Whether its counters are in the totals of its backend, and so not to be added once more.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.gate & SETTLED != 0
    }

    /// Streams that are open now; none once its counting has come to its end.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        if self.is_settled() { 0 } else { self.counts.in_flight() }
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
