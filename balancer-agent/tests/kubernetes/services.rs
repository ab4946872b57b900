//! What becomes of Services and EndpointSlices.

use super::{
    cluster::{Cluster, service, slice, two_services},
    server::{SERVICES, SLICES, Verb},
};
use serde_json::json;
use std::time::{Duration, SystemTime};

#[tokio::test]
async fn services_and_slices_become_services_of_the_core() {
    let mut cluster = Cluster::start(two_services).await;
    cluster.await_services(|it| it.count() == 2).await;
    assert_eq!(cluster.frontends("shop/a:grpc"), ["10.96.0.1:80"]);
    assert_eq!(cluster.backends("shop/a:grpc"), ["10.1.0.1:50051", "10.1.0.2:50051"]);

    cluster.server.apply(SLICES, slice("a", "a-2", &[5]));
    cluster.await_services(|it| it.backends("shop/a:grpc").len() == 3).await;
    cluster.server.delete(SLICES, slice("a", "a-1", &[]));
    cluster.await_services(|it| it.backends("shop/a:grpc") == ["10.1.0.5:50051"]).await;
    cluster.server.delete(SERVICES, service("a", 1));
    cluster.await_services(|it| it.count() == 1).await;
    assert_eq!(cluster.removed, ["shop/a:grpc"]);
    for kind in [SERVICES, SLICES] {
        let asked = cluster.server.asked(kind, Verb::List);
        let selector = "!service.kubernetes.io/service-proxy-name";
        assert_eq!(asked.len(), 1, "one list is enough");
        assert_eq!(asked[0].query["labelSelector"], selector);
    }
}

/// Hints alone decide, as in kube-proxy since 1.34 (`topologyModeFromHints` in pkg/proxy/topology.go):
/// it reads neither `trafficDistribution` nor the annotation. Those are for the EndpointSlice
/// controller, which writes the hints.
#[tokio::test]
async fn hints_decide_whatever_the_service_says_of_its_traffic() {
    let zone = |zone: &str| json!({"forZones": [{"name": zone}]});
    let node = |zone: &str, node: &str| json!({"forZones": [{"name": zone}], "forNodes": [{"name": node}]});
    let (first, second, all) =
        ("10.1.0.1:50051", "10.1.0.2:50051", ["10.1.0.1:50051", "10.1.0.2:50051"]);
    let hints = [
        (json!(null), json!(null), all.map(str::to_owned)),
        (zone("z1"), json!(null), all.map(str::to_owned)),
        (zone("z1"), zone("z2"), [first.to_owned(), format!("~{second}")]),
        (zone("z2"), zone("z3"), all.map(str::to_owned)),
        (node("z2", "node-a"), node("z1", "node-b"), [first.to_owned(), format!("~{second}")]),
        (node("z2", "node-b"), node("z1", "node-b"), [format!("~{first}"), second.to_owned()]),
        // One without a hint for a node: those for zones count.
        (node("z2", "node-a"), zone("z1"), [format!("~{first}"), second.to_owned()]),
    ];
    let said = [
        json!({}),
        json!({"spec": {"trafficDistribution": "PreferClose"}}),
        json!({"spec": {"trafficDistribution": "PreferSameZone"}}),
        json!({"spec": {"trafficDistribution": "PreferSameNode"}}),
        json!({"spec": {"trafficDistribution": "Nonsense"}}),
        json!({"metadata": {"annotations": {"service.kubernetes.io/topology-mode": "Auto"}}}),
    ];
    let mut cluster = Cluster::start(|server| {
        for (n, said) in (1..).zip(&said) {
            for (m, (one, other, _)) in (0_u8..).zip(&hints) {
                let name = format!("s{n}-{m}");
                let mut service = service(&name, 10 * n + m);
                for key in ["spec", "metadata"] {
                    for (field, value) in said[key].as_object().into_iter().flatten() {
                        service[key][field] = value.clone();
                    }
                }
                server.apply(SERVICES, service);
                let mut slice = slice(&name, &name, &[1, 2]);
                slice["endpoints"][0]["hints"] = one.clone();
                slice["endpoints"][1]["hints"] = other.clone();
                server.apply(SLICES, slice);
            }
        }
    })
    .await;
    cluster.await_services(|it| it.count() == said.len() * hints.len()).await;
    for (n, said) in (1..).zip(&said) {
        for (m, (_, _, expected)) in (0..).zip(&hints) {
            assert_eq!(cluster.backends(&format!("shop/s{n}-{m}:grpc")), *expected, "{said} {m}");
        }
    }
}

#[tokio::test]
async fn the_time_at_which_a_change_began_goes_with_it() {
    let mut cluster = Cluster::start(two_services).await;
    cluster.await_services(|it| it.count() == 2).await;
    cluster.server.await_asked(SLICES, Verb::Watch, 1).await;
    let at = |service: &str, hosts: &[u8], time: &str| {
        let mut slice = slice(service, &format!("{service}-1"), hosts);
        slice["metadata"]["annotations"] =
            json!({"endpoints.kubernetes.io/last-change-trigger-time": time});
        slice
    };
    let now = SystemTime::now();
    let began = now - Duration::from_secs(2);
    let text = |time: SystemTime| k8s_openapi::jiff::Timestamp::try_from(time).unwrap().to_string();
    let server = &cluster.server;
    // Nobody's, one that changes nothing, one that says nothing, and those that cannot be.
    server.apply(SLICES, at("nobody", &[9], &text(began)));
    server.apply(SLICES, at("b", &[3, 4], &text(began)));
    server.apply(SLICES, slice("b", "b-1", &[3]));
    for (host, time) in [(5, "garbage"), (6, "1999-01-01T00:00:00Z"), (7, "2999-01-01T00:00:00Z")] {
        server.apply(SLICES, at("b", &[host], time));
    }
    cluster.await_services(|it| it.backends("shop/b:grpc") == ["10.1.0.7:50051"]).await;
    assert_eq!(cluster.triggered_at, []);
    let health = cluster.health.wait_for(|health| health.triggers_ignored == 3).await;
    assert_eq!(health.counts.refused, 0, "that is no fault of the slice");
    cluster.server.apply(SLICES, at("a", &[1], &text(began)));
    cluster.await_services(|it| it.backends("shop/a:grpc").len() == 1).await;
    assert_eq!(cluster.triggered_at, [began]);
}
