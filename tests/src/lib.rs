//! The world that tests, demo and benchmarks run in: namespaces, cgroups, clients and servers.
//!
//! Everything that is made here is removed when its owner is dropped, also while a test panics.

pub mod backend;
pub mod bench;
pub mod capability;
pub mod demo;
pub mod dialer;
pub mod fixture;
pub mod grpc;
pub mod world;
