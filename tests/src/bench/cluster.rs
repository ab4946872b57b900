//! The objects of a large cluster, as an API server would send them.

use serde_json::{Value, json};

/// The lists that objects belong to.
pub const SERVICES: &str = "/api/v1/services";
/// See [`SERVICES`].
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
/// See [`SERVICES`].
pub const NODES: &str = "/api/v1/nodes";
/// See [`SERVICES`].
pub const NAMESPACES: &str = "/api/v1/namespaces";
/// The node that the agent runs on.
pub const NODE: &str = "node-0";

const NAMESPACE: &str = "shop";
const PORT: u16 = 50_051;
/// Endpoints of a slice, as the slice controller fills them by default.
pub const SLICE_ENDPOINTS: usize = 100;

/// An endpoint's part in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Takes connections.
    Ready,
    /// Finishes what it has.
    Terminating,
}

/// One endpoint of a service.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Makes its address; unique in the cluster.
    pub number: usize,
    /// Whether it is on its way out.
    pub phase: Phase,
}

/// A service's name by its number.
pub fn service_name(number: usize) -> String {
    format!("shop-{number}")
}

/// The name that the agent gives to the one port of a service.
pub fn balanced_name(number: usize) -> String {
    format!("{NAMESPACE}/{}:grpc", service_name(number))
}

/// The node and the namespace that everything lives in.
pub fn node() -> Value {
    json!({"metadata": {"name": NODE, "uid": "node", "labels": {"topology.kubernetes.io/zone": "a"}}})
}

/// See [`node`].
pub fn namespace() -> Value {
    json!({"metadata": {"name": NAMESPACE, "uid": "namespace"}})
}

/// A service with one gRPC port, as users declare it.
pub fn service(number: usize) -> Value {
    let address = format!("10.96.{}.{}", number / 250, number % 250 + 1);
    json!({
        "metadata": {"name": service_name(number), "namespace": NAMESPACE,
            "uid": format!("service-{number}")},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"], "selector": {"app": service_name(number)},
            "ports": [{"name": "grpc", "port": 80, "targetPort": PORT, "protocol": "TCP",
                "appProtocol": "grpc"}]},
    })
}

/// One of the slices of a service.
pub fn slice(service: usize, slice: usize, endpoints: &[Endpoint]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|endpoint| {
            let number = endpoint.number;
            let is_ready = endpoint.phase == Phase::Ready;
            json!({
                "addresses": [format!("10.{}.{}.{}", 128 + number / 62_500, number / 250 % 250, number % 250 + 1)],
                "conditions": {"ready": is_ready, "serving": true, "terminating": !is_ready},
                "nodeName": format!("node-{}", number % 500),
                "zone": "a",
                "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("pod-{number}"),
                    "uid": format!("00000000-0000-4000-8000-{number:012}")},
            })
        })
        .collect();
    let name = service_name(service);
    json!({
        "metadata": {"name": format!("{name}-{slice}"), "namespace": NAMESPACE,
            "uid": format!("slice-{service}-{slice}"),
            "labels": {"kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
        "addressType": "IPv4",
        "ports": [{"name": "grpc", "port": PORT, "protocol": "TCP", "appProtocol": "grpc"}],
        "endpoints": endpoints,
    })
}
