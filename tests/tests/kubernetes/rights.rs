//! The agent as the account that `deploy/` gives it: that is enough for everything it does, and
//! good for nothing else.

use crate::{
    manifests::deploy,
    scene::{SHOP, Scene},
};
use balancer_agent::sources::kubernetes::{Kind, KubernetesReport};
use balancer_tests::{
    agent::Agent,
    cluster::{
        kubeconfig,
        objects::{self, NAMESPACE},
    },
    manifests::{self, Mode},
};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    authorization::v1::{
        ResourceRule, SelfSubjectRulesReview, SelfSubjectRulesReviewSpec, SubjectRulesReviewStatus,
    },
    core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount},
    events::v1::Event,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{collections::BTreeSet, fmt::Debug, path::PathBuf};

/// The account, and where it is.
pub(crate) const ACCOUNT: (&str, &str) = ("balancer-system", "balancer-agent");
/// What makes the account, in the order in which it is made.
pub(crate) const KINDS: [&str; 4] =
    ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"];

/// What mends a missing right.
const RIGHTS_HINT: &str =
    "hint: give the agent's account the rights in deploy/base/cluster-role.yaml";

/// Makes what the manifests say of the account, and gives its kubeconfig.
pub(crate) fn account(scene: &Scene, kinds: &[&str]) -> PathBuf {
    let rendered = manifests::render(&deploy("base")).unwrap();
    let client = scene.client();
    scene.cluster.run(async {
        for kind in kinds {
            for object in rendered.iter().filter(|object| object["kind"] == *kind) {
                manifests::apply(&client, object, Mode::Real).await.unwrap();
            }
        }
    });
    scene.cluster.account_kubeconfig(ACCOUNT.0, ACCOUNT.1).unwrap()
}

/// What the agent tells of its watches.
pub(crate) fn report(status: &balancer_agent::admin::Status) -> KubernetesReport {
    serde_json::from_value(status.kubernetes.clone().unwrap()).unwrap()
}

/// Waits until every watch works, and tells of them.
pub(crate) fn until_all_synced(agent: &Agent<'_>) -> KubernetesReport {
    let kinds = [Kind::OF_SERVICES, Kind::OF_PODS, Kind::OF_FAREWELLS].concat().len();
    let all = |report: &KubernetesReport| {
        report.watches.len() == kinds && report.watches.iter().all(|it| it.synced)
    };
    report(&agent.until(|status| all(&report(status))).unwrap())
}

#[test]
fn the_agent_does_all_its_work_as_its_own_account() {
    let Some(scene) = Scene::new("rights", 3, json!({})) else { return };
    let agent = scene.agent_as(&account(&scene, &KINDS));
    scene.until_active(&agent, &scene.ready(3));
    assert_eq!(scene.reached(30), scene.pods());
    scene.scale(4);
    scene.until_active(&agent, &scene.ready(4));

    let client = scene.client();
    let change = json!({"metadata": {"annotations": {"balancer.dev/policy": "nonsense"}}});
    scene.cluster.run(objects::patch::<Service>(&client, SHOP, &change)).unwrap();
    // The controllers of the Service, and of the Deployment called the same, speak as well.
    let is_ours = |event: &Event| {
        let regarding = event.regarding.as_ref();
        let named = regarding.map(|it| (it.kind.as_deref(), it.name.as_deref()));
        let ours = event.reporting_controller.as_deref() == Some("balancer.dev/agent");
        ours && named == Some((Some("Service"), Some(SHOP)))
    };
    let events = objects::until::<Event>(&client, "", |events| events.values().any(is_ours));
    let events = scene.cluster.run(events).unwrap();
    let event = events.values().find(|event| is_ours(event)).unwrap();
    let note = event.note.as_deref().unwrap();
    for word in ["balancer.dev/policy", "nonsense", "round-robin"] {
        assert!(note.contains(word), "{note}");
    }
    assert_eq!(event.reporting_instance.as_deref(), Some("node-a"));
    assert_eq!(event.type_.as_deref(), Some("Warning"));

    agent.until(|status| report(status).events_written == 1).unwrap();
    let report = until_all_synced(&agent);
    for watch in &report.watches {
        assert_eq!((watch.errors, &watch.last_error), (0, &None), "{watch:?}");
    }
    assert_eq!((report.events_failed, report.problems_total), (0, 1), "{report:?}");
    assert!(!agent.log().contains("forbidden"), "{}", agent.log());
}

/// Without its rights the agent says what it lacks, and works as soon as it has them.
#[test]
fn an_account_without_rights_is_told_of_and_heals() {
    let Some(scene) = Scene::new("unbound", 2, json!({})) else { return };
    let agent = scene.agent_as(&account(&scene, &KINDS[..3]));
    let is_denied = |kind: Kind, report: &KubernetesReport| {
        let watch = report.watches.iter().find(|it| it.kind == kind).unwrap();
        let error = watch.last_error.as_deref().unwrap_or_default();
        let words = ["forbidden", "balancer-agent", RIGHTS_HINT];
        !watch.synced && words.into_iter().all(|word| error.contains(word))
    };
    agent
        .until(|status| {
            let report = report(status);
            Kind::OF_SERVICES.iter().chain(Kind::OF_PODS).all(|kind| is_denied(*kind, &report))
        })
        .unwrap();
    assert_eq!(scene.states().unwrap().len(), 0);
    // It is told once, however often it is tried.
    agent
        .until(|status| {
            report(status).watches.iter().all(|watch| watch.errors >= 3 || watch.scopes == 0)
        })
        .unwrap();
    let log = agent.log();
    for kind in Kind::OF_SERVICES.iter().chain(Kind::OF_PODS) {
        let of_kind = format!("kind=\"{}\"", kind.name());
        let told = |line: &&str| line.contains("WARN") && line.contains(&of_kind);
        assert_eq!(log.lines().filter(told).count(), 1, "{kind:?}: {log}");
    }
    let forbidden = |line: &&str| line.contains("WARN") && line.contains("forbidden");
    let kinds = Kind::OF_SERVICES.len() + Kind::OF_PODS.len();
    assert_eq!(log.lines().filter(forbidden).count(), kinds, "{log}");
    assert!(!log.contains("ERROR"), "kube tells of every try: {log}");
    account(&scene, &KINDS[3..]);
    until_all_synced(&agent);
    scene.until_active(&agent, &scene.ready(2));
}

#[test]
fn the_account_is_good_for_nothing_else() {
    let Some(scene) = Scene::new("limits", 1, json!({})) else { return };
    let path = account(&scene, &KINDS);
    scene.cluster.run(async {
        let agent = kubeconfig::client(&path).await.unwrap();
        assert_eq!(rules(&agent).await, expected_rules());
        refuses_to_read(&agent).await;
        refuses_to_write(&agent).await;
    });
}

/// Every right to a resource, as the API server's authorizer lists them.
async fn rules(agent: &Client) -> BTreeSet<String> {
    let reviews: Api<SelfSubjectRulesReview> = Api::all(agent.clone());
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(NAMESPACE.into()) };
    let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
    let review = reviews.create(&PostParams::default(), &review).await.unwrap();
    let status: SubjectRulesReviewStatus = review.status.unwrap();
    assert!(!status.incomplete, "{status:?}");
    status.resource_rules.iter().flat_map(each).collect()
}

fn each(rule: &ResourceRule) -> Vec<String> {
    assert_eq!(rule.resource_names, None);
    let groups = rule.api_groups.iter().flatten();
    let pairs = groups.flat_map(|group| {
        let resources = rule.resources.iter().flatten();
        resources.flat_map(move |resource| {
            rule.verbs.iter().map(move |verb| format!("{verb} {group}/{resource}"))
        })
    });
    pairs.collect()
}

/// What the documentation promises, and what every account may ask about itself.
fn expected_rules() -> BTreeSet<String> {
    let mut rules: BTreeSet<String> = [
        "create events.k8s.io/events",
        "patch events.k8s.io/events",
        "create authentication.k8s.io/selfsubjectreviews",
        "create authorization.k8s.io/selfsubjectaccessreviews",
        "create authorization.k8s.io/selfsubjectrulesreviews",
    ]
    .map(String::from)
    .into();
    let read = ["/services", "/nodes", "/namespaces", "/pods", "discovery.k8s.io/endpointslices"];
    for verb in ["get", "list", "watch"] {
        rules.extend(read.map(|resource| format!("{verb} {resource}")));
    }
    rules
}

fn assert_forbidden<T: Debug>(what: &str, result: kube::Result<T>) {
    match result {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            assert!(status.message.contains("system:serviceaccount:balancer-system"), "{status:?}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

async fn refuses_to_read(agent: &Client) {
    let list = ListParams::default();
    let secrets: Api<Secret> = Api::namespaced(agent.clone(), NAMESPACE);
    assert_forbidden("list Secrets", secrets.list(&list).await);
    assert_forbidden("read a Secret", secrets.get("any").await);
    let own: Api<Secret> = Api::namespaced(agent.clone(), ACCOUNT.0);
    assert_forbidden("list Secrets of its own namespace", own.list(&list).await);
    let maps: Api<ConfigMap> = Api::all(agent.clone());
    assert_forbidden("list ConfigMaps", maps.list(&list).await);
    let accounts: Api<ServiceAccount> = Api::all(agent.clone());
    assert_forbidden("list ServiceAccounts", accounts.list(&list).await);
    let events: Api<Event> = Api::all(agent.clone());
    assert_forbidden("list Events", events.list(&list).await);
    let pods: Api<Pod> = Api::namespaced(agent.clone(), NAMESPACE);
    let log = pods.logs("any", &kube::api::LogParams::default()).await;
    assert_forbidden("read a Pod's log", log);
}

async fn refuses_to_write(agent: &Client) {
    let parameters = PatchParams::default();
    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let services: Api<Service> = Api::namespaced(agent.clone(), NAMESPACE);
    assert_forbidden("patch a Service", services.patch(SHOP, &parameters, &label).await);
    let deleted = services.delete(SHOP, &DeleteParams::default()).await;
    assert_forbidden("delete a Service", deleted.map(|_| ()));
    let nodes: Api<Node> = Api::all(agent.clone());
    assert_forbidden("patch a Node", nodes.patch("node-a", &parameters, &label).await);
    let namespaces: Api<Namespace> = Api::all(agent.clone());
    assert_forbidden("patch a Namespace", namespaces.patch(NAMESPACE, &parameters, &label).await);
    let pods: Api<Pod> = Api::namespaced(agent.clone(), NAMESPACE);
    assert_forbidden("patch a Pod", pods.patch("client", &parameters, &label).await);
    let deleted = pods.delete("client", &DeleteParams::default()).await;
    assert_forbidden("delete a Pod", deleted.map(|_| ()));
    let events: Api<Event> = Api::namespaced(agent.clone(), NAMESPACE);
    let deleted = events.delete("any", &DeleteParams::default()).await;
    assert_forbidden("delete an Event", deleted.map(|_| ()));
    let accounts: Api<ServiceAccount> = Api::namespaced(agent.clone(), NAMESPACE);
    let request = TokenRequest::default();
    let token = accounts.create_token_request("default", &PostParams::default(), &request).await;
    assert_forbidden("ask for another account's token", token);
}
