//! The agent's decisions, pure: no IO, no async, time is an argument.
//!
//! Sources send [`event::Event`]s in, the datapath carries [`write::Write`]s out.

pub mod allocation;
pub mod event;
pub mod maglev;
pub mod model;
pub mod problem;
pub mod schedule;
pub mod write;
