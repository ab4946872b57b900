//! The node agent of balancer, as a library: pure core, sources, datapath, and command line.

pub mod admin;
pub mod cli;
pub mod config;
pub mod core;
pub mod daemon;
pub mod datapath;
pub mod http;
pub mod sources;
