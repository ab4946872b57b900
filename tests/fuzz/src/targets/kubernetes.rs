//! Objects of the Kubernetes API, as watches bring them.

use super::check_message;
use balancer_agent::{
    core::{
        discovery::{Discovery, Fault, Malformed, Message, ObjectKey, Rules, ServiceKind},
        event::Event,
        model::Behaviour,
    },
    sources::{
        kubernetes::reading::{service_of_json, slice_of_json},
        pods::object,
    },
};
use std::{net::IpAddr, time::Duration};

/// Keys and values of objects.
pub const WORDS: &[&str] = &[
    "S{\"metadata\":{\"name\":\"a\",\"namespace\":\"b\"},",
    "E{\"metadata\":{\"name\":\"a-1\",\"namespace\":\"b\",",
    "\"labels\":{\"kubernetes.io/service-name\":\"a\"}",
    "\"annotations\":{\"balancer.dev/balance\":\"true\"}",
    "\"balancer.dev/policy\":\"maglev\"",
    "\"balancer.dev/keepalive\":\"1s,1s,3\"",
    "\"addressType\":\"IPv4\"",
    "\"addressType\":\"IPv6\"",
    "\"endpoints\":[{\"addresses\":[\"10.1.0.1\"]}]",
    "\"conditions\":{\"ready\":false}",
    "\"terminating\":true",
    "\"ports\":[{\"name\":\"grpc\",\"port\":80}]",
    "\"spec\":{",
    "\"clusterIP\":\"None\"",
    "\"clusterIPs\":[\"10.96.0.1\"]",
    "\"resourceVersion\":\"7\"",
    "\"uid\":\"7d4b9ac4-7c4a-4a9c-8d4a-1f7b0c6e0a51\"",
    "\"targetRef\":{\"kind\":\"Pod\",\"uid\":\"",
    "null",
    "127.0.0.1",
    "fe80::1",
    "::ffff:10.0.0.1",
    "-1",
    "70000",
    "\"external-dns.kubernetes.io/hostname\":\"a.example,b\"",
    "\n",
    "}",
    "]",
    ",",
    "\"\\u001b[2J\"",
    "\"\\ud800\"",
];

/// Longest text of a message about one object: a few excerpts of 253 characters, each escaped at worst.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// A line is an object: its first letter tells the kind (`S` a Service, `E` an EndpointSlice), and the case whether it is
/// new or deleted.
pub fn history(bytes: &[u8]) {
    let mut discovery = Discovery::new(Rules {
        node_name: "node".into(),
        departed_grace: Duration::from_mins(1),
        watch_pods: true,
        defaults: Behaviour::default(),
    });
    discovery.services(Message::ListBegins);
    discovery.services(Message::ListEnds);
    discovery.slices(Message::ListBegins);
    discovery.slices(Message::ListEnds);
    discovery.node(None);
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let Some((kind, json)) = line.split_first() else { continue };
        match kind {
            b'S' | b's' => take_service(&mut discovery, kind.is_ascii_lowercase(), json),
            b'E' | b'e' => take_slice(&mut discovery, kind.is_ascii_lowercase(), json),
            _ => continue,
        }
        let now = Duration::from_secs(at as u64);
        discovery.settle(now).iter().for_each(check_event);
        assert_eq!(discovery.settle(now), [], "told twice");
        for problem in discovery.take_news() {
            check_text(&problem.to_string());
        }
    }
}

fn take_service(discovery: &mut Discovery, is_gone: bool, json: &[u8]) {
    let Ok(observed) = service_of_json(json) else { return };
    match &observed.object {
        Ok(service) => {
            check_key(&service.key);
            check_faults(&service.faults);
            if let ServiceKind::Cluster(addresses) = &service.kind {
                addresses.iter().for_each(check_address);
            }
            assert!(service.ports.iter().all(|port| port.number > 0));
            service.hosts.iter().for_each(|host| check_text(host));
        }
        Err(malformed) => check_malformed(malformed),
    }
    let version = observed.version;
    discovery.services(match (is_gone, &observed.object) {
        (true, Ok(service)) => Message::Deleted(service.key.clone(), version),
        (true, Err(malformed)) => Message::Deleted(malformed.key.clone(), version),
        (false, _) => Message::Applied(observed),
    });
}

fn take_slice(discovery: &mut Discovery, is_gone: bool, json: &[u8]) {
    let Ok(Some(observed)) = slice_of_json(json) else { return };
    match &observed.object {
        Ok(slice) => {
            check_key(&slice.key);
            check_faults(&slice.faults);
            assert!(slice.ports.iter().all(|port| port.number > 0));
            for endpoint in &slice.endpoints {
                check_address(&endpoint.address);
                assert_eq!(endpoint.address.is_ipv6(), slice.v6);
            }
        }
        Err(malformed) => check_malformed(malformed),
    }
    let version = observed.version;
    discovery.slices(match (is_gone, &observed.object) {
        (true, Ok(slice)) => Message::Deleted(slice.key.clone(), version),
        (true, Err(malformed)) => Message::Deleted(malformed.key.clone(), version),
        (false, _) => Message::Applied(observed),
    });
}

fn check_event(event: &Event) {
    let services = match event {
        Event::Snapshot { services, .. } => services.as_slice(),
        Event::ServiceChanged { service, .. } => std::slice::from_ref(service),
        _ => return,
    };
    for service in services {
        check_text(service.name.as_str());
    }
}

fn check_malformed(malformed: &Malformed) {
    check_faults(std::slice::from_ref(&malformed.fault));
    let printed = malformed.key.to_string();
    assert!(!printed.chars().any(char::is_control), "{printed:?}");
}

fn check_faults(faults: &[Fault]) {
    for fault in faults {
        for text in [&fault.field, &fault.cause, &fault.fix] {
            check_text(text);
        }
    }
}

fn check_text(text: &str) {
    check_message(text);
    assert!(text.len() <= TEXT_BYTES_MAX, "{} bytes of text", text.len());
}

fn check_key(key: &ObjectKey) {
    assert!(!key.namespace.is_empty() && !key.name.is_empty());
    check_text(&key.to_string());
}

fn check_address(address: &IpAddr) {
    let is_none = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    assert!(!is_none, "{address} cannot be dialled from elsewhere");
}

/// A Pod.
pub fn pod(bytes: &[u8]) {
    let Ok(pod) = serde_json::from_slice(bytes) else { return };
    match object::pod(&pod) {
        Ok(read) => {
            check_text(&read.kept.name);
            check_text(&read.kept.namespace);
            read.fault.iter().for_each(|fault| check_text(fault));
        }
        Err(error) => check_text(&error),
    }
}
