//! The real programs in the real kernel: connect, and see which backend, reason and counters come.

#[path = "datapath/families.rs"]
mod families;
