//! Long connections follow a Deployment that is scaled: without a move new pods would get nothing.

use crate::scene::{CLIENT, Scene};
use balancer_agent::datapath::{maps::Maps, netns};
use balancer_common::http2::flow::{Http2Flow, Http2Key};
use balancer_tests::{
    agent::Agent,
    cluster::{
        caller::{CallPlan, Caller, Style},
        objects::{self, NAMESPACE},
    },
    world::run,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::{Duration, Instant},
};

/// Clients with one long connection each, in one pod.
const CLIENTS: usize = 6;
/// A pod whose connections are not to move.
const SETTLED: &str = "settled";
/// Longest wait for all pods to be reached.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the clients' latest calls were answered by exactly so many pods.
fn until_answered_by(agent: &Agent<'_>, callers: &[Caller], pods: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answerers = callers.iter().filter_map(|caller| caller.answerer(5).unwrap());
        let latest: BTreeSet<String> = answerers.collect();
        if latest.len() == pods {
            return;
        }
        if Instant::now() > deadline {
            let told = agent.status().unwrap().http2;
            panic!("{pods} pods, and only {latest:?} answer: {told:?}");
        }
    }
}

#[test]
fn long_connections_reach_new_pods_and_no_call_fails() {
    let Some(scene) = Scene::new("moves", 2, json!({})) else { return };
    let agent = scene.agent();
    scene.until_active(&agent, &scene.ready(2));
    let address = scene.cluster_ip();
    let callers: Vec<Caller> =
        (0..CLIENTS).map(|_| scene.caller(vec![address], Style::Long)).collect();
    until_answered_by(&agent, &callers, 2);
    scene.scale(6);
    scene.until_active(&agent, &scene.ready(6));
    until_answered_by(&agent, &callers, 6);
    let tallies: Vec<_> = callers.into_iter().map(|caller| caller.stop().unwrap()).collect();
    for tally in &tallies {
        assert_eq!(tally.failures, BTreeMap::new(), "{tally:?}");
    }
    let moved = agent.status().unwrap().http2;
    assert_eq!(moved.all.begun.values().sum::<u64>(), 4, "{moved:?}");
    assert_eq!((moved.all.made, moved.all.given_up), (4, 0), "{moved:?}");
}

/// A pod can keep its connections where they are: they count for shares, and do not move.
#[test]
fn connections_of_a_pod_that_does_not_want_it_stay_where_they_are() {
    let Some(scene) = Scene::new("settled", 2, json!({})) else { return };
    let api = scene.client();
    scene.cluster.run(async {
        objects::run_idle(&api, SETTLED, "node-a").await.unwrap();
        let off = json!({"metadata": {"annotations": {"balancer.dev/http2": "false"}}});
        objects::patch::<Pod>(&api, SETTLED, &off).await.unwrap();
    });
    let agent = scene.agent();
    scene.until_active(&agent, &scene.ready(2));
    let address = scene.cluster_ip();
    let place = scene.cluster.kubelet().place(NAMESPACE, SETTLED).unwrap();
    let plan = CallPlan { targets: vec![address], style: Style::Long, pause_ms: 10 };
    let settled: Vec<Caller> = (0..4).map(|_| Caller::start(&place, &plan).unwrap()).collect();
    let others: Vec<Caller> = (0..4).map(|_| scene.caller(vec![address], Style::Long)).collect();
    for caller in settled.iter().chain(&others) {
        caller.goes_on(1).unwrap();
    }
    scene.scale(6);
    scene.until_active(&agent, &scene.ready(6));
    // Eight connections on six pods: somebody has to give.
    agent.until(|status| status.http2.all.made > 0).unwrap();
    let shown = scene.ask(&["connections", "--pod", &format!("{NAMESPACE}/{SETTLED}")]);
    let connections = shown["connections"].as_array().unwrap();
    assert_eq!(connections.len(), settled.len(), "{shown:#}");
    for caller in settled {
        caller.goes_on(1).unwrap();
        let tally = caller.stop().unwrap();
        assert_eq!((tally.replies.len(), tally.failures.len()), (1, 0), "{tally:?}");
    }
    let moved = others.into_iter().map(|caller| caller.stop().unwrap());
    assert!(moved.filter(|tally| tally.replies.len() > 1).count() > 0, "nobody moved");
}

/// Connections whose frames are followed, and which are not closed.
fn followed(scene: &Scene) -> Vec<(Http2Key, Http2Flow)> {
    let maps = Maps::open_loaded(scene.cluster.world().pins()).unwrap();
    maps.read_http2_flows().unwrap().into_values().collect()
}

/// Names of what leads interfaces of a network namespace to the programs.
fn taps(scene: &Scene, netns: u64) -> Vec<String> {
    let pins = std::fs::read_dir(scene.cluster.world().pins().taps()).unwrap();
    let names = pins.map(|pin| pin.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(&format!("{netns:x}-"))).collect()
}

#[test]
fn a_pod_whose_interface_goes_while_it_moves_leaves_nothing() {
    // What cannot be sent any more ends soon.
    let hasty = json!({"metadata": {"annotations": {"balancer.dev/tcp-user-timeout": "1s"}}});
    let Some(scene) = Scene::new("vanishing", 2, hasty) else { return };
    let agent = scene.agent();
    scene.until_active(&agent, &scene.ready(2));
    let address = scene.cluster_ip();
    let callers: Vec<Caller> =
        (0..CLIENTS).map(|_| scene.caller(vec![address], Style::Long)).collect();
    until_answered_by(&agent, &callers, 2);
    let netns = followed(&scene)[0].0.netns;
    assert!(!taps(&scene, netns).is_empty());
    scene.scale(6);
    agent.until(|status| status.http2.all.begun.values().sum::<u64>() > 0).unwrap();
    let place = scene.cluster.kubelet().place(NAMESPACE, CLIENT).unwrap();
    let vanish = || run("ip", &["link", "delete", "eth0"]).map_err(io::Error::other);
    netns::within(&place.inside.namespace, vanish).unwrap();
    let is_over = || followed(&scene).iter().all(|(key, _)| key.netns != netns);
    agent.until(|_| is_over()).unwrap();
    drop(callers);
    let pods: Api<Pod> = Api::namespaced(scene.client(), NAMESPACE);
    scene.cluster.run(pods.delete(CLIENT, &DeleteParams::default().grace_period(0))).unwrap();
    agent.until(|_| taps(&scene, netns).is_empty()).unwrap();
    let maps = Maps::open_loaded(scene.cluster.world().pins()).unwrap();
    assert_eq!(maps.read_flows().unwrap(), BTreeMap::new());
    assert_eq!(agent.status().unwrap().http2.latest_error, None);
}
