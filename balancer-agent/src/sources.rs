//! Where observations come from. Sources do the input and output, emit events, and decide nothing.

pub mod dns;
pub mod file;
pub mod kubernetes;
pub mod pods;
