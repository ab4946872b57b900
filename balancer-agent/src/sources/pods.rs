//! The pods of this node: their cgroups, as cgroupfs shows them, and their objects, as the API does.
//!
//! Each change is told as a whole: what a receiver missed in between cannot matter.

pub mod object;
pub mod scan;
mod watch;

pub use watch::CgroupSource;
