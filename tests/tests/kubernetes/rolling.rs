//! The failure that the project began with: clients that resolved a headless name once, and pods
//! that end on SIGTERM without waiting for anybody.

use crate::scene::{SHOP, Scene, ended};
use balancer_common::reason::Reason;
use balancer_tests::cluster::{caller::Style, objects};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::{collections::BTreeSet, net::SocketAddr};

/// Servers that stop when six become two.
const STOPPED: u64 = 4;

/// Failed calls and replies, of clients with a connection for each call and with long ones.
#[derive(Debug)]
struct Run {
    each: (u64, u64),
    long: (u64, u64),
    failures: BTreeSet<String>,
}

/// Replaces all pods of a headless service while clients go on with the addresses of the first.
fn roll(purpose: &str, is_balanced: bool) -> Option<Run> {
    let headless = json!({
        "metadata": {"annotations": {"balancer.dev/balance": "true"}},
        "spec": {"clusterIP": "None"},
    });
    let scene = Scene::new(purpose, 4, headless)?;
    let agent = is_balanced.then(|| scene.agent());
    let resolved = scene.ready(4);
    if let Some(agent) = &agent {
        scene.until_active(agent, &resolved);
    }
    let targets: Vec<SocketAddr> = resolved.iter().copied().collect();
    let each = scene.caller(targets.clone(), Style::Each);
    let long = scene.caller(targets, Style::Long);
    for caller in [&each, &long] {
        caller.goes_on(40).unwrap();
    }

    let client = scene.client();
    let old = scene.pods();
    scene.cluster.run(async {
        objects::roll(&client, SHOP, "2").await.unwrap();
        objects::until::<Pod>(&client, "app=shop", |pods| {
            pods.len() == 4 && !pods.keys().any(|name| old.contains(name))
        })
        .await
        .unwrap();
    });
    let replaced = scene.ready(4);
    assert!(replaced.is_disjoint(&resolved), "{replaced:?}");
    for caller in [&each, &long] {
        // Without the balancer each takes seconds to fail.
        caller.goes_on(if is_balanced { 100 } else { 2 }).unwrap();
    }
    let (each, long) = (ended(each).unwrap(), ended(long).unwrap());
    let failures = each.2.into_keys().chain(long.2.into_keys()).collect();
    Some(Run { each: (each.0, each.1), long: (long.0, long.1), failures })
}

#[test]
fn a_rolling_update_fails_no_call_of_clients_with_stale_addresses() {
    let Some(without) = roll("unbalanced", false) else { return };
    let Some(with) = roll("balanced", true) else { return };
    for (name, run) in [("without the balancer", &without), ("with the balancer", &with)] {
        println!(
            "{name}: {} of {} calls failed on connections of their own, {} of {} on long ones {:?}",
            run.each.0,
            run.each.0 + run.each.1,
            run.long.0,
            run.long.0 + run.long.1,
            run.failures
        );
    }
    assert!(without.each.0 > 0 && without.long.0 > 0, "{without:?}");
    assert_eq!((with.each.0, with.long.0), (0, 0), "{with:?}");
    assert!(with.each.1 > 0 && with.long.1 > 0, "{with:?}");
}

/// Kubernetes tells kubelet, agent and EndpointSlice controller of a deletion at the same time. A server
/// without a preStop hook that stops to listen at once may refuse a connection before the agent has
/// heard of it, and a client with one address has nowhere else to go then. The first one that is
/// refused ejects the backend, so that no second one is: without that, each of these clients dials
/// each of the servers that stop until the slice has changed.
#[test]
fn scaling_up_and_down_refuses_a_client_once_for_each_server_that_stops_at_most() {
    let Some(scene) = Scene::new("scaled", 2, json!({})) else { return };
    let agent = scene.agent();
    scene.until_active(&agent, &scene.ready(2));
    let address = vec![scene.cluster_ip()];
    let each = scene.caller(address.clone(), Style::Each);
    let long = scene.caller(address, Style::Long);
    for count in [6, 2] {
        scene.scale(count);
        scene.until_active(&agent, &scene.ready(count as usize));
        for caller in [&each, &long] {
            caller.goes_on(60).unwrap();
        }
    }
    // From here on nobody ends: whatever fails now has no excuse.
    let settled = scene.caller(vec![scene.cluster_ip()], Style::Each);
    settled.goes_on(60).unwrap();
    let (each, long, settled) =
        (each.stop().unwrap(), long.stop().unwrap(), settled.stop().unwrap());
    let ejected = scene.reasons()[&Reason::Ejected];
    println!(
        "2 to 6 to 2 pods: {} of {} calls failed on connections of their own {:?}, {} of {} on \
         long ones {:?}; {ejected} ejections",
        each.failed(),
        each.failed() + each.replied(),
        each.failures,
        long.failed(),
        long.failed() + long.replied(),
        long.failures,
    );
    // The policy spares the pod that has the long connection.
    let reached: BTreeSet<&String> = each.replies.keys().chain(long.replies.keys()).collect();
    assert_eq!(reached.len(), 6, "new pods are reached: {reached:?}");
    assert_eq!(settled.failed(), 0, "{settled:?}");
    for tally in [&each, &long] {
        assert!(tally.failed() <= STOPPED, "{tally:?}");
        let refused = |cause: &String| cause.contains("Connection refused");
        assert!(tally.failures.keys().all(refused), "{tally:?}");
    }
    // Mostly nobody is refused: then nobody need be passed over.
    assert!(ejected > 0 || each.failed() + long.failed() == 0, "a refusal went by unseen");
}
