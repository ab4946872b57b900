//! Whose connections end by `drain-timeout`: those of backends that terminate, and no others.

use crate::scene::Scene;
use balancer_agent::datapath::{destroy, maps::Maps, reader::socket_address};
use balancer_common::backend::{STATE_ACTIVE, STATE_DRAINING, STATE_INACTIVE};
use balancer_tests::cluster::{
    caller::Style,
    objects::{self, ECHO_PORT, NAMESPACE},
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::SocketAddr};

/// A service whose slice is written by hand.
const HAND: &str = "hand";

/// The slice: endpoints by whether they are ready, serving, terminating.
fn slice(endpoints: &[(SocketAddr, [bool; 3])]) -> Value {
    let endpoint = |(address, [ready, serving, terminating]): &(SocketAddr, [bool; 3])| {
        json!({
            "addresses": [address.ip()],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "hand-1",
            "labels": {
                "kubernetes.io/service-name": HAND,
                "endpointslice.kubernetes.io/managed-by": "hand",
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": "grpc", "port": ECHO_PORT, "protocol": "TCP"}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// The cookies of the connections to each backend.
fn connections(scene: &Scene) -> BTreeMap<SocketAddr, Vec<u64>> {
    let maps = Maps::open_loaded(scene.cluster.world().pins()).unwrap();
    let backends = maps.read_backends().unwrap();
    let mut connections: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for (cookie, flow) in maps.read_flows().unwrap() {
        let backend = &backends[&flow.backend];
        let address = socket_address(backend.address, backend.port_be);
        connections.entry(address).or_default().push(cookie);
    }
    connections
}

#[test]
fn what_is_not_ready_keeps_its_connections_beyond_the_drain_timeout() {
    let off = json!({"metadata": {"annotations": {"balancer.dev/balance": "false"}}});
    let Some(scene) = Scene::new("patience", 3, off) else { return };
    if let Err(error) = destroy::check() {
        println!("skipped: {error}");
        return;
    }
    let agent = scene.agent();
    let ready = scene.ready(3);
    let [unready, terminating, staying] = ready.iter().copied().collect::<Vec<_>>()[..] else {
        panic!("three pods")
    };
    let client = scene.client();
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let fine = [true, true, false];
    let all = [(unready, fine), (terminating, fine), (staying, fine)];
    let ip = scene.cluster.run(async {
        // Where connections can be moved none is left to be destroyed.
        let annotations = json!({
            "balancer.dev/drain-timeout": "1s",
            "balancer.dev/policy": "round-robin",
            "balancer.dev/http2": "false",
        });
        let more = json!({"metadata": {"annotations": annotations}, "spec": {"selector": null}});
        objects::expose(&client, HAND, more).await.unwrap();
        let slice = serde_json::from_value(slice(&all)).unwrap();
        slices.create(&PostParams::default(), &slice).await.unwrap();
        objects::cluster_ip(&client, HAND).await.unwrap()
    });
    scene.until_active(&agent, &ready);
    let callers: Vec<_> = (0..3)
        .map(|_| scene.caller(vec![SocketAddr::from((ip, ECHO_PORT))], Style::Long))
        .collect();
    let go_on = || callers.iter().try_for_each(|caller| caller.goes_on(5)).unwrap();
    go_on();
    let before = connections(&scene);
    assert_eq!(before.values().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1], "{before:?}");

    let changed = slice(&[
        (unready, [false, false, false]),
        (terminating, [false, true, true]),
        (staying, fine),
    ]);
    scene.cluster.run(async {
        let parameters = PatchParams::default();
        slices.patch("hand-1", &parameters, &Patch::Merge(changed)).await.unwrap();
    });
    let told = agent.until(|status| status.drained.drain_timeout > 0).unwrap();
    assert_eq!((told.drained.drain_timeout, told.drained.failed), (1, 0));
    let states = scene.states().unwrap();
    let expected =
        [(unready, STATE_INACTIVE), (terminating, STATE_DRAINING), (staying, STATE_ACTIVE)];
    assert_eq!(states, expected.into());
    // Both have taken no new connections for as long.
    go_on();
    let after = connections(&scene);
    assert_eq!(after.get(&unready), before.get(&unready));
    assert_eq!(after.get(&terminating), None);
    assert_eq!(after[&staying].len(), 2, "who lost it has dialled again: {after:?}");
}
