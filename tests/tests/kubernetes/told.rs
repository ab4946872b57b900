//! What the real API server tells beside endpoints: which node this is of how many, and when changes
//! began.

use crate::scene::Scene;
use balancer_tests::{
    agent::{Agent, write_config},
    scrape::{free_address, sample},
};
use serde_json::json;

const TRIGGERED: &str = "balancer_trigger_programming_duration_seconds";

/// Starts the agent of the second node, which serves metrics.
fn start(scene: &Scene, address: std::net::SocketAddr) -> Agent<'_> {
    let config = Scene::config(&scene.cluster.control_plane().kubeconfig());
    let config = config.replace("node-name: node-a", "node-name: node-b");
    let config = format!("{config}http: {{listen: \"{address}\"}}\n");
    write_config(scene.cluster.world(), &config).unwrap();
    scene.agent_again()
}

#[test]
fn rank_and_trigger_times_come_from_the_api_server() {
    let Some(scene) = Scene::new("told", 2, json!({})) else { return };
    let address = free_address().unwrap();
    let agent = start(&scene, address);
    scene.until_active(&agent, &scene.ready(2));
    // Of node-a and node-b this is the second.
    agent.until(|_| agent.log().contains("rank=1")).unwrap();

    agent.until(|_| agent.log().contains("serving /metrics")).unwrap();
    let count = || sample(address, &format!("{TRIGGERED}_count")).unwrap();
    let before = count();
    scene.scale(4);
    scene.until_active(&agent, &scene.ready(4));
    agent.until(|_| count() > before).unwrap();
    let in_all = sample(address, &format!("{TRIGGERED}_bucket{{le=\"+Inf\"}}")).unwrap();
    assert!(in_all > before, "{in_all}");
    let ignored = sample(address, "balancer_trigger_times_ignored_total").unwrap();
    assert!(ignored.abs() < 0.5, "the controller's times make sense: {ignored}");
}
