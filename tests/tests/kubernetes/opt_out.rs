//! Whose connections are left alone: pods that opted out, pods of namespaces that did, pods with a
//! mesh's proxy; and whose are not: all others, those on the host's network among them.

use crate::scene::Scene;
use balancer_common::reason::Reason;
use balancer_tests::{
    agent::Agent,
    cluster::{
        caller::{CallPlan, Caller, Style},
        kubelet::Place,
        objects::{ECHO_PORT, NAMESPACE},
        workload::IDLE_IMAGE,
    },
};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};
use tokio::time::timeout;

/// A namespace that opts out.
const QUIET: &str = "quiet";
/// Calls that each client makes, a connection each.
const CALLS: u64 = 30;
/// Longest wait until the kubelet runs a pod.
const START: Duration = Duration::from_secs(30);

/// A client pod, and why it is left alone, if it is.
struct Client {
    namespace: &'static str,
    name: &'static str,
    /// Its object's metadata and spec beyond its name, node and container.
    more: Value,
    skipped: Option<Reason>,
}

const fn client(
    namespace: &'static str,
    name: &'static str,
    more: Value,
    skipped: Option<Reason>,
) -> Client {
    Client { namespace, name, more, skipped }
}

fn clients() -> Vec<Client> {
    let container = |name: &str| json!({"name": name, "image": IDLE_IMAGE});
    let sidecar = json!({"name": "linkerd-proxy", "image": IDLE_IMAGE, "restartPolicy": "Always"});
    let opted_out = Some(Reason::PodOptedOut);
    let meshed = Some(Reason::MeshProxy);
    let balance = |value: &str| json!({"balancer.dev/balance": value});
    vec![
        client(NAMESPACE, "plain", json!({}), None),
        client(NAMESPACE, "asks", json!({"metadata": {"annotations": balance("true")}}), None),
        client(NAMESPACE, "on-host", json!({"spec": {"hostNetwork": true}}), None),
        client(
            NAMESPACE,
            "annotated",
            json!({"metadata": {"annotations": balance("false")}}),
            opted_out,
        ),
        client(NAMESPACE, "labelled", json!({"metadata": {"labels": balance("false")}}), opted_out),
        client(QUIET, "in-quiet", json!({}), opted_out),
        client(
            NAMESPACE,
            "in-istio",
            json!({"spec": {"containers": [container("istio-proxy"), container("app")]}}),
            meshed,
        ),
        client(
            NAMESPACE,
            "in-linkerd",
            json!({"spec": {"initContainers": [sidecar], "containers": [container("app")]}}),
            meshed,
        ),
    ]
}

// === impl Client ===

impl Client {
    /// Makes the pod, on the agent's node, and waits until it runs.
    fn start(&self, scene: &Scene) -> Place {
        let mut object = json!({
            "metadata": {"name": self.name, "labels": {}, "annotations": {}},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": "node-a"},
                "containers": [{"name": "app", "image": IDLE_IMAGE}],
            },
        });
        for part in ["metadata", "spec"] {
            let more = self.more[part].as_object().cloned().unwrap_or_default();
            object[part].as_object_mut().unwrap().extend(more);
        }
        let pods: Api<Pod> = Api::namespaced(scene.client(), self.namespace);
        scene.cluster.run(async {
            let object = serde_json::from_value(object).unwrap();
            pods.create(&PostParams::default(), &object).await.unwrap();
            let runs = |pod: Option<&Pod>| {
                pod.is_some_and(|pod| pod.status.as_ref().is_some_and(|it| it.pod_ip.is_some()))
            };
            timeout(START, await_condition(pods, self.name, runs)).await.unwrap().unwrap();
        });
        scene.cluster.kubelet().place(self.namespace, self.name).unwrap()
    }

    fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its row in what `pods` tells.
    fn row(&self, scene: &Scene) -> Value {
        let report = scene.ask(&["pods"]);
        let is_own = |row: &&Value| row["namespace"] == self.namespace && row["name"] == self.name;
        report["pods"].as_array().unwrap().iter().find(is_own).cloned().unwrap_or_default()
    }

    /// Dials one pod's address again and again, and tells who answered.
    fn reaches(&self, scene: &Scene, target: SocketAddr) -> BTreeSet<String> {
        let place = scene.cluster.kubelet().place(self.namespace, self.name).unwrap();
        let plan = CallPlan { targets: vec![target], style: Style::Each, pause_ms: 1 };
        let caller = Caller::start(&place, &plan).unwrap();
        caller.goes_on(CALLS).unwrap();
        let tally = caller.stop().unwrap();
        assert_eq!(tally.failures, BTreeMap::new(), "{}", self.name);
        tally.replies.into_keys().collect()
    }
}

/// A headless service that asks to be balanced: where a client asked to go is a real address.
fn scene(purpose: &str) -> Option<Scene> {
    let annotations = json!({"balancer.dev/balance": "true"});
    let headless = json!({
        "metadata": {"annotations": annotations},
        "spec": {"clusterIP": "None"},
    });
    let scene = Scene::new(purpose, 3, headless)?;
    let namespaces: Api<Namespace> = Api::all(scene.client());
    let quiet = json!({
        "metadata": {"name": QUIET, "annotations": {"balancer.dev/balance": "false"}},
    });
    let quiet = serde_json::from_value(quiet).unwrap();
    scene.cluster.run(namespaces.create(&PostParams::default(), &quiet)).unwrap();
    Some(scene)
}

/// A pod of the service: its name and the address that clients dial.
fn target(scene: &Scene) -> (String, SocketAddr) {
    let name = scene.pods().into_iter().next().unwrap();
    let place = scene.cluster.kubelet().place(NAMESPACE, &name).unwrap();
    (name, SocketAddr::from((place.addresses[0], ECHO_PORT)))
}

/// Waits until `pods` shows each client as it should be.
fn until_shown(scene: &Scene, agent: &Agent<'_>, clients: &[Client]) {
    let shown = |client: &Client| {
        let row = client.row(scene);
        row["skipped"] == json!(client.skipped.map(Reason::name)) && row["name"] == client.name
    };
    let waited = agent.until(|_| clients.iter().all(shown));
    if let Err(error) = waited {
        panic!("{error}: {:#}", scene.ask(&["pods"]));
    }
}

#[test]
fn who_opted_out_or_has_a_mesh_is_left_alone_and_all_others_are_balanced() {
    let Some(scene) = scene("opt-out") else { return };
    let agent = scene.agent();
    scene.until_active(&agent, &scene.ready(3));
    let clients = clients();
    for client in &clients {
        client.start(&scene);
    }
    until_shown(&scene, &agent, &clients);
    let (asked, address) = target(&scene);
    for client in &clients {
        let before = scene.reasons();
        let reached = client.reaches(&scene, address);
        let counted = |reason: Reason| scene.reasons()[&reason] - before[&reason];
        match client.skipped {
            None => {
                assert_eq!(reached, scene.pods(), "{}", client.name);
                assert!(counted(Reason::Picked) >= CALLS, "{}", client.name);
                assert_eq!(counted(Reason::PodOptedOut) + counted(Reason::MeshProxy), 0);
            }
            Some(reason) => {
                assert_eq!(reached, [asked.clone()].into(), "{}", client.name);
                assert!(counted(reason) >= CALLS, "{}: {:?}", client.name, scene.reasons());
                assert_eq!(counted(Reason::Picked), 0, "{}", client.name);
            }
        }
        let explained = scene.ask(&["explain", &client.key(), &address.to_string()]);
        assert_eq!(explained["balanced"], client.skipped.is_none(), "{explained:#}");
        let reason = client.skipped.unwrap_or(Reason::Picked).name();
        assert_eq!(explained["reason"], reason, "{explained:#}");
        assert_eq!(client.row(&scene)["host_network"], client.name == "on-host");
    }
    assert_eq!(agent.status().unwrap().complaints(), Vec::<String>::new());
}

/// What a running pod's object says may change; its next connection obeys.
#[test]
fn opting_out_and_in_again_takes_effect_while_the_pod_runs() {
    let Some(scene) = scene("opting") else { return };
    let agent = scene.agent();
    scene.until_active(&agent, &scene.ready(3));
    let mut client = clients().into_iter().find(|client| client.namespace == QUIET).unwrap();
    client.start(&scene);
    let (asked, address) = target(&scene);
    let api = scene.client();
    let annotate = async |namespace: &str, pod: &str| {
        let change = |value: &str| {
            Patch::Merge(json!({"metadata": {"annotations": {"balancer.dev/balance": value}}}))
        };
        let parameters = PatchParams::default();
        let namespaces: Api<Namespace> = Api::all(api.clone());
        namespaces.patch(QUIET, &parameters, &change(namespace)).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(api.clone(), QUIET);
        pods.patch(client.name, &parameters, &change(pod)).await.unwrap();
    };
    for (namespace, pod, skipped) in
        [("false", "true", true), ("true", "true", false), ("true", "false", true)]
    {
        scene.cluster.run(annotate(namespace, pod));
        let expected = if skipped { [asked.clone()].into() } else { scene.pods() };
        client.skipped = skipped.then_some(Reason::PodOptedOut);
        until_shown(&scene, &agent, std::slice::from_ref(&client));
        assert_eq!(client.reaches(&scene, address), expected, "{namespace} {pod}");
    }
    drop(agent);
    // Nobody is needed for it to stay so.
    assert_eq!(client.reaches(&scene, address), [asked].into());
}
