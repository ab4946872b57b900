//! Hints as the real EndpointSlice controller writes them for `trafficDistribution`.

use crate::scene::{SHOP, Scene};
use balancer_tests::cluster::objects::{ECHO_PORT, NAMESPACE, endpoints};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// The addresses of the service's endpoints by their zone, which each node has one of.
fn by_zone(scene: &Scene) -> BTreeMap<String, BTreeSet<SocketAddr>> {
    let slices: Api<EndpointSlice> = Api::namespaced(scene.client(), NAMESPACE);
    let of_shop = ListParams::default().labels(&format!("kubernetes.io/service-name={SHOP}"));
    let listed = scene.cluster.run(slices.list(&of_shop)).unwrap();
    let slices = listed.items.into_iter().enumerate().map(|(n, it)| (n.to_string(), it)).collect();
    let mut zones: BTreeMap<String, BTreeSet<SocketAddr>> = BTreeMap::new();
    for endpoint in endpoints(&slices) {
        let address = SocketAddr::new(endpoint.addresses[0].parse().unwrap(), ECHO_PORT);
        zones.entry(endpoint.zone.clone().unwrap()).or_default().insert(address);
    }
    zones
}

#[test]
fn traffic_stays_where_the_service_asks_for_it() {
    let Some(scene) = Scene::new("zones", 4, json!({})) else { return };
    let agent = scene.agent();
    let ready = scene.ready(4);
    scene.until_active(&agent, &ready);
    let zones = by_zone(&scene);
    let near = &zones["zone-a"];
    assert!(!near.is_empty() && near.len() < 4, "{zones:?}");
    let services: Api<Service> = Api::namespaced(scene.client(), NAMESPACE);
    // The node is the only one of its zone.
    for distribution in ["PreferClose", "PreferSameZone", "PreferSameNode"] {
        for (wanted, expected) in [(json!(distribution), near), (json!(null), &ready)] {
            let patch = Patch::Merge(json!({"spec": {"trafficDistribution": wanted}}));
            scene.cluster.run(services.patch(SHOP, &PatchParams::default(), &patch)).unwrap();
            scene.until_active(&agent, expected);
        }
    }
}
