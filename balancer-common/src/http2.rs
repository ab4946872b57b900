//! HTTP/2 as far as frame heads tell, and the arithmetic of moving a connection: pure, for kernel and host.
//!
//! A direction of a connection is a [`track::Track`]: it knows where in the *grid* of frames each TCP
//! segment lies. A connection's [`gate`] is the one word that all processors agree on. Once the
//! GOAWAY frame was put into the server's bytes, [`shift::Injection`] says what becomes of each segment.
#![expect(
    clippy::inline_always,
    reason = "the verifier follows one function at a time; calls cost stack and precision there"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "words are taken apart, and constants are small; a checked conversion would be a panic"
)]

pub mod counts;
pub mod flow;
pub mod follower;
pub mod frame;
pub mod gate;
pub mod grid;
pub mod held;
pub mod shift;
pub mod streams;
pub mod track;

/// Index of the program for what comes in at a pod's interface.
pub const PROGRAM_INBOUND: u32 = 0;
/// Index of the program for what goes out of a pod's interface.
pub const PROGRAM_OUTBOUND: u32 = 1;
/// How many there are.
pub const PROGRAMS: usize = 2;

/// What the agent asks of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Http2Request {
    /// The connection.
    pub key: flow::Http2Key,
    /// Its client's socket, so that no later connection with the same addresses is meant.
    pub cookie: u64,
    /// [`gate::WANTED`], [`gate::WANTED_NOW`], both, or zero to take both back.
    pub wanted: u64,
}

const _: () = assert!(size_of::<Http2Request>() == 64);

/// The request was taken.
pub const REQUEST_TAKEN: u32 = 0;
/// There is no such connection.
pub const REQUEST_UNKNOWN: u32 = 1;
