//! What the agent knows without any EndpointSlice: here the controllers are dead, so that none changes.

use crate::scene::{SHOP, Scene};
use balancer_tests::cluster::objects::NAMESPACE;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, api::ListParams};
use serde_json::json;

#[test]
fn a_pod_that_terminates_drains_though_no_slice_says_so() {
    let Some(scene) = Scene::new("farewell", 3, json!({})) else { return };
    let agent = scene.agent();
    let ready = scene.ready(3);
    scene.until_active(&agent, &ready);
    let client = scene.client();
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let of_shop = ListParams::default().labels(&format!("kubernetes.io/service-name={SHOP}"));
    let versions = || -> Vec<Option<String>> {
        let listed = scene.cluster.run(slices.list(&of_shop)).unwrap();
        listed.items.into_iter().map(|slice| slice.metadata.resource_version).collect()
    };
    scene.cluster.kill_controller_manager().unwrap();
    let before = versions();
    let busy = scene.delete_busy();
    scene.until_draining(&agent, busy.address);
    let reached = scene.reached(60);
    assert!(!reached.contains(&busy.name), "{reached:?} and {} terminates", busy.name);
    assert_eq!(versions(), before, "no slice has changed");
    scene.cluster.run(busy.finish());
}
