//! Many sets at once, sets that come and go, and settings that change.

use crate::{
    log::Log,
    server::{DnsServer, PATIENCE},
    source::{HOUR, Source, host, present, settings},
};
use balancer_agent::{
    config::DnsSettings,
    core::model::Lookup,
    sources::dns::{DnsSource, IN_FLIGHT_MAX},
};
use hickory_server::proto::rr::RecordType;
use std::collections::BTreeSet;
use tokio::time::timeout;

#[tokio::test]
async fn many_sets_are_asked_for_within_the_bound() {
    let server = DnsServer::start_held(IN_FLIGHT_MAX).await;
    let mut lookups = BTreeSet::new();
    for index in 0..500 {
        let name = format!("n{index}.test");
        server.say_host(&name, 3_600, &["10.0.0.1"]);
        lookups.insert(host(&name, 80));
    }
    let all: Vec<Lookup> = lookups.iter().cloned().collect();
    let settings = DnsSettings { ttl_max: HOUR, timeout: HOUR, ..settings(&[&server]) };
    let mut source = Source::start(settings, &all);
    while !lookups.is_empty() {
        let (lookup, members) = source.next().await;
        assert_eq!(members.len(), 1, "{lookup}");
        assert!(lookups.remove(&lookup), "{lookup} is told once");
    }
    assert_eq!(server.seen().in_flight_max, IN_FLIGHT_MAX);
    assert_eq!(source.health.snapshot().len(), 500);
    source.stop().await;
}

#[tokio::test]
async fn a_set_that_is_not_wanted_any_more_is_not_asked_for() {
    let server = DnsServer::start().await;
    let (gone, kept) = (host("gone.test", 80), host("kept.test", 80));
    server.say_host("gone.test", 0, &["10.0.0.1"]);
    server.say_host("kept.test", 0, &["10.0.0.2"]);
    let mut source = Source::start(settings(&[&server]), &[gone.clone(), kept.clone()]);
    source.next().await;
    source.next().await;
    source.want(|wanted| wanted.lookups = BTreeSet::from([kept.clone()]));
    // A query that was on its way may still arrive.
    server.asked("kept.test", RecordType::A, 2).await;
    assert!(source.health.of(&gone).is_none());
    let before = server.count("gone.test", RecordType::A);
    server.asked("kept.test", RecordType::A, 10).await;
    assert_eq!(server.count("gone.test", RecordType::A), before);
    source.assert_quiet();
    source.want(|wanted| {
        wanted.lookups.insert(gone.clone());
    });
    source.until(&present(&["10.0.0.1:80"])).await;
    source.stop().await;
}

#[tokio::test]
async fn what_is_beyond_the_bound_is_named_and_the_others_stay() {
    let log = Log::start();
    let server = DnsServer::start().await;
    // The new ones come before those that are followed already, by name.
    let [a, b, y, z] = ["a.test", "b.test", "y.test", "z.test"].map(|name| {
        server.say_host(name, 0, &["10.0.0.1"]);
        host(name, 80)
    });
    let bounded = DnsSource::default().with_lookups_max(2);
    let mut source = Source::run(bounded, settings(&[&server]), &[y.clone(), z.clone()]);
    let followed = BTreeSet::from([source.next().await.0, source.next().await.0]);
    assert_eq!(followed, BTreeSet::from([y.clone(), z.clone()]));
    assert_eq!((source.health.counts().left_out, source.health.problem()), (0, None));

    source.want(|wanted| wanted.lookups.extend([a.clone(), b.clone()]));
    let left_out = async |source: &Source, count: usize| {
        let counted = source.health.wait_for_counts(|counts| counts.left_out == count);
        timeout(PATIENCE, counted).await.unwrap();
    };
    left_out(&source, 2).await;
    let problem = source.health.problem().unwrap();
    assert!(
        problem.starts_with("2 DNS names, `a.test:80` the first of them, are not"),
        "{problem}"
    );
    assert!(problem.contains("more than 2 are wanted; hint: "), "{problem}");
    assert!(source.health.of(&a).is_none());
    server.asked("z.test", RecordType::A, server.count("z.test", RecordType::A) + 2).await;
    assert_eq!(server.count("a.test", RecordType::A), 0);
    source.assert_quiet();

    // A place that becomes free is taken.
    source.want(|wanted| wanted.lookups = [&a, &b, &z].map(Clone::clone).into());
    assert_eq!(source.next().await.0, a);
    left_out(&source, 1).await;
    assert_eq!(log.lines("are not resolved").len(), 1, "it is said once");
    source.want(|wanted| wanted.lookups = [&a, &b].map(Clone::clone).into());
    assert_eq!(source.next().await.0, b);
    left_out(&source, 0).await;
    assert_eq!(source.health.problem(), None);
    assert_eq!(log.lines("no DNS name is left out any more").len(), 1);
    source.stop().await;
}

#[tokio::test]
async fn new_settings_count_at_once_and_members_stay() {
    let (old, new) = (DnsServer::start().await, DnsServer::start().await);
    old.say_host("shop.test", 3_600, &["10.0.0.1"]);
    new.say_host("shop.test", 3_600, &["10.0.0.1", "10.0.0.2"]);
    let slow = |server| DnsSettings { ttl_min: HOUR, ttl_max: HOUR, ..settings(&[server]) };
    let mut source = Source::start(slow(&old), &[host("shop.test", 80)]);
    source.until(&present(&["10.0.0.1:80"])).await;
    source.want(|wanted| wanted.settings = slow(&new));
    let before = source.until(&present(&["10.0.0.1:80", "10.0.0.2:80"])).await;
    assert!(before.is_empty(), "{before:?}");
    source.stop().await;
}
