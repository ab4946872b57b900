//! The manifests of `deploy/`, as the real API server takes them: the base and every overlay.

use balancer_tests::{
    capability,
    cluster::{Cluster, node::Node, version::Version},
    manifests::{self, Mode},
};
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use kube::{
    Api,
    api::ListParams,
    runtime::wait::{Condition, await_condition},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::timeout;

/// The namespace of everything.
const SYSTEM: &str = "balancer-system";
/// Longest wait for the controllers.
const PATIENCE: Duration = Duration::from_mins(1);

/// A directory below `deploy/`.
pub(crate) fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

/// The base and every overlay, whatever there is.
fn kustomizations() -> Vec<PathBuf> {
    let overlays = fs::read_dir(deploy("overlays")).unwrap();
    let mut all: Vec<_> = overlays.map(|entry| entry.unwrap().path()).collect();
    all.push(deploy("base"));
    all.sort();
    all
}

/// What namespaced objects need to be looked at: a dry run does not make their namespace.
async fn make_namespace(cluster: &Cluster) {
    let base = manifests::render(&deploy("base")).unwrap();
    let namespace = base.iter().find(|object| object["kind"] == "Namespace").unwrap();
    manifests::apply(&cluster.client(), namespace, Mode::DryRun).await.unwrap();
    manifests::apply(&cluster.client(), namespace, Mode::Real).await.unwrap();
}

fn takes_all(version: Version) {
    if !capability::can_run_cluster(version) {
        return;
    }
    let cluster = Cluster::start("manifests", version, Vec::new()).unwrap();
    let client = cluster.client();
    cluster.run(async {
        make_namespace(&cluster).await;
        let mut refused = Vec::new();
        for directory in kustomizations() {
            let objects = manifests::render(&directory).unwrap();
            let kinds: BTreeSet<_> =
                objects.iter().map(|it| it["kind"].as_str().unwrap()).collect();
            assert!(kinds.is_superset(&["DaemonSet", "ConfigMap", "ClusterRole"].into()));
            for object in &objects {
                if let Err(error) = manifests::apply(&client, object, Mode::DryRun).await {
                    refused.push(format!("{}: {error:#}", directory.display()));
                }
            }
        }
        assert!(refused.is_empty(), "{}", refused.join("\n"));
        let sets: Api<DaemonSet> = Api::all(client.clone());
        let made = sets.list(&ListParams::default()).await.unwrap();
        assert_eq!(made.items.len(), 0, "it was a dry run");
    });
}

#[test]
fn the_oldest_release_takes_every_object() {
    takes_all(Version::V1_34);
}

#[test]
fn the_newest_release_takes_every_object() {
    takes_all(Version::V1_36);
}

#[test]
fn what_the_api_refuses_is_named_with_its_own_words() {
    if !capability::can_run_cluster(Version::NEWEST) {
        return;
    }
    let cluster = Cluster::start("refused", Version::NEWEST, Vec::new()).unwrap();
    let client = cluster.client();
    let objects = manifests::render(&deploy("overlays/ubuntu-24.04")).unwrap();
    let object = |kind: &str| objects.iter().find(|it| it["kind"] == kind).unwrap().clone();
    cluster.run(async {
        let error = manifests::apply(&client, &object("DaemonSet"), Mode::DryRun).await;
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("DaemonSet balancer-agent") && error.contains(SYSTEM), "{error}");

        make_namespace(&cluster).await;
        let container = "/spec/template/spec/containers/0";
        for (kind, place, value, complaint) in [
            ("DaemonSet", "/spec/template/spec/hostNetworks", json!(true), "hostNetworks"),
            ("DaemonSet", "/spec/selector/matchLabels", json!({"a": "b"}), "selector"),
            (
                "DaemonSet",
                &format!("{container}/securityContext/appArmorProfile"),
                json!({"type": "None"}),
                "appArmorProfile",
            ),
            ("ClusterRole", "/rules/0/verbs", json!([]), "verbs"),
            ("ClusterRoleBinding", "/subjects/0/kind", json!("Robot"), "Robot"),
        ] {
            let mut object = object(kind);
            let (parent, key) = place.rsplit_once('/').unwrap();
            object.pointer_mut(parent).unwrap()[key] = value;
            let error = manifests::apply(&client, &object, Mode::DryRun).await.unwrap_err();
            let error = format!("{error:#}");
            let names = [format!("{kind} balancer-agent is refused"), complaint.to_owned()];
            assert!(names.iter().all(|it| error.contains(it)), "{place}: {error}");
        }
    });
}

/// Admission looks at pods when they are made: the DaemonSet's controller makes them here.
#[test]
fn every_node_gets_its_pod() {
    if !capability::can_run_cluster(Version::NEWEST) {
        return;
    }
    let nodes = vec![Node::new("node-a", "zone-a"), Node::new("node-b", "zone-b")];
    let cluster = Cluster::start("daemons", Version::NEWEST, nodes).unwrap();
    let client = cluster.client();
    cluster.run(async {
        for object in &manifests::render(&deploy("overlays/ubuntu-24.04")).unwrap() {
            manifests::apply(&client, object, Mode::Real).await.unwrap();
        }
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), SYSTEM);
        let is_ready = |set: Option<&DaemonSet>| {
            let status = set.and_then(|set| set.status.as_ref());
            status.is_some_and(|it| it.desired_number_scheduled == 2 && it.number_ready == 2)
        };
        waited(sets, is_ready).await;
        let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM);
        let pods = pods.list(&ListParams::default()).await.unwrap();
        let of = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.clone().unwrap();
        let nodes: BTreeSet<String> = pods.iter().map(of).collect();
        assert_eq!(nodes, ["node-a", "node-b"].map(String::from).into());
        for pod in &pods {
            let spec = pod.spec.as_ref().unwrap();
            assert_eq!(spec.priority, Some(2_000_001_000), "system-node-critical");
            let context = spec.containers[0].security_context.as_ref().unwrap();
            assert_eq!(context.app_armor_profile.as_ref().unwrap().type_, "Unconfined");
        }
    });
}

async fn waited(sets: Api<DaemonSet>, condition: impl Condition<DaemonSet>) {
    let name = "balancer-agent";
    let ready = timeout(PATIENCE, await_condition(sets.clone(), name, condition)).await;
    let status = sets.get_status(name).await.map(|set| set.status);
    assert!(matches!(ready, Ok(Ok(_))), "not on every node: {status:?}");
}
