//! A real Kubernetes control plane for tests, with nodes, kubelets and pods that are played.

pub mod background;
pub mod certificates;
pub mod cgroup_name;
pub mod control_plane;
pub mod kubeconfig;
pub mod network;
pub mod node;
pub mod server;
pub mod version;
pub mod workload;

use std::net::Ipv4Addr;

/// The address of the nodes, as their objects and pods have it.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
