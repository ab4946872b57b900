//! What the API does on bad days: nothing that it forgets, repeats or garbles may lose a change or
//! take a service away.

use super::{
    cluster::{Cluster, service, slice, two_services},
    server::{NODES, SERVICES, SLICES, Verb, cut, event, status, status_object},
};
use serde_json::json;
use std::time::Duration;
use tokio::time::{interval, timeout};

const A: &str = "shop/a:grpc";
const B: &str = "shop/b:grpc";
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

async fn synced() -> Cluster {
    let mut cluster = Cluster::start(two_services).await;
    cluster.await_services(|it| it.count() == 2).await;
    cluster.server.await_asked(SLICES, Verb::Watch, 1).await;
    cluster.server.await_asked(SERVICES, Verb::Watch, 1).await;
    cluster
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let mut cluster = Cluster::start(|server| {
        for n in 0..250_u16 {
            let mut service = service(&format!("s{n}"), 1);
            service["spec"]["clusterIPs"] = json!([format!("10.97.{}.{}", n / 200, 1 + n % 200)]);
            server.apply(SERVICES, service);
        }
    })
    .await;
    cluster.await_services(|it| it.count() == 250).await;
    let asked = cluster.server.asked(SERVICES, Verb::List);
    assert_eq!(asked.len(), 2);
    assert_eq!((&*asked[0].query["limit"], &*asked[1].query["continue"]), ("200", "200"));
}

#[tokio::test]
async fn nothing_is_told_while_a_kind_cannot_be_listed() {
    let mut cluster = Cluster::start(|server| {
        two_services(server);
        server.fail(SERVICES, Verb::List, status(401, "Unauthorized"));
        server.fail(SERVICES, Verb::List, status(500, "InternalError"));
        server.fail(SLICES, Verb::List, cut());
        server.fail(NODES, Verb::List, status(403, "Forbidden"));
    })
    .await;
    // The first that is told is everything.
    cluster.await_services(|_| true).await;
    assert_eq!(cluster.count(), 2);
    assert_eq!(cluster.backends(A).len(), 2);
    let health = cluster.health.wait_for(|health| health.synced).await;
    assert_eq!(health.watches.iter().map(|watch| watch.errors).collect::<Vec<_>>(), [2, 1, 1]);
    assert!(health.watches[0].last_error.as_ref().unwrap().contains("scripted InternalError"));
    assert_eq!(health.staleness_ms, 0);
}

#[tokio::test]
async fn a_cut_watch_goes_on_where_it_was() {
    let mut cluster = synced().await;
    cluster.server.cut(SLICES);
    cluster.server.apply(SLICES, slice("a", "a-2", &[5]));
    cluster.await_services(|it| it.backends(A).len() == 3).await;
    cluster.server.end(SLICES);
    cluster.server.apply(SLICES, slice("a", "a-2", &[5, 6]));
    cluster.await_services(|it| it.backends(A).len() == 4).await;
    assert_eq!(cluster.server.asked(SLICES, Verb::List).len(), 1, "no list was needed");
}

#[tokio::test]
async fn a_version_that_is_gone_is_found_by_a_new_list() {
    for in_stream in [true, false] {
        let mut cluster = synced().await;
        // What happens while nobody watches, deletions above all, is in no stream.
        if !in_stream {
            cluster.server.fail(SLICES, Verb::Watch, status(410, "Expired"));
        }
        cluster.server.change_silently(SLICES, |objects| {
            objects.remove("shop/a-1");
            let mut changed = slice("b", "b-1", &[4]);
            changed["metadata"]["resourceVersion"] = json!("500");
            objects.insert("shop/b-1".into(), changed);
        });
        cluster.server.cut(SLICES);
        cluster.await_services(|it| it.backends(A).is_empty()).await;
        cluster.await_services(|it| it.backends(B) == ["10.1.0.4:50051"]).await;
        assert_eq!(cluster.server.asked(SLICES, Verb::List).len(), 2);
        assert_eq!(cluster.removed, [""; 0]);
    }
}

#[tokio::test]
async fn failures_of_the_api_change_nothing_and_are_overcome() {
    let mut cluster = synced().await;
    let refusals =
        [(401, "Unauthorized"), (403, "Forbidden"), (500, "InternalError"), (503, "Unavailable")];
    for (code, reason) in refusals {
        cluster.server.fail(SLICES, Verb::Watch, status(code, reason));
    }
    cluster.server.cut(SLICES);
    let stale = cluster.health.wait_for(|health| health.watches[1].errors >= 3).await;
    assert!(stale.watches[1].last_error.is_some());
    cluster.server.apply(SLICES, slice("a", "a-2", &[5]));
    cluster.await_services(|it| it.backends(A).len() == 3).await;
    assert_eq!(cluster.removed, [""; 0]);
    cluster.health.wait_for(|health| health.staleness_ms == 0).await;
}

/// kube's watcher tells of events only: that it watches again has to be heard from the answer.
#[tokio::test]
async fn a_watch_that_is_resumed_is_not_stale_though_nothing_happens() {
    let cluster = synced().await;
    cluster.server.fail(SLICES, Verb::Watch, status(500, "InternalError"));
    cluster.server.cut(SLICES);
    cluster.health.wait_for(|health| health.watches[1].errors > 0).await;
    assert!(cluster.health.snapshot().watches[1].staleness_ms > 0);
    let mut ticks = interval(Duration::from_millis(100));
    let fresh = async {
        while cluster.health.snapshot().staleness_ms > 0 {
            ticks.tick().await;
        }
    };
    timeout(PATIENCE, fresh).await.expect("the watch works again");
    assert_eq!(cluster.server.asked(SLICES, Verb::List).len(), 1);
}

#[tokio::test]
async fn repeated_and_reordered_events_change_nothing() {
    let mut cluster = synced().await;
    let mut old = slice("a", "a-1", &[9]);
    old["metadata"]["resourceVersion"] = json!("11");
    let mut gone = slice("a", "a-9", &[9]);
    let late = cluster.server.apply(SLICES, gone.clone());
    cluster.server.delete(SLICES, gone.clone());
    gone["metadata"]["resourceVersion"] = json!(late.to_string());
    for object in [&old, &gone, &old] {
        cluster.server.say(SLICES, &event("MODIFIED", object));
    }
    cluster.server.apply(SLICES, slice("b", "b-2", &[6]));
    cluster.await_services(|it| it.backends(B).len() == 3).await;
    assert_eq!(cluster.backends(A), ["10.1.0.1:50051", "10.1.0.2:50051"]);
    let health = cluster.health.wait_for(|health| health.counts.outdated == 3).await;
    assert_eq!(health.counts.slices, 3);
}

#[tokio::test]
async fn a_line_of_garbage_leads_to_a_new_list() {
    let mut cluster = synced().await;
    // The line may have been a deletion.
    cluster.server.change_silently(SLICES, |objects| {
        objects.remove("shop/a-1");
    });
    cluster.server.say(SLICES, "{\"type\": \"DELETED\", \"object\": 7}");
    cluster.await_services(|it| it.backends(A).is_empty()).await;
    cluster.server.change_silently(SLICES, |objects| {
        objects.remove("shop/b-1");
    });
    cluster.server.say(SLICES, &event("ERROR", &status_object(500, "InternalError")));
    cluster.await_services(|it| it.backends(B).is_empty()).await;
    assert_eq!(cluster.server.asked(SLICES, Verb::List).len(), 3);
}

#[tokio::test]
async fn a_bookmark_moves_the_version_on() {
    let mut cluster = synced().await;
    let bookmark = json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": "4000"},
    });
    cluster.server.say(SLICES, &event("BOOKMARK", &bookmark));
    cluster.server.end(SLICES);
    cluster.server.await_asked(SLICES, Verb::Watch, 2).await;
    assert_eq!(cluster.server.asked(SLICES, Verb::Watch)[1].query["resourceVersion"], "4000");
    cluster.server.apply(SLICES, slice("a", "a-2", &[5]));
    cluster.await_services(|it| it.backends(A).len() == 3).await;
}

#[tokio::test]
async fn an_empty_list_counts_only_when_it_is_complete() {
    let mut cluster = synced().await;
    // The next list is cut at its beginning, the one after it is empty.
    cluster.server.fail(SERVICES, Verb::List, cut());
    let mut kept = std::collections::BTreeMap::new();
    cluster.server.change_silently(SERVICES, |objects| kept = std::mem::take(objects));
    cluster.server.cut(SERVICES);
    cluster.await_services(|it| it.count() == 0).await;
    assert_eq!(cluster.removed, [A, B]);
    let health = cluster.health.snapshot();
    assert!(health.watches[0].errors >= 2, "the cut, the version that was gone, the cut list");
    // They return, as they were.
    cluster.server.change_silently(SERVICES, |objects| *objects = kept);
    cluster.server.cut(SERVICES);
    cluster.await_services(|it| it.count() == 2).await;
    assert_eq!(cluster.backends(A).len(), 2);
}

#[tokio::test]
async fn defaults_that_change_reach_every_service() {
    let mut cluster = synced().await;
    let timeout = std::num::NonZeroU32::new(20_000);
    cluster.defaults.send_modify(|defaults| defaults.user_timeout_ms = timeout);
    cluster.await_services(|it| it.all(|service| service.user_timeout_ms == timeout)).await;
}
