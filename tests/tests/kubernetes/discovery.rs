//! The agent against the real API server: what it discovers, follows, and keeps.

use crate::scene::{SHOP, Scene};
use balancer_tests::cluster::{
    caller::Style,
    objects::{self, NAMESPACE},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use serde_json::json;

#[test]
fn a_service_is_discovered_and_followed_up_and_down() {
    let Some(scene) = Scene::new("followed", 3, json!({})) else { return };
    let agent = scene.agent();
    scene.until_active(&agent, &scene.ready(3));
    assert_eq!(agent.status().unwrap().complaints(), Vec::<String>::new());
    assert_eq!(scene.reached(60), scene.pods());
    for count in [6, 2] {
        scene.scale(count);
        scene.until_active(&agent, &scene.ready(count as usize));
        let pods = scene.pods();
        assert_eq!(pods.len(), count as usize);
        assert_eq!(scene.reached(60), pods);
    }
    let client = scene.client();
    scene.cluster.run(async {
        let services: Api<k8s_openapi::api::core::v1::Service> = Api::namespaced(client, NAMESPACE);
        services.delete(SHOP, &DeleteParams::default()).await.unwrap();
    });
    agent.until(|_| scene.states().is_ok_and(|states| states.is_empty())).unwrap();
}

#[test]
fn a_terminating_pod_drains() {
    let Some(scene) = Scene::new("draining", 3, json!({})) else { return };
    let agent = scene.agent();
    let ready = scene.ready(3);
    scene.until_active(&agent, &ready);
    let client = scene.client();
    let busy = scene.delete_busy();
    let (name, leaving) = (busy.name.clone(), busy.address);
    scene.until_draining(&agent, leaving);
    let reached = scene.reached(60);
    assert!(!reached.contains(&name), "{reached:?} and {name} drains");
    scene.cluster.run(async {
        busy.finish().await;
        objects::until::<Pod>(&client, "app=shop", |pods| !pods.contains_key(&name)).await.unwrap();
    });
    let remaining = scene.ready(3);
    assert!(!remaining.contains(&leaving));
    scene.until_active(&agent, &remaining);
}

#[test]
fn while_the_api_server_is_away_nothing_is_emptied_and_what_was_missed_is_found() {
    let Some(scene) = Scene::new("away", 4, json!({})) else { return };
    let ready = scene.ready(4);
    let agent = scene.agent();
    scene.until_active(&agent, &ready);
    let caller = scene.caller(vec![scene.cluster_ip()], Style::Each);
    caller.goes_on(40).unwrap();

    scene.cluster.kill_api_server().unwrap();
    caller.goes_on(100).unwrap();
    assert_eq!(scene.active().unwrap(), ready, "nothing is emptied");
    scene.cluster.restart_api_server().unwrap();
    // Pods that left before the agent's watches stand again, and pods that came.
    scene.scale(2);
    scene.until_active(&agent, &scene.ready(2));
    scene.scale(5);
    scene.until_active(&agent, &scene.ready(5));
    caller.goes_on(40).unwrap();
    let tally = caller.stop().unwrap();
    println!("{} replies, failures {:?}", tally.replied(), tally.failures);
    assert_eq!(scene.reached(60), scene.pods());
}

#[test]
fn an_agent_that_starts_while_the_api_server_is_away_keeps_what_is_pinned() {
    let Some(scene) = Scene::new("restarted", 4, json!({})) else { return };
    let ready = scene.ready(4);
    let agent = scene.agent();
    scene.until_active(&agent, &ready);
    let caller = scene.caller(vec![scene.cluster_ip()], Style::Each);
    caller.goes_on(40).unwrap();

    scene.cluster.kill_api_server().unwrap();
    agent.terminate().unwrap();
    caller.goes_on(40).unwrap();
    let agent = scene.agent_again();
    caller.goes_on(100).unwrap();
    assert_eq!(scene.active().unwrap(), ready, "nothing is emptied");
    assert_eq!(agent.status().unwrap().datapath.origin, "adopted from an earlier agent");
    let tally = caller.stop().unwrap();
    assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
    assert_eq!(tally.replies.len(), 4);

    scene.cluster.restart_api_server().unwrap();
    scene.scale(2);
    scene.until_active(&agent, &scene.ready(2));
    assert_eq!(scene.reached(60), scene.pods());
}
