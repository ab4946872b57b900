//! The kernel side of the agent: loads the programs, keeps their maps, and proves that they work.
//!
//! Applies what the core decided and decides nothing itself. All `unsafe` of the agent is below
//! here.

pub mod bpffs;
pub mod capabilities;
pub mod cgroup;
pub mod counters;
pub mod destroy;
pub mod fill;
pub mod flows;
pub mod hooks;
pub mod http2;
pub mod loader;
pub mod log;
pub mod maps;
pub mod netns;
pub mod pods;
pub mod raw;
pub mod reader;
pub mod self_test;
pub mod sys;
pub mod trace;
pub mod transfer;
pub mod writer;
