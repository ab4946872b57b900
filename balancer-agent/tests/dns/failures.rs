//! Servers that fail, refuse or stay silent: the last good members stay.

use crate::{
    log::Log,
    server::{DnsServer, Reply},
    source::{HOUR, Source, both, host, present, settings},
};
use balancer_agent::{
    config::DnsSettings,
    core::model::Lookup,
    sources::dns::{FailureKind, Standing},
};
use hickory_server::proto::{op::ResponseCode, rr::RecordType};
use std::time::Duration;

const NAME: &str = "shop.test";

fn say_code(server: &DnsServer, code: ResponseCode) {
    server.say(NAME, RecordType::A, Reply::Code(code));
    server.say(NAME, RecordType::AAAA, Reply::Code(code));
}

#[tokio::test]
async fn a_failing_server_changes_nothing_and_its_recovery_does() {
    for (code, kind) in [
        (ResponseCode::ServFail, FailureKind::Servfail),
        (ResponseCode::Refused, FailureKind::Refused),
        (ResponseCode::NotImp, FailureKind::Protocol),
    ] {
        let server = DnsServer::start().await;
        let lookup: Lookup = host(NAME, 80);
        server.say_host(NAME, 0, &["10.0.0.1"]);
        let mut source = Source::start(settings(&[&server]), std::slice::from_ref(&lookup));
        source.until(&present(&["10.0.0.1:80"])).await;
        say_code(&server, code);
        server.asked(NAME, RecordType::A, 10).await;
        source.assert_quiet();
        let health = source.health_of(&lookup);
        assert_eq!(health.standing, Standing::Fails, "{code}");
        assert!(health.failures[&kind] >= 8, "{code}: {:?}", health.failures);
        assert!(health.last_success_age_ms.is_some());
        let error = health.last_error.expect("the failure has a text");
        let server_text = server.address.to_string();
        assert!(error.contains(NAME) && error.contains(&server_text), "{error}");
        server.say_host(NAME, 0, &["10.0.0.2"]);
        source.until(&both(&["10.0.0.2:80"], &["10.0.0.1:80"])).await;
        assert_eq!(source.health_of(&lookup).standing, Standing::Works, "{code}");
        source.stop().await;
    }
}

#[tokio::test]
async fn serve_stale_has_a_limit() {
    let server = DnsServer::start().await;
    server.say_host(NAME, 0, &["10.0.0.1"]);
    let settings = DnsSettings {
        serve_stale: Duration::from_millis(300),
        grace: Duration::from_millis(300),
        ..settings(&[&server])
    };
    let mut source = Source::start(settings, &[host(NAME, 80)]);
    source.until(&present(&["10.0.0.1:80"])).await;
    say_code(&server, ResponseCode::ServFail);
    assert!(source.until(&both(&[], &["10.0.0.1:80"])).await.is_empty());
    assert!(source.until(&both(&[], &[])).await.is_empty());
    server.say_host(NAME, 0, &["10.0.0.1"]);
    assert!(source.until(&present(&["10.0.0.1:80"])).await.is_empty());
    source.stop().await;
}

#[tokio::test]
async fn a_family_that_fails_keeps_its_addresses_while_the_other_changes() {
    let server = DnsServer::start().await;
    let lookup = host(NAME, 80);
    server.say_host(NAME, 0, &["10.0.0.1", "fd00::1"]);
    let mut source = Source::start(settings(&[&server]), std::slice::from_ref(&lookup));
    source.until(&present(&["10.0.0.1:80", "[fd00::1]:80"])).await;
    server.say(NAME, RecordType::AAAA, Reply::Code(ResponseCode::ServFail));
    server.say(NAME, RecordType::A, Reply::addresses(0, &["10.0.0.2"]));
    source.until(&both(&["10.0.0.2:80", "[fd00::1]:80"], &["10.0.0.1:80"])).await;
    assert_eq!(source.health_of(&lookup).standing, Standing::Partial);
    source.stop().await;
}

#[tokio::test]
async fn a_family_that_never_answered_does_not_hold_up_the_other() {
    let server = DnsServer::start().await;
    server.say(NAME, RecordType::A, Reply::addresses(0, &["10.0.0.1"]));
    server.say(NAME, RecordType::AAAA, Reply::Code(ResponseCode::ServFail));
    let mut source = Source::start(settings(&[&server]), &[host(NAME, 80)]);
    assert!(source.until(&present(&["10.0.0.1:80"])).await.is_empty());
    server.say(NAME, RecordType::AAAA, Reply::addresses(0, &["fd00::1"]));
    let all = present(&["10.0.0.1:80", "[fd00::1]:80"]);
    assert!(source.until(&all).await.is_empty());
    source.stop().await;
}

#[tokio::test]
async fn the_next_server_answers_for_one_that_is_dead_or_broken() {
    for dead in
        [Reply::Silence, Reply::Code(ResponseCode::ServFail), Reply::Code(ResponseCode::Refused)]
    {
        let (first, second) = (DnsServer::start().await, DnsServer::start().await);
        first.say(NAME, RecordType::A, dead.clone());
        first.say(NAME, RecordType::AAAA, dead.clone());
        second.say_host(NAME, 0, &["10.0.0.1"]);
        let timeout = match dead {
            Reply::Silence => Duration::from_millis(200),
            _ => Duration::from_secs(10),
        };
        let settings = DnsSettings { timeout, attempts: 3, ..settings(&[&first, &second]) };
        let mut source = Source::start(settings, &[host(NAME, 80)]);
        assert!(source.until(&present(&["10.0.0.1:80"])).await.is_empty(), "{dead:?}");
        assert!(first.count(NAME, RecordType::A) >= 1, "{dead:?}");
        if !matches!(dead, Reply::Silence) {
            // The one that answered is asked first from now on.
            let before = first.count(NAME, RecordType::A);
            second.asked(NAME, RecordType::A, 3).await;
            assert_eq!(first.count(NAME, RecordType::A), before, "{dead:?}");
        }
        source.stop().await;
    }
}

#[tokio::test]
async fn silence_is_a_timeout_and_leaves_the_set_unknown() {
    let silent = DnsServer::start().await;
    silent.say(NAME, RecordType::A, Reply::Silence);
    silent.say(NAME, RecordType::AAAA, Reply::Silence);
    let lookup = host(NAME, 80);
    let settings = DnsSettings { timeout: Duration::from_millis(100), ..settings(&[&silent]) };
    let mut source = Source::start(settings, std::slice::from_ref(&lookup));
    let health = source.failed(&lookup, FailureKind::Timeout).await;
    assert_eq!(health.standing, Standing::Fails);
    assert!(!health.known, "a set that was never answered is unknown, not empty");
    source.assert_quiet();
    source.stop().await;
}

#[tokio::test]
async fn a_name_that_is_none_is_an_error_of_its_own() {
    let server = DnsServer::start().await;
    let name = format!("{}.test", "x".repeat(64));
    let (bad, good) = (host(&name, 80), host(NAME, 80));
    server.say_host(NAME, 0, &["10.0.0.1"]);
    let mut source = Source::start(settings(&[&server]), &[bad.clone(), good]);
    source.until(&present(&["10.0.0.1:80"])).await;
    let health = source.failed(&bad, FailureKind::Name).await;
    let error = health.last_error.expect("the failure has a text");
    assert!(error.contains(&name) && error.contains("hint:"), "{error}");
    source.stop().await;
}

#[tokio::test]
async fn failures_are_logged_once_per_turn() {
    let log = Log::start();
    let server = DnsServer::start().await;
    server.say_host(NAME, 0, &["10.0.0.1"]);
    let settings = DnsSettings { removal_delay: HOUR, ..settings(&[&server]) };
    let mut source = Source::start(settings, &[host(NAME, 80)]);
    source.until(&present(&["10.0.0.1:80"])).await;
    for ip in ["10.0.0.2", "10.0.0.3"] {
        say_code(&server, ResponseCode::ServFail);
        server.asked(NAME, RecordType::A, 5).await;
        server.say_host(NAME, 0, &[ip]);
        source.next().await;
    }
    source.stop().await;
    for (line, count) in [("DNS fails;", 2), ("DNS answers again", 2)] {
        let lines = log.lines(line);
        assert_eq!(lines.len(), count, "{lines:#?}");
        assert!(lines.iter().all(|line| line.contains(NAME)), "{lines:#?}");
    }
}
