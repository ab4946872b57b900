//! What the agent knows without any EndpointSlice: here the controllers are dead, so that none changes.

use crate::scene::{SHOP, Scene};
use balancer_common::backend::STATE_DRAINING;
use balancer_tests::{
    cluster::objects::{ECHO_PORT, NAMESPACE},
    grpc::client::EchoClient,
};
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use std::net::SocketAddr;

#[test]
fn a_pod_that_terminates_drains_though_no_slice_says_so() {
    let Some(scene) = Scene::new("farewell", 3, json!({})) else { return };
    let agent = scene.agent();
    let ready = scene.ready(3);
    scene.until_active(&agent, &ready);
    let client = scene.client();
    let name = scene.pods().into_iter().next().unwrap();
    let place = scene.cluster.kubelet().place(NAMESPACE, &name).unwrap();
    let leaving = SocketAddr::from((place.addresses[0], ECHO_PORT));
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let of_shop = ListParams::default().labels(&format!("kubernetes.io/service-name={SHOP}"));
    let versions = || -> Vec<Option<String>> {
        let listed = scene.cluster.run(slices.list(&of_shop)).unwrap();
        listed.items.into_iter().map(|slice| slice.metadata.resource_version).collect()
    };
    scene.cluster.kill_controller_manager().unwrap();
    let before = versions();
    // A call that the pod waits for within its grace period.
    let (echo, mut call) = scene.cluster.run(async {
        let mut echo = EchoClient::connect(leaving).await.unwrap();
        let call = echo.open(vec![7; 10_000], 1_000).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        pods.delete(&name, &DeleteParams::default()).await.unwrap();
        (echo, call)
    });
    agent
        .until(|_| scene.states().is_ok_and(|it| it.get(&leaving) == Some(&STATE_DRAINING)))
        .unwrap();
    let reached = scene.reached(60);
    assert!(!reached.contains(&name), "{reached:?} and {name} terminates");
    assert_eq!(versions(), before, "no slice has changed");
    scene.cluster.run(async {
        while call.message().await.unwrap().is_some() {}
        drop((call, echo));
    });
}
