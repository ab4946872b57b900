//! What is told of this node's pods, and what a bad day of the API server does not take away.

use super::{
    cluster::Pauses,
    server::{Kind, Server, Verb, status},
};
use balancer_agent::{
    core::pods::NodePods,
    sources::kubernetes::{
        KubernetesHealth,
        pods::{PodsSource, Told},
    },
};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;

const PODS: Kind = "pods";
const NAMESPACES: Kind = "namespaces";
/// Long enough for the slowest machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

fn pod(name: &str, uid: &str, container: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": uid},
        "spec": {"containers": [{"name": container}]},
    })
}

fn namespace(name: &str, balance: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name, "labels": {"balancer.dev/balance": balance}}})
}

struct Node {
    server: Server,
    health: KubernetesHealth,
    pictures: watch::Receiver<Told>,
}

impl Node {
    async fn start(prepare: impl FnOnce(&Server)) -> Self {
        let server = Server::start().await;
        prepare(&server);
        let client = Client::try_from(Config::new(server.url.clone())).unwrap();
        let source = PodsSource::new(client, "node-a").with_pauses(|| Box::new(Pauses));
        let health = source.health();
        let (sender, pictures) = watch::channel(None);
        tokio::spawn(source.run(sender));
        Self { server, health, pictures }
    }

    /// Waits until the picture is as wanted.
    async fn until(&mut self, wanted: impl Fn(&NodePods) -> bool) {
        let reached = self.pictures.wait_for(|told| told.as_deref().is_some_and(&wanted));
        let reached = tokio::time::timeout(PATIENCE, reached).await.map(|told| told.is_ok());
        assert!(reached.unwrap_or(false), "{:#?}\n{:#?}", self.pictures, self.health.snapshot());
    }
}

fn names(pods: &NodePods) -> Vec<(&str, &str)> {
    pods.pods.values().map(|pod| (pod.uid.as_str(), pod.name.as_str())).collect()
}

#[tokio::test]
async fn pods_come_change_and_go() {
    let mut node = Node::start(|server| {
        server.apply(NAMESPACES, namespace("shop", "true"));
        server.apply(PODS, pod("cart-0", "1", "app"));
    })
    .await;
    node.until(|pods| names(pods) == [("1", "cart-0")]).await;
    let asked = node.server.asked(PODS, Verb::List);
    assert_eq!(asked[0].query["fieldSelector"], "spec.nodeName=node-a");

    node.server.apply(PODS, pod("cart-1", "2", "istio-proxy"));
    node.until(|pods| pods.pods.values().any(|pod| pod.mesh_proxy.is_some())).await;
    node.server.apply(NAMESPACES, namespace("shop", "false"));
    node.until(|pods| pods.namespaces.contains_key("shop")).await;
    // A StatefulSet's next pod has its predecessor's name.
    node.server.delete(PODS, pod("cart-0", "1", "app"));
    node.server.apply(PODS, pod("cart-0", "3", "app"));
    node.until(|pods| names(pods) == [("2", "cart-1"), ("3", "cart-0")]).await;
    node.server.delete(NAMESPACES, namespace("shop", "false"));
    node.until(|pods| pods.namespaces.is_empty()).await;
}

#[tokio::test]
async fn nothing_is_told_before_both_kinds_are_known() {
    let mut node = Node::start(|server| {
        server.apply(PODS, pod("cart-0", "1", "app"));
        for _ in 0..3 {
            server.fail(NAMESPACES, Verb::List, status(403, "Forbidden"));
        }
    })
    .await;
    node.server.await_asked(NAMESPACES, Verb::List, 3).await;
    assert!(node.pictures.borrow().is_none());
    node.until(|pods| names(pods) == [("1", "cart-0")]).await;
    let report = node.health.snapshot();
    assert!(report.synced && report.watches.iter().any(|watch| watch.errors >= 3), "{report:?}");
}

#[tokio::test]
async fn what_was_missed_is_found_and_what_cannot_be_read_stays() {
    let mut node = Node::start(|server| {
        for (name, uid) in [("cart-0", "1"), ("cart-1", "2"), ("cart-2", "3")] {
            server.apply(PODS, pod(name, uid, "app"));
        }
    })
    .await;
    node.until(|pods| pods.pods.len() == 3).await;
    // A pod goes while the watch is cut, and another becomes what no Pod is.
    node.server.change_silently(PODS, |objects| {
        objects.remove("shop/cart-0");
        objects.get_mut("shop/cart-1").unwrap()["spec"] = json!("nonsense");
    });
    node.server.cut(PODS);
    node.until(|pods| names(pods) == [("2", "cart-1"), ("3", "cart-2")]).await;
}
