//! The Kubernetes source against an API server of its own, which does what a real one does only on
//! bad days. No test sleeps: each awaits what must come.

#![expect(clippy::unwrap_used, reason = "a test may panic over what it wrote itself")]

#[path = "kubernetes/bad_days.rs"]
mod bad_days;
#[path = "kubernetes/cluster.rs"]
mod cluster;
#[path = "kubernetes/farewells.rs"]
mod farewells;
#[path = "kubernetes/malformed.rs"]
mod malformed;
#[path = "kubernetes/pods.rs"]
mod pods;
#[path = "kubernetes/server.rs"]
mod server;
#[path = "kubernetes/services.rs"]
mod services;
#[path = "kubernetes/token.rs"]
mod token;
