//! A and AAAA records: how sets follow what servers say.

use crate::{
    log::Log,
    server::{DnsServer, Reply, address, alias},
    source::{HOUR, Source, both, host, present, settings},
};
use balancer_agent::{config::DnsSettings, core::resolution::MEMBERS_MAX, sources::dns::Standing};
use hickory_server::proto::rr::RecordType;
use std::time::Duration;

const NAME: &str = "shop.test";

#[tokio::test]
async fn an_expired_ttl_leads_to_a_query_and_to_new_members() {
    let server = DnsServer::start().await;
    server.say_host(NAME, 0, &["10.0.0.1", "fd00::1"]);
    let mut source = Source::start(settings(&[&server]), &[host(NAME, 80)]);
    source.until(&present(&["10.0.0.1:80", "[fd00::1]:80"])).await;
    server.say_host(NAME, 0, &["10.0.0.1", "10.0.0.2", "fd00::1"]);
    let before = source.until(&present(&["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"])).await;
    assert!(before.is_empty(), "{before:?}");
    assert!(server.count(NAME, RecordType::A) >= 2);
    assert!(server.count(NAME, RecordType::AAAA) >= 2);
    source.stop().await;
}

#[tokio::test]
async fn ttls_are_bounded_both_ways() {
    let server = DnsServer::start().await;
    let lookup = host(NAME, 80);
    // With a TTL of an hour, only the upper bound can make the second query come.
    server.say_host(NAME, 3_600, &["10.0.0.1"]);
    let mut source = Source::start(settings(&[&server]), std::slice::from_ref(&lookup));
    source.until(&present(&["10.0.0.1:80"])).await;
    server.asked(NAME, RecordType::A, 1).await;
    source.stop().await;
    // Bounds, TTL in seconds, least and most pause in ms that must then lie ahead.
    for (bounds_s, ttl, least, most) in
        [((3_600, 7_200), 0, 3_000_000, 3_600_000), ((1, 7_200), 1_800, 1_200_000, 1_800_000)]
    {
        server.say_host(NAME, ttl, &["10.0.0.1"]);
        let settings = DnsSettings {
            ttl_min: Duration::from_secs(bounds_s.0),
            ttl_max: Duration::from_secs(bounds_s.1),
            ..settings(&[&server])
        };
        let mut source = Source::start(settings, std::slice::from_ref(&lookup));
        source.next().await;
        let pause = source.health_of(&lookup).next_try_ms;
        assert!((least..=most).contains(&pause), "TTL {ttl}: {pause} ms");
        source.stop().await;
    }
}

#[tokio::test]
async fn an_address_that_leaves_departs_and_then_vanishes() {
    let server = DnsServer::start().await;
    server.say_host(NAME, 0, &["10.0.0.1", "10.0.0.2"]);
    let settings = DnsSettings { grace: Duration::from_millis(300), ..settings(&[&server]) };
    let mut source = Source::start(settings, &[host(NAME, 80)]);
    source.until(&present(&["10.0.0.1:80", "10.0.0.2:80"])).await;
    server.say_host(NAME, 0, &["10.0.0.2"]);
    let before = source.until(&both(&["10.0.0.2:80"], &["10.0.0.1:80"])).await;
    assert!(before.is_empty(), "{before:?}");
    let before = source.until(&present(&["10.0.0.2:80"])).await;
    assert!(before.is_empty(), "{before:?}");
    source.stop().await;
}

#[tokio::test]
async fn a_departed_address_that_returns_is_present_at_once() {
    let server = DnsServer::start().await;
    server.say_host(NAME, 0, &["10.0.0.1", "10.0.0.2"]);
    let mut source = Source::start(settings(&[&server]), &[host(NAME, 80)]);
    source.until(&present(&["10.0.0.1:80", "10.0.0.2:80"])).await;
    server.say_host(NAME, 0, &["10.0.0.2"]);
    source.until(&both(&["10.0.0.2:80"], &["10.0.0.1:80"])).await;
    server.say_host(NAME, 0, &["10.0.0.1", "10.0.0.2"]);
    let before = source.until(&present(&["10.0.0.1:80", "10.0.0.2:80"])).await;
    assert!(before.is_empty(), "{before:?}");
    source.stop().await;
}

#[tokio::test]
async fn one_nxdomain_removes_nothing_and_many_do() {
    let server = DnsServer::start().await;
    let lookup = host(NAME, 80);
    let good = Reply::addresses(0, &["10.0.0.1"]);
    let turns = vec![good, Reply::nxdomain()];
    server.say(NAME, RecordType::A, Reply::Turns(turns));
    let settings = DnsSettings { removal_delay: HOUR, ..settings(&[&server]) };
    let mut source = Source::start(settings, std::slice::from_ref(&lookup));
    source.until(&present(&["10.0.0.1:80"])).await;
    server.asked(NAME, RecordType::A, 10).await;
    source.assert_quiet();
    server.say(NAME, RecordType::A, Reply::nxdomain());
    source.want(|wanted| wanted.settings.removal_delay = Duration::from_millis(200));
    let before = source.until(&both(&[], &["10.0.0.1:80"])).await;
    assert!(before.is_empty(), "{before:?}");
    assert_eq!(source.health_of(&lookup).standing, Standing::Works, "NXDOMAIN is an answer");
    source.stop().await;
}

#[tokio::test]
async fn a_name_that_never_existed_becomes_an_empty_set() {
    let server = DnsServer::start().await;
    let mut source = Source::start(settings(&[&server]), &[host(NAME, 80)]);
    assert_eq!(source.next().await, (host(NAME, 80), vec![]));
    assert!(server.count(NAME, RecordType::A) >= 2, "one answer is not enough");
    source.stop().await;
}

#[tokio::test]
async fn answers_that_flap_become_their_union() {
    let server = DnsServer::start().await;
    let turns = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| Reply::addresses(0, &[ip]));
    server.say(NAME, RecordType::A, Reply::Turns(turns.to_vec()));
    let settings = DnsSettings { removal_delay: HOUR, ..settings(&[&server]) };
    let mut source = Source::start(settings, &[host(NAME, 80)]);
    let before = source.until(&present(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"])).await;
    assert_eq!(before.len(), 2, "the set only grows: {before:?}");
    server.asked(NAME, RecordType::A, 10).await;
    source.assert_quiet();
    source.stop().await;
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let server = DnsServer::start().await;
    let ips: Vec<String> = (1..=200).map(|host| format!("10.0.0.{host}")).collect();
    server.say_host(NAME, 0, &ips.iter().map(String::as_str).collect::<Vec<_>>());
    let mut source = Source::start(settings(&[&server]), &[host(NAME, 80)]);
    let (_, members) = source.next().await;
    assert_eq!(members.len(), 200);
    assert!(server.seen().over_tcp >= 1);
    source.stop().await;
}

#[tokio::test]
async fn an_oversized_answer_is_cut_and_the_rest_counted() {
    let server = DnsServer::start().await;
    let lookup = host(NAME, 80);
    let ips: Vec<String> =
        (0..1_200).map(|host| format!("10.0.{}.{}", host / 200, host % 200)).collect();
    server.say_host(NAME, 3_600, &ips.iter().map(String::as_str).collect::<Vec<_>>());
    let settings = DnsSettings { ttl_max: HOUR, ..settings(&[&server]) };
    let mut source = Source::start(settings, std::slice::from_ref(&lookup));
    let (_, members) = source.next().await;
    assert_eq!((members.len(), source.health_of(&lookup).excess), (MEMBERS_MAX, 200));
    source.stop().await;
}

#[tokio::test]
async fn aliases_are_followed_and_their_ttl_counts() {
    let server = DnsServer::start().await;
    let answers = vec![alias(NAME, 600, "real.test"), address("real.test", 7_000, "10.0.0.1")];
    server.say(NAME, RecordType::A, Reply::Records { answers, additionals: Vec::new() });
    let settings = DnsSettings { ttl_max: HOUR * 2, ..settings(&[&server]) };
    let lookup = host(NAME, 80);
    let mut source = Source::start(settings, std::slice::from_ref(&lookup));
    source.until(&present(&["10.0.0.1:80"])).await;
    let pause = source.health_of(&lookup).next_try_ms;
    assert!((300_000..=600_000).contains(&pause), "{pause} ms");
    source.stop().await;
}

#[tokio::test]
async fn addresses_that_nobody_can_dial_are_dropped_and_counted() {
    let server = DnsServer::start().await;
    let lookup = host(NAME, 80);
    let log = Log::start();
    server.say_host(
        NAME,
        0,
        &["0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.0.1", "::", "ff02::1", "fd00::1"],
    );
    let mut source = Source::start(settings(&[&server]), std::slice::from_ref(&lookup));
    source.until(&present(&["10.0.0.1:80", "[fd00::1]:80"])).await;
    server.asked(NAME, RecordType::A, 3).await;
    assert!(source.health_of(&lookup).addresses_refused >= 10, "counted in each answer");
    let lines = log.lines("dropped an address");
    assert_eq!(lines.len(), 5, "logged once: {lines:#?}");
    assert!(lines.iter().all(|line| line.contains("shop.test:80")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("224.0.0.1")), "{lines:#?}");
    source.stop().await;
}
