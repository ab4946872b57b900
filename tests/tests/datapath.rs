//! The real programs in the real kernel: connect, and see which backend, reason and counters come.
#![expect(clippy::unwrap_used, reason = "what a test's own functions cannot do fails the test")]

#[path = "datapath/affinity.rs"]
mod affinity;
#[path = "datapath/destroy.rs"]
mod destroy;
#[path = "datapath/ejection.rs"]
mod ejection;
#[path = "datapath/endings.rs"]
mod endings;
#[path = "datapath/families.rs"]
mod families;
#[path = "datapath/layout.rs"]
mod layout;
#[path = "datapath/pods.rs"]
mod pods;
#[path = "datapath/policies.rs"]
mod policies;
#[path = "datapath/races.rs"]
mod races;
#[path = "datapath/restart.rs"]
mod restart;
#[path = "datapath/samples.rs"]
mod samples;
#[path = "datapath/traces.rs"]
mod traces;
#[path = "datapath/untouched.rs"]
mod untouched;
