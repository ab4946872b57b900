//! The node agent of balancer, as a library: pure core, sources, datapath, and command line.

pub mod config;
pub mod core;
pub mod sources;
