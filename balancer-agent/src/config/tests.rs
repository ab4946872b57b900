//! Tests of the configuration as a whole: what is read, and what each mistake is answered with.

mod mistakes;
mod properties;

use super::*;
use crate::core::model::{
    BackendSource, Endpoint, EndpointState, FrontendSource, Keepalive, Lookup, Policy, ServiceName,
};
use std::{num::NonZeroU32, time::Duration};

fn parse(text: &str) -> Config {
    Config::parse(text, "balancer.yaml").unwrap_or_else(|error| panic!("{error}"))
}

fn some(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

fn host(name: &str, port: u16) -> Lookup {
    Lookup::Host { host: name.into(), port }
}

#[test]
fn what_is_left_out_has_its_default() {
    for text in ["version: 1", "version: 1\nservices: []\n", "{\"version\": 1}"] {
        assert_eq!(parse(text), Config::default(), "{text}");
    }
}

#[test]
fn the_agents_sections_are_read() {
    let config = parse(
        "version: 1
node: {rank: 7}
dns:
  servers: [127.0.0.1, '[::1]:5353', '::1']
  min-ttl: 500ms
  max-ttl: 1m 30s
  timeout: 1s
  attempts: 3
  serve-stale: 0s
  removal-delay: 0s
  grace: 1h
limits: {services: 2, backends: 3, frontends: 4, slots: 32, connections: 5, pod-services: 6}
log: {datapath-level: debug}
http: {listen: '[::]:9463', services-max: 10, backends-max: 0}
kubernetes: {enabled: true, node-name: node-7, kubeconfig: /etc/kubeconfig, departed-grace: 1m, gone-grace: off, watch-pods: false}
",
    );
    let expected = Config {
        node_rank: Some(7),
        dns: DnsSettings {
            servers: ["127.0.0.1:53", "[::1]:5353", "[::1]:53"]
                .map(|server| server.parse().unwrap())
                .to_vec(),
            ttl_min: Duration::from_millis(500),
            ttl_max: Duration::from_secs(90),
            timeout: Duration::from_secs(1),
            attempts: 3,
            serve_stale: Duration::ZERO,
            removal_delay: Duration::ZERO,
            grace: Duration::from_hours(1),
        },
        kubernetes: KubernetesSettings {
            enabled: true,
            node_name: Some("node-7".into()),
            kubeconfig: Some("/etc/kubeconfig".into()),
            departed_grace: Duration::from_mins(1),
            gone_grace: None,
            watch_pods: false,
        },
        limits: Limits {
            services: 2,
            backends: 3,
            frontends: 4,
            chunks: 2,
            flows: 5,
            pod_services: 6,
        },
        datapath_log_level: DatapathLevel::Debug,
        http: HttpSettings {
            listen: Some("[::]:9463".parse().unwrap()),
            services_max: 10,
            backends_max: 0,
        },
        defaults: Behaviour::default(),
        services: Vec::new(),
    };
    assert_eq!(config, expected);
}

fn payments() -> Service {
    Service {
        name: ServiceName::new("payments").unwrap(),
        frontends: [
            FrontendSource::Fixed("10.96.0.10:50051".parse().unwrap()),
            FrontendSource::Fixed("[fd00::1]:443".parse().unwrap()),
            FrontendSource::Resolved(host("payments.internal", 443)),
        ]
        .into(),
        backends: [
            BackendSource::Fixed(Endpoint {
                address: "10.1.0.1:50051".parse().unwrap(),
                weight: 1,
                state: EndpointState::Active,
            }),
            BackendSource::Fixed(Endpoint {
                address: "10.1.0.2:50051".parse().unwrap(),
                weight: 3,
                state: EndpointState::Draining,
            }),
            BackendSource::Resolved { lookup: host("pool.internal", 50051), weight: 2 },
            BackendSource::Resolved {
                lookup: Lookup::Srv { name: "_grpc._tcp.shop.internal".into() },
                weight: 1,
            },
        ]
        .into(),
        policy: Policy::Maglev,
        affinity_s: some(10_800),
        tracked: false,
        ejects: false,
        http2: false,
        move_patience_ms: None,
        drain_timeout_s: some(300),
        user_timeout_ms: some(20_000),
        keepalive: Some(Keepalive {
            idle_s: some(10).unwrap(),
            interval_s: some(5).unwrap(),
            probes: some(3).unwrap(),
        }),
    }
}

fn shop() -> Service {
    Service {
        name: ServiceName::new("shop").unwrap(),
        frontends: [FrontendSource::Resolved(host("shop.internal", 80))].into(),
        backends: [BackendSource::Resolved { lookup: host("shop.internal", 80), weight: 1 }].into(),
        policy: Policy::Random,
        affinity_s: None,
        tracked: true,
        ejects: true,
        http2: true,
        move_patience_ms: Some(0),
        user_timeout_ms: None,
        keepalive: None,
        drain_timeout_s: None,
    }
}

#[test]
fn services_are_read_with_their_defaults() {
    let config = parse(
        "version: 1
defaults: {policy: maglev, session-affinity: client, tcp-user-timeout: 20s,
  keepalive: {idle: 10s, interval: 5s, probes: 3}, drain-timeout: 5m, tracking: false,
  ejection: false, http2: false, move-patience: off}
services:
- name: payments
  frontends: ['10.96.0.10:50051', '[fd00::1]:443', {dns: Payments.Internal., port: 443}]
  backends:
  - 10.1.0.1:50051
  - {address: 10.1.0.2:50051, weight: 3, state: draining}
  - {dns: pool.internal, port: 50051, weight: 2}
  - {srv: _grpc._tcp.shop.internal}
- {name: shop, dns: {name: shop.internal, port: 80}, policy: random, session-affinity: off,
   tcp-user-timeout: off, keepalive: off, drain-timeout: off, tracking: true, ejection: true, http2: true,
   move-patience: 0s}
",
    );
    assert_eq!(config.services, [payments(), shop()]);
}

#[test]
fn anchors_are_followed() {
    let config = parse(
        "version: 1
services:
- {name: a, frontends: ['10.0.0.1:80'], backends: &pool ['10.1.0.1:80']}
- {name: b, frontends: ['10.0.0.2:80'], backends: *pool}
",
    );
    assert_eq!(config.services[0].backends, config.services[1].backends);
}

#[test]
fn a_frontend_may_be_a_backend_of_its_own_service() {
    let config = parse(
        "version: 1
services: [{name: a, frontends: ['10.0.0.1:80'], backends: ['10.0.0.1:80', '10.0.0.2:80']}]",
    );
    assert_eq!(config.services[0].backends.len(), 2);
}

#[test]
fn the_example_is_right_and_stands_at_the_defaults() {
    let config = parse(Config::example());
    assert_eq!(config.services.len(), 3);
    assert_eq!(Config { services: Vec::new(), ..config }, Config::default());
}

/// Paths of the keys in a document, as [`keys`] spells them.
fn written_keys(node: &Node<'_>, path: &str, into: &mut std::collections::BTreeSet<String>) {
    match &node.value {
        Value::Map(entries) => {
            for (key, value) in entries {
                let separator = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{separator}{}", key.text().unwrap());
                written_keys(value, &path, into);
                into.insert(path);
            }
        }
        Value::List(items) => {
            for item in items {
                written_keys(item, &format!("{path}[]"), into);
            }
        }
        _ => {}
    }
}

#[test]
fn every_key_stands_in_the_example_and_in_the_documentation() {
    let mut example = std::collections::BTreeSet::new();
    written_keys(&tree::read(Config::example()).unwrap(), "", &mut example);
    let reference = include_str!("../../../docs/configuration.md");
    for key in keys() {
        // `off` by default and shown at a service; and what has no default to stand at.
        let without_default = ["kubernetes.node-name", "kubernetes.kubeconfig"];
        if !key.starts_with("defaults.keepalive.") && !without_default.contains(&&*key) {
            assert!(example.contains(&key), "{key} is missing in config.example.yaml");
        }
        assert!(
            reference.contains(&format!("\n| `{key}` |")),
            "{key} is missing in configuration.md"
        );
    }
    let known: std::collections::BTreeSet<String> = keys().collect();
    let documented =
        reference.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    for key in documented {
        assert!(known.contains(key), "{key} in configuration.md is no key");
    }
}

#[test]
fn the_documented_defaults_are_the_built_in_ones() {
    let reference = include_str!("../../../docs/configuration.md");
    let dns = DnsSettings::default();
    let limits = section::default_limits();
    let show = |duration: Duration| humantime::format_duration(duration).to_string();
    for (key, default) in [
        ("dns.min-ttl", show(dns.ttl_min)),
        ("dns.max-ttl", show(dns.ttl_max)),
        ("dns.timeout", show(dns.timeout)),
        ("dns.attempts", dns.attempts.to_string()),
        ("dns.serve-stale", "24h".to_owned()),
        ("dns.removal-delay", show(dns.removal_delay)),
        ("dns.grace", show(dns.grace)),
        ("kubernetes.departed-grace", show(KubernetesSettings::default().departed_grace)),
        ("limits.services", limits.services.to_string()),
        ("limits.backends", limits.backends.to_string()),
        ("limits.frontends", limits.frontends.to_string()),
        ("limits.slots", (limits.chunks * 16).to_string()),
        ("limits.connections", limits.flows.to_string()),
        ("limits.pod-services", limits.pod_services.to_string()),
        ("log.datapath-level", DatapathLevel::default().name().to_owned()),
        ("http.listen", "off".to_owned()),
        ("http.services-max", HttpSettings::default().services_max.to_string()),
        ("http.backends-max", HttpSettings::default().backends_max.to_string()),
        ("defaults.policy", Policy::default().name().to_owned()),
    ] {
        let row = format!("| `{key}` | `{default}` |");
        assert!(reference.contains(&row), "configuration.md lacks: {row}");
    }
}

#[test]
fn settings_of_the_load_need_a_restart() {
    let running = Config::default();
    let mut changed = parse("version: 1\nnode: {rank: 3}\ndns: {attempts: 5}");
    assert!(changed.restart_needed(&running).is_empty());
    changed.limits.flows = 1;
    changed.datapath_log_level = DatapathLevel::Trace;
    changed.http.backends_max = 1;
    changed.kubernetes.enabled = true;
    let needed = ["limits", "kubernetes", "log.datapath-level", "http"];
    assert_eq!(changed.restart_needed(&running), needed);
}
