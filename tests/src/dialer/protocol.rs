//! What a test and its dialer process say to each other: one JSON document a line.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The kind of a client's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Socket {
    /// AF_INET, stream.
    V4,
    /// AF_INET6, stream; dials IPv4 addresses IPv4-mapped, as C-core does.
    V6,
    /// AF_INET, datagram.
    UdpV4,
    /// AF_INET6, datagram.
    UdpV6,
}

/// What is asked of a dialer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Connects, reads the server's line, and keeps the socket under a handle.
    Dial {
        /// Where to.
        to: SocketAddr,
        /// With which kind of socket.
        socket: Socket,
        /// Longest wait for the connection and for the server's line.
        wait_ms: u32,
        /// A socket that has failed to connect, to try it once more.
        again: Option<u64>,
    },
    /// Starts to connect and closes the socket before an answer came.
    Abandon {
        /// Where to.
        to: SocketAddr,
        /// With which kind of socket.
        socket: Socket,
    },
    /// Closes a socket.
    Close {
        /// Which.
        handle: u64,
        /// By a reset, not by a FIN.
        reset: bool,
    },
    /// Sends one byte, which makes a test's server end the connection.
    Send {
        /// Which socket.
        handle: u64,
    },
    /// Sends a byte and reads one, as often as asked: the server sends back what it gets.
    Exchange {
        /// Over which socket.
        handle: u64,
        /// How often.
        times: u32,
    },
    /// Reads what the server has still to send back.
    Receive {
        /// From which socket.
        handle: u64,
    },
    /// Closes one side: nothing more will be sent.
    Shut {
        /// Which socket's.
        handle: u64,
    },
    /// Waits until the peer has ended the connection.
    AwaitEnd {
        /// Which.
        handle: u64,
    },
    /// Reads socket options.
    Options {
        /// Which socket.
        handle: u64,
    },
    /// Connects many times from several threads, closing each connection by a reset.
    Storm(Storm),
}

/// Many connects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Storm {
    /// What is dialled, in turn.
    pub to: Vec<SocketAddr>,
    /// Threads.
    pub threads: u32,
    /// Connects of each thread.
    pub connects: u32,
}

/// What a dialer answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    /// To `Dial` and `Abandon`.
    Dialled(Dialled),
    /// To `Close`, `Send`, `Exchange`, `Receive` and `Shut`.
    Done,
    /// To `AwaitEnd`: zero for the end of the stream, or the error number of the read.
    Ended(i32),
    /// To `Options`.
    Options(SocketOptions),
    /// To `Storm`.
    Stormed(Stormed),
    /// The request could not be carried out.
    Failed(String),
}

/// What became of a dial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialled {
    /// Names the socket, which stays open until it is closed.
    pub handle: u64,
    /// Zero, or the error number of `connect()`.
    pub errno: i32,
    /// The server's line: its address.
    pub reached: Option<SocketAddr>,
    /// `getpeername()`.
    pub peer: Option<SocketAddr>,
    /// `getsockname()`.
    pub local: Option<SocketAddr>,
}

/// Options of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOptions {
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout_ms: u32,
    /// `SO_KEEPALIVE`.
    pub keepalive: bool,
    /// `TCP_KEEPIDLE`.
    pub keepalive_idle_s: u32,
    /// `TCP_KEEPINTVL`.
    pub keepalive_interval_s: u32,
    /// `TCP_KEEPCNT`.
    pub keepalive_probes: u32,
}

/// What became of a storm.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stormed {
    /// Servers that were reached.
    pub servers: Vec<SocketAddr>,
    /// Every connect, in no order.
    pub connects: Vec<Connect>,
}

/// One connect of a storm.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Connect {
    /// Before `connect()`, by `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// After `connect()`.
    pub ended_ns: u64,
    /// What it reached.
    pub outcome: Outcome,
}

/// What a connect of a storm reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Index into `servers`.
    Server(u32),
    /// An error number of `connect()` or of reading the server's line.
    Failed(i32),
}
