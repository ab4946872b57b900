//! Real gRPC load: an echo service, its servers, and clients that are pods of their own.
//!
//! The messages are written by hand, so that nothing needs `protoc`. Demo and benchmarks share
//! this; what decides for balancing is that a client enters its cgroup before it dials.

pub mod calls;
pub mod client;
pub mod connection;
pub mod echo;
pub mod load;
pub mod pod;
pub mod process;
pub mod server;
