//! Pods that terminate, as their own objects tell it before any slice does: in these tests no slice
//! ever says so.

use super::{
    cluster::{Cluster, service, slice, two_services, uid},
    server::{Kind, SERVICES, Verb, event, status, status_object},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PODS: Kind = "pods";
const A: &str = "shop/a:grpc";
const BOTH: [&str; 2] = ["10.1.0.1:50051", "10.1.0.2:50051"];
const FIRST_DRAINS: [&str; 2] = ["-10.1.0.1:50051", "10.1.0.2:50051"];

fn pod(host: u8, is_terminating: bool) -> Value {
    let mut pod = json!({
        "metadata": {"name": format!("pod-{host}"), "namespace": "shop", "uid": uid(host)},
    });
    if is_terminating {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    }
    pod
}

async fn synced() -> Cluster {
    let mut cluster = Cluster::start(two_services).await;
    cluster.await_services(|it| it.backends(A) == BOTH).await;
    cluster.server.await_asked(PODS, Verb::Watch, 1).await;
    cluster
}

#[tokio::test]
async fn a_pod_that_is_being_deleted_drains_before_its_slice_says_so() {
    let mut cluster = synced().await;
    cluster.server.apply(PODS, pod(1, false));
    cluster.server.apply(PODS, pod(1, true));
    cluster.await_services(|it| it.backends(A) == FIRST_DRAINS).await;
    // The next pod of that name is another one.
    cluster.server.delete(PODS, pod(1, true));
    let mut successor = pod(3, false);
    successor["metadata"]["name"] = json!("pod-1");
    cluster.server.apply(PODS, successor);
    // A pod that goes without a farewell.
    cluster.server.delete(PODS, pod(2, false));
    cluster.await_services(|it| it.backends(A) == ["-10.1.0.1:50051", "-10.1.0.2:50051"]).await;
    assert_eq!(cluster.backends("shop/b:grpc"), ["10.1.0.3:50051", "10.1.0.4:50051"]);

    let asked = cluster.server.asked(PODS, Verb::List);
    let asked: Vec<_> = asked.iter().map(|it| (&*it.path, &*it.query["limit"])).collect();
    assert_eq!(asked, [("/api/v1/namespaces/shop/pods", "1")], "nothing else is listed");
    let health = cluster.farewells.snapshot();
    assert_eq!((health.synced, health.watches[0].scopes), (true, 1));
}

#[tokio::test]
async fn who_may_not_watch_pods_goes_on_by_the_slices() {
    let mut cluster = Cluster::start(|server| {
        two_services(server);
        for _ in 0..3 {
            server.fail(PODS, Verb::List, status(403, "Forbidden"));
        }
        server.fail(PODS, Verb::Watch, status(403, "Forbidden"));
    })
    .await;
    cluster.await_services(|it| it.backends(A) == BOTH).await;
    assert!(cluster.health.snapshot().synced, "the services do not wait for pods");
    let health = cluster.farewells.wait_for(|it| it.watches[0].errors == 4).await;
    assert!(health.watches[0].last_error.as_ref().unwrap().contains("403"), "{health:?}");
    // Once it is allowed, it works.
    cluster.farewells.wait_for(|it| it.synced && it.staleness_ms == 0).await;
    cluster.server.apply(PODS, pod(1, true));
    cluster.await_services(|it| it.backends(A) == FIRST_DRAINS).await;
}

#[tokio::test]
async fn a_watch_that_is_lost_begins_anew() {
    let mut cluster = synced().await;
    // Its time is up: it goes on from the last version, and hears what happened meanwhile.
    cluster.server.end(PODS);
    cluster.server.apply(PODS, pod(1, true));
    cluster.await_services(|it| it.backends(A) == FIRST_DRAINS).await;
    assert_eq!(cluster.server.asked(PODS, Verb::List).len(), 1);
    // The version is gone, or the server says that it is: what was missed is left to the slices.
    cluster.server.change_silently(PODS, BTreeMap::clear);
    cluster.server.cut(PODS);
    cluster.farewells.wait_for(|it| it.watches[0].lists == 2).await;
    cluster.server.say(PODS, &event("ERROR", &status_object(410, "Expired")));
    cluster.farewells.wait_for(|it| it.watches[0].lists == 3).await;
    // A line that cannot be read is skipped: the watch goes on behind the last one that could be.
    let errors = cluster.farewells.snapshot().watches[0].errors;
    cluster.server.say(PODS, "garbage");
    cluster.farewells.wait_for(|it| it.watches[0].errors > errors && it.staleness_ms == 0).await;
    cluster.server.apply(PODS, pod(2, true));
    // KEP-1669: both leave, so that both are used.
    cluster.await_services(|it| it.backends(A) == BOTH).await;
    assert_eq!(cluster.removed, [""; 0]);
}

#[tokio::test]
async fn watches_come_and_go_with_the_namespaces_of_balanced_services() {
    let mut cluster = Cluster::start(|server| {
        let mut plain = service("plain", 9);
        plain["metadata"]["namespace"] = json!("dull");
        plain["spec"]["ports"][0]["name"] = json!("http");
        server.apply(SERVICES, plain);
    })
    .await;
    cluster.await_services(|_| true).await;
    let in_namespace = |n: u8| {
        let mut service = service("s", n);
        service["metadata"]["namespace"] = json!(format!("n{n:02}"));
        service
    };
    cluster.farewells.wait_for(|it| it.synced).await;
    assert_eq!(cluster.server.asked(PODS, Verb::List).len(), 0, "nobody asks for it");
    for n in 1..=64 {
        cluster.server.apply(SERVICES, in_namespace(n));
    }
    cluster.farewells.wait_for(|it| it.watches[0].scopes == 64).await;
    cluster.server.apply(SERVICES, in_namespace(65));
    cluster.farewells.wait_for(|it| it.watches[0].scopes == 1).await;
    cluster.await_services(|it| it.count() == 65).await;
    loop {
        let asked = cluster.server.asked(PODS, Verb::Watch);
        if asked.iter().any(|it| it.path == "/api/v1/pods") {
            break;
        }
        cluster.server.await_asked(PODS, Verb::Watch, asked.len() + 1).await;
    }
    // One watch on all tells of every namespace.
    cluster.server.apply(super::server::SLICES, slice("s", "s-1", &[1]));
    for n in 1..=65 {
        cluster.server.delete(SERVICES, in_namespace(n));
    }
    cluster.farewells.wait_for(|it| it.watches[0].scopes == 0 && it.synced).await;
    let paths = cluster.server.asked(PODS, Verb::List);
    assert!(paths.iter().all(|it| !it.path.contains("dull")), "{paths:?}");
}
