//! Everything against a real control plane of Kubernetes, with played nodes and real pods.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "kubernetes/control_plane.rs"]
mod control_plane;
#[path = "kubernetes/discovery.rs"]
mod discovery;
#[path = "kubernetes/families.rs"]
mod families;
#[path = "kubernetes/farewells.rs"]
mod farewells;
#[path = "kubernetes/manifests.rs"]
mod manifests;
#[path = "kubernetes/moves.rs"]
mod moves;
#[path = "kubernetes/opt_out.rs"]
mod opt_out;
#[path = "kubernetes/patience.rs"]
mod patience;
#[path = "kubernetes/rights.rs"]
mod rights;
#[path = "kubernetes/rolling.rs"]
mod rolling;
#[path = "kubernetes/rotation.rs"]
mod rotation;
#[path = "kubernetes/scene.rs"]
mod scene;
#[path = "kubernetes/told.rs"]
mod told;
#[path = "kubernetes/workloads.rs"]
mod workloads;
#[path = "kubernetes/zones.rs"]
mod zones;
