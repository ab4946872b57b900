//! Servers from the system's resolv.conf: missing, empty, there, changed.

use crate::{
    log::Log,
    server::DnsServer,
    source::{Source, host, present, settings},
};
use balancer_agent::sources::dns::{DnsSource, FailureKind};
use hickory_server::proto::rr::RecordType;
use std::{fs, io::ErrorKind, net::Ipv4Addr, path::Path};

const NAME: &str = "shop.test";

/// A server on port 53, which resolv.conf implies, of a loopback address that is likely free.
async fn start_on_port_53() -> Option<DnsServer> {
    let [high, low, ..] = std::process::id().to_le_bytes();
    for third in 1..=20_u8 {
        let ip = Ipv4Addr::new(127, 100_u8.wrapping_add(third), high, low.clamp(1, 254));
        match DnsServer::bind((ip, 53).into(), 0).await {
            Ok(server) => return Some(server),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return None,
            Err(_) => {}
        }
    }
    panic!("port 53 is taken on twenty loopback addresses");
}

async fn assert_fails(path: &Path, cause: &str) {
    let lookup = host(NAME, 80);
    let mut source =
        Source::run(DnsSource::new(path), settings(&[]), std::slice::from_ref(&lookup));
    let health = source.failed(&lookup, FailureKind::Servers).await;
    let error = health.last_error.expect("the failure has a text");
    for part in [path.to_str().unwrap(), cause, "hint:", "dns.servers"] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    source.assert_quiet();
    source.stop().await;
}

#[tokio::test]
async fn a_missing_or_empty_file_is_named_with_cause_and_fix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    assert_fails(&path, "No such file").await;
    fs::write(&path, "search test\n").unwrap();
    assert_fails(&path, "no nameservers").await;
}

#[tokio::test]
async fn servers_are_taken_from_the_file_once_it_is_there() {
    let Some(server) = start_on_port_53().await else {
        println!("skipped: no permission to bind port 53, which resolv.conf implies");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    server.say_host(NAME, 0, &["10.0.0.1"]);
    let log = Log::start();
    let lookup = host(NAME, 80);
    let mut source =
        Source::run(DnsSource::new(&path), settings(&[]), std::slice::from_ref(&lookup));
    source.failed(&lookup, FailureKind::Servers).await;
    assert_eq!(log.lines("read the DNS servers").len(), 1, "one cause, one line");
    // The search domain has no say: the name is absolute.
    let text = format!("search wrong.test\noptions ndots:5\nnameserver {}\n", server.address.ip());
    fs::write(&path, text).unwrap();
    source.until(&present(&["10.0.0.1:80"])).await;
    fs::remove_file(&path).unwrap();
    server.asked(NAME, RecordType::A, 30).await;
    source.assert_quiet();
    source.stop().await;
}
