//! SRV records (RFC 2782): ports, weights, priorities, targets.

use crate::{
    server::{DnsServer, Reply, address, srv},
    source::{HOUR, Source, both, present, service, settings},
};
use balancer_agent::{config::DnsSettings, core::model::Member, sources::dns::Standing};
use hickory_server::proto::{op::ResponseCode, rr::RecordType};

const NAME: &str = "_grpc._tcp.shop.test";

fn weights(members: &[Member]) -> Vec<(String, u32)> {
    members.iter().map(|member| (member.address.to_string(), member.weight)).collect()
}

#[tokio::test]
async fn ports_weights_and_the_lowest_priority_value_count() {
    let server = DnsServer::start().await;
    let answers = vec![
        srv(NAME, 0, (10, 30, 8_080), "a.test"),
        srv(NAME, 0, (10, 0, 8_081), "b.test"),
        srv(NAME, 0, (20, 50, 8_082), "spare.test"),
    ];
    server.say(NAME, RecordType::SRV, Reply::services(answers, Vec::new()));
    server.say_host("a.test", 0, &["10.0.0.1", "fd00::1"]);
    server.say_host("b.test", 0, &["10.0.0.2"]);
    server.say_host("spare.test", 0, &["10.0.0.3"]);
    let mut source = Source::start(settings(&[&server]), &[service(NAME)]);
    let (_, members) = source.next().await;
    let expected = [("10.0.0.1:8080", 30), ("10.0.0.2:8081", 1), ("[fd00::1]:8080", 30)];
    assert_eq!(weights(&members), expected.map(|(address, weight)| (address.to_owned(), weight)));
    assert_eq!(server.count("spare.test", RecordType::A), 0, "a spare is not looked up");
    let answers = vec![srv(NAME, 0, (20, 50, 8_082), "spare.test")];
    server.say(NAME, RecordType::SRV, Reply::services(answers, Vec::new()));
    let (_, members) = source.next().await;
    assert!(weights(&members).contains(&("10.0.0.3:8082".to_owned(), 50)), "{members:?}");
    source.stop().await;
}

#[tokio::test]
async fn addresses_that_come_along_are_not_asked_for() {
    let server = DnsServer::start().await;
    let answers = vec![srv(NAME, 0, (0, 1, 80), "a.test"), srv(NAME, 0, (0, 1, 80), "b.test")];
    let additionals = vec![address("a.test", 0, "10.0.0.1")];
    server.say(NAME, RecordType::SRV, Reply::services(answers, additionals));
    server.say_host("a.test", 0, &["10.0.0.9"]);
    server.say_host("b.test", 0, &["10.0.0.2"]);
    let mut source = Source::start(settings(&[&server]), &[service(NAME)]);
    source.until(&present(&["10.0.0.1:80", "10.0.0.2:80"])).await;
    assert_eq!(server.count("a.test", RecordType::A), 0);
    assert_eq!(server.count("a.test", RecordType::AAAA), 0);
    assert!(server.count("b.test", RecordType::A) >= 1);
    assert!(server.count("b.test", RecordType::AAAA) >= 1);
    source.stop().await;
}

#[tokio::test]
async fn the_smallest_ttl_of_services_and_addresses_counts() {
    let server = DnsServer::start().await;
    let lookup = service(NAME);
    let answers = vec![srv(NAME, 7_000, (0, 1, 80), "a.test")];
    server.say(NAME, RecordType::SRV, Reply::services(answers, Vec::new()));
    server.say_host("a.test", 600, &["10.0.0.1"]);
    let settings = DnsSettings { ttl_max: HOUR * 2, ..settings(&[&server]) };
    let mut source = Source::start(settings, std::slice::from_ref(&lookup));
    source.until(&present(&["10.0.0.1:80"])).await;
    let pause = source.health_of(&lookup).next_try_ms;
    assert!((300_000..=600_000).contains(&pause), "{pause} ms");
    source.stop().await;
}

#[tokio::test]
async fn a_target_of_the_root_says_that_there_is_no_service() {
    let server = DnsServer::start().await;
    let lookup = service(NAME);
    let answers = vec![srv(NAME, 0, (0, 1, 80), "a.test")];
    server.say(NAME, RecordType::SRV, Reply::services(answers, Vec::new()));
    server.say_host("a.test", 0, &["10.0.0.1"]);
    let mut source = Source::start(settings(&[&server]), std::slice::from_ref(&lookup));
    source.until(&present(&["10.0.0.1:80"])).await;
    let answers = vec![srv(NAME, 0, (0, 0, 0), ".")];
    server.say(NAME, RecordType::SRV, Reply::services(answers, Vec::new()));
    source.until(&both(&[], &["10.0.0.1:80"])).await;
    assert_eq!(source.health_of(&lookup).standing, Standing::Works);
    source.stop().await;
}

#[tokio::test]
async fn a_target_that_fails_keeps_its_addresses() {
    let server = DnsServer::start().await;
    let answers = vec![srv(NAME, 0, (0, 1, 80), "a.test"), srv(NAME, 0, (0, 1, 80), "b.test")];
    server.say(NAME, RecordType::SRV, Reply::services(answers, Vec::new()));
    server.say_host("a.test", 0, &["10.0.0.1"]);
    server.say_host("b.test", 0, &["10.0.0.2"]);
    let lookup = service(NAME);
    let mut source = Source::start(settings(&[&server]), std::slice::from_ref(&lookup));
    source.until(&present(&["10.0.0.1:80", "10.0.0.2:80"])).await;
    server.say("b.test", RecordType::A, Reply::Code(ResponseCode::ServFail));
    server.asked("b.test", RecordType::A, 10).await;
    source.assert_quiet();
    assert_eq!(source.health_of(&lookup).standing, Standing::Partial);
    server.say(NAME, RecordType::SRV, Reply::Code(ResponseCode::ServFail));
    server.asked(NAME, RecordType::SRV, 10).await;
    source.assert_quiet();
    assert_eq!(source.health_of(&lookup).standing, Standing::Fails);
    source.stop().await;
}

#[tokio::test]
async fn port_zero_is_dropped_and_counted() {
    let server = DnsServer::start().await;
    let lookup = service(NAME);
    let answers =
        vec![srv(NAME, 3_600, (0, 1, 0), "a.test"), srv(NAME, 3_600, (0, 1, 80), "a.test")];
    let additionals = vec![address("a.test", 3_600, "10.0.0.1")];
    server.say(NAME, RecordType::SRV, Reply::services(answers, additionals));
    let settings = DnsSettings { ttl_max: HOUR, ..settings(&[&server]) };
    let mut source = Source::start(settings, std::slice::from_ref(&lookup));
    source.until(&present(&["10.0.0.1:80"])).await;
    assert_eq!(source.health_of(&lookup).addresses_refused, 1);
    source.stop().await;
}
