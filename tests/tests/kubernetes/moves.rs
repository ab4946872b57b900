//! Long connections follow a Deployment that is scaled: without a move new pods would get nothing.

use crate::scene::Scene;
use balancer_tests::{
    agent::Agent,
    cluster::caller::{Caller, Style},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Clients with one long connection each, in one pod.
const CLIENTS: usize = 6;
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
    assert_eq!(moved.begun.values().sum::<u64>(), 4, "{moved:?}");
    assert_eq!((moved.made, moved.given_up), (4, 0), "{moved:?}");
}
