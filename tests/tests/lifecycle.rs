//! The agent's life against the real kernel: starts, deaths, changes of its configuration and of the
//! names it follows, while connections go on.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "lifecycle/configuration.rs"]
mod configuration;
#[path = "lifecycle/dns.rs"]
mod dns;
#[path = "lifecycle/drain.rs"]
mod drain;
#[path = "lifecycle/http.rs"]
mod http;
#[path = "lifecycle/leftovers.rs"]
mod leftovers;
#[path = "lifecycle/migration.rs"]
mod migration;
#[path = "lifecycle/refusals.rs"]
mod refusals;
#[path = "lifecycle/removal.rs"]
mod removal;
#[path = "lifecycle/repair.rs"]
mod repair;
#[path = "lifecycle/restart.rs"]
mod restart;
#[path = "lifecycle/scene.rs"]
mod scene;
