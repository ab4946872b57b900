//! The world that tests, demo and benchmarks run in: namespaces, cgroups, clients and servers.
//!
//! Everything that is made here is removed when its owner is dropped, also while a test panics.

pub mod agent;
pub mod backend;
pub mod bench;
pub mod capability;
pub mod cluster;
pub mod container;
pub mod demo;
pub mod dialer;
pub mod dns;
pub mod fixture;
pub mod flood;
pub mod foreign;
pub mod greeter;
pub mod grpc;
pub mod interop;
pub mod manifests;
pub mod pings;
pub mod scrape;
pub mod trouble;
pub mod verified;
pub mod world;
