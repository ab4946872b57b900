//! The agent's decisions, pure: no IO, no async, time is an argument.
//!
//! Sources send [`event::Event`]s in, the datapath carries [`write::Write`]s out.

pub mod event;
pub mod model;
pub mod resolution;
pub mod write;
