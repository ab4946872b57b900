//! What a kubelet writes into the status of its pods.

use crate::cluster::{
    HOST_ADDRESS,
    node::Node,
    sandbox::{Plan, Sandbox},
};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// The status of a pod whose containers run.
pub(super) fn running(plan: &Plan, sandbox: &Sandbox, node: &Node, is_ready: bool) -> Value {
    let addresses = sandbox.addresses();
    let containers = plan.containers.iter().zip(&sandbox.containers).map(|((name, image), id)| {
        json!({
            "name": name, "image": image, "imageID": "", "restartCount": 0,
            "containerID": node.runtime.container_id(id),
            "ready": is_ready, "started": true,
            "state": {"running": {}},
        })
    });
    json!({"status": {
        "phase": "Running",
        "hostIP": HOST_ADDRESS,
        "hostIPs": [{"ip": HOST_ADDRESS}],
        "podIP": addresses.first(),
        "podIPs": addresses.iter().map(|it| json!({"ip": it})).collect::<Vec<_>>(),
        "conditions": conditions(is_ready),
        "containerStatuses": containers.collect::<Vec<_>>(),
    }})
}

/// The status of a pod whose containers have ended.
pub(super) fn ended(plan: &Plan, sandbox: &Sandbox, node: &Node, exit_code: i32) -> Value {
    let containers = plan.containers.iter().zip(&sandbox.containers).map(|((name, image), id)| {
        let container_id = node.runtime.container_id(id);
        json!({
            "name": name, "image": image, "imageID": "", "restartCount": 0,
            "containerID": container_id, "ready": false, "started": false,
            "state": {"terminated": {"exitCode": exit_code, "containerID": container_id}},
        })
    });
    json!({"status": {
        "phase": if exit_code == 0 { "Succeeded" } else { "Failed" },
        "conditions": conditions(false),
        "containerStatuses": containers.collect::<Vec<_>>(),
    }})
}

fn conditions(is_ready: bool) -> Vec<Value> {
    let ready = if is_ready { "True" } else { "False" };
    // The controller of EndpointSlices makes its trigger time of this; whole seconds, as kubelet's.
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    [
        ("PodScheduled", "True"),
        ("Initialized", "True"),
        ("ContainersReady", ready),
        ("Ready", ready),
    ]
    .map(|(kind, status)| json!({"type": kind, "status": status, "lastTransitionTime": now}))
    .into()
}
