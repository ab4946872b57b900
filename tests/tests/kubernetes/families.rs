//! A dual-stack Service: each family has slices and a cluster IP of its own, and is dialled by itself.

use crate::scene::{SHOP, Scene};
use balancer_tests::cluster::objects::{self, ECHO_PORT, NAMESPACE};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, api::ListParams};
use serde_json::json;
use std::{collections::BTreeSet, net::SocketAddr};

/// The service with two addresses.
const BOTH: &str = "both";

/// The addresses of the deployment's pods, of both families.
fn addresses(scene: &Scene) -> BTreeSet<SocketAddr> {
    let of_pod = |name: &String| scene.cluster.kubelet().place(NAMESPACE, name).unwrap().addresses;
    let all = scene.pods().iter().flat_map(of_pod).collect::<BTreeSet<_>>();
    all.into_iter().map(|ip| SocketAddr::from((ip, ECHO_PORT))).collect()
}

#[test]
fn both_families_of_a_service_are_balanced_and_followed() {
    let off = json!({"metadata": {"annotations": {"balancer.dev/balance": "false"}}});
    let Some(scene) = Scene::new("families", 3, off) else { return };
    let agent = scene.agent();
    let client = scene.client();
    let both = json!({
        "metadata": {"annotations": {"balancer.dev/balance": "true"}},
        "spec": {"selector": {"app": SHOP}, "ipFamilyPolicy": "RequireDualStack"},
    });
    let service = scene.cluster.run(objects::expose(&client, BOTH, both)).unwrap();
    let dialled: Vec<SocketAddr> = service
        .spec
        .and_then(|spec| spec.cluster_ips)
        .unwrap()
        .iter()
        .map(|ip| SocketAddr::new(ip.parse().unwrap(), ECHO_PORT))
        .collect();
    let [v4, v6] = dialled[..] else { panic!("{dialled:?}") };
    assert!(v4.is_ipv4() && v6.is_ipv6(), "{dialled:?}");
    scene.until_active(&agent, &addresses(&scene));
    assert_eq!(scene.active().unwrap().len(), 6);
    for address in [v4, v6] {
        assert_eq!(scene.reached_at(address, 60), scene.pods(), "{address}");
    }

    // The controller writes a slice for each family; both follow.
    scene.scale(5);
    scene.ready(5);
    scene.until_active(&agent, &addresses(&scene));
    let slices: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    let of_both = ListParams::default().labels(&format!("kubernetes.io/service-name={BOTH}"));
    let listed = scene.cluster.run(slices.list(&of_both)).unwrap().items;
    let mut types: Vec<String> = listed.into_iter().map(|slice| slice.address_type).collect();
    types.sort();
    assert_eq!(types, ["IPv4", "IPv6"]);
    scene.scale(2);
    scene.ready(2);
    scene.until_active(&agent, &addresses(&scene));
    for address in [v4, v6] {
        assert_eq!(scene.reached_at(address, 60), scene.pods(), "{address}");
    }
}
