//! The kernel side of the agent: loads the programs, keeps their maps, and proves that they work.
//!
//! Applies what the core decided and decides nothing itself. All `unsafe` of the agent is below
//! here, in [`sys`] and [`raw`].

pub mod bpffs;
pub mod cgroup;
pub mod hooks;
pub mod loader;
pub mod maps;
pub mod raw;
pub mod reader;
pub mod sys;
pub mod writer;
