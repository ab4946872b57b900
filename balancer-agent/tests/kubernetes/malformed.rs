//! Objects that make no sense are refused one by one, and never at the cost of another.

use super::{
    cluster::{Cluster, service, slice, two_services},
    server::{SERVICES, SLICES},
};
use serde_json::{Value, json};

const A: &str = "shop/a:grpc";

fn with(mut object: Value, path: &str, value: Value) -> Value {
    *object.pointer_mut(path).unwrap() = value;
    object
}

/// Slices of `shop/a` that are refused as a whole.
fn absurd_slices() -> Vec<Value> {
    let base = || slice("a", "absurd", &[7]);
    let mut absurd = vec![
        with(base(), "/addressType", json!("IPv9")),
        with(base(), "/addressType", json!(["IPv4"])),
        with(base(), "/ports/0/port", json!(0)),
        with(base(), "/ports/0/port", json!(-1)),
        with(base(), "/ports/0/port", json!(65_536)),
        with(base(), "/ports/0/port", json!(99_999_999_999_u64)),
        with(base(), "/ports", json!("all")),
        with(base(), "/endpoints", json!(7)),
        with(base(), "/endpoints/0/conditions/ready", json!("maybe")),
        with(base(), "/metadata/name", json!("")),
    ];
    let one = base()["endpoints"][0].clone();
    absurd.push(with(base(), "/endpoints", json!(vec![one; 1_001])));
    for (n, slice) in absurd.iter_mut().enumerate().take(9) {
        slice["metadata"]["name"] = json!(format!("absurd-{n}"));
    }
    absurd
}

#[tokio::test]
async fn absurd_slices_are_refused_one_by_one() {
    // In the first list, and as changes.
    for at_once in [true, false] {
        let mut cluster = Cluster::start(|server| {
            two_services(server);
            let absurd = if at_once { absurd_slices() } else { Vec::new() };
            for slice in absurd {
                server.apply(SLICES, slice);
            }
        })
        .await;
        cluster.await_services(|it| it.count() == 2).await;
        if !at_once {
            for slice in absurd_slices() {
                cluster.server.apply(SLICES, slice);
            }
        }
        cluster.server.apply(SLICES, slice("a", "a-2", &[5]));
        cluster.await_services(|it| it.backends(A).len() == 3).await;
        let count = absurd_slices().len() as u64;
        let health = cluster.health.wait_for(|health| health.counts.refused >= count).await;
        assert!(health.problems_total >= 10, "{:#?}", health.problems);
    }
}

#[tokio::test]
async fn a_slice_that_turns_absurd_keeps_its_last_good_form() {
    let mut cluster = Cluster::start(two_services).await;
    cluster.await_services(|it| it.count() == 2).await;
    // Without a name it would be no slice of that name.
    let named = absurd_slices().into_iter().filter(|it| it["metadata"]["name"] != "");
    for absurd in named {
        cluster.server.apply(SLICES, with(absurd, "/metadata/name", json!("a-1")));
    }
    cluster.server.apply(SLICES, slice("b", "b-2", &[6]));
    cluster.await_services(|it| it.backends("shop/b:grpc").len() == 3).await;
    assert_eq!(cluster.backends(A), ["10.1.0.1:50051", "10.1.0.2:50051"]);
}

#[tokio::test]
async fn endpoints_that_nobody_can_reach_are_left_out() {
    let mut cluster = Cluster::start(|server| {
        two_services(server);
        let mut bad = slice("a", "a-2", &[5]);
        for address in
            ["127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "fd00::1", "10.1.0", "", "\u{7}"]
        {
            let endpoint = json!({"addresses": [address]});
            bad["endpoints"].as_array_mut().unwrap().push(endpoint);
        }
        bad["endpoints"].as_array_mut().unwrap().push(json!({"addresses": []}));
        server.apply(SLICES, bad);
    })
    .await;
    cluster.await_services(|it| it.backends(A).len() == 3).await;
    let health = cluster.health.wait_for(|health| health.problems_total > 0).await;
    assert!(health.problems[0].contains("127.0.0.1 is a loopback address"), "{health:#?}");
}

#[tokio::test]
async fn absurd_services_are_refused_and_told_by_events() {
    let mut cluster = Cluster::start(|server| {
        two_services(server);
        server.apply(SERVICES, with(service("port", 3), "/spec/ports/0/port", json!(0)));
        server.apply(SERVICES, with(service("ip", 4), "/spec/clusterIPs", json!(["127.0.0.1"])));
        server.apply(SERVICES, with(service("kind", 5), "/spec", json!("none")));
        let mut told = service("told", 6);
        told["metadata"]["annotations"] = json!({
            "balancer.dev/polcy": "random",
            "balancer.dev/weight": "0",
            "balancer.dev/keepalive": "{idle: 10s}",
            "balancer.dev/policy": "random",
            "balancer.dev/drain-timeout": "5m",
            "external-dns.alpha.kubernetes.io/hostname": "told.example.com, *.example.com",
        });
        server.apply(SERVICES, told);
    })
    .await;
    cluster.await_services(|it| it.count() == 3).await;
    let names = cluster.frontends("shop/told:grpc");
    assert_eq!(names, ["10.96.0.6:80", "told.example.com:80"]);
    assert!(cluster.all(|it| {
        it.drain_timeout_s.is_none_or(|timeout| {
            timeout.get() == 300
                && it.policy.name() == "random"
                && it.name.as_str() == "shop/told:grpc"
        })
    }));
    let health = cluster.health.wait_for(|health| health.events_written == 7).await;
    assert_eq!((health.problems_total, health.events_failed), (7, 0), "{:#?}", health.problems);
    let events = cluster.server.events();
    let notes: Vec<&str> = events.iter().filter_map(|event| event["note"].as_str()).collect();
    let told = |words: &str| notes.iter().any(|note| note.contains(words));
    assert!(told("did you mean `balancer.dev/policy`?"), "{notes:#?}");
    assert!(told("a weight of 0 is out of range") && told("the key `interval` is missing"));
    let event = events.iter().find(|event| event["regarding"]["name"] == "told").unwrap();
    assert_eq!(event["regarding"]["uid"], "uid-told");
    assert_eq!(event["metadata"]["namespace"], "shop");
}
