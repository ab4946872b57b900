//! The exposition of one fixed state against a golden file, and both against the documentation.

use super::*;
use crate::{
    admin::{ConfigStatus, DrainStatus, Http2Account, Http2Status},
    core::{Totals, requests::Requests},
    datapath::{fill::TableUse, self_test::SelfTest},
    http::{
        latency::ProgrammingLatency,
        view::{BackendView, Counts, KernelView, ServiceView},
        vitals::Vitals,
    },
    sources::{
        dns::{DnsCounts, FailureKind, LookupHealth, MemberHealth, Standing},
        kubernetes::{KubernetesHealth, KubernetesReport},
    },
};
use balancer_common::{
    backend::{STATE_ACTIVE, STATE_DRAINING, STATE_GONE},
    http2::counts::latency_bucket,
    reason::Reason,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

const GOLDEN: &str = "src/http/exposition/metrics.golden";
const REFERENCE: &str = "../docs/metrics.md";

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What a healthy daemon tells.
pub(in crate::http) fn vitals() -> Vitals {
    let latency = ProgrammingLatency::default();
    for us in [120, 480, 30_000] {
        latency.observe(Duration::from_micros(us));
    }
    let passed = SelfTest { passed: true, detail: "it works".into(), hint: None };
    let trigger_latency = ProgrammingLatency::since_trigger();
    trigger_latency.observe(Duration::from_millis(700));
    Vitals {
        started_unix_s: 1_700_000_000.5,
        self_test: passed,
        hooks_repaired: 1,
        config: ConfigStatus { rejections: 2, ..ConfigStatus::default() },
        config_loaded: 3,
        totals: Totals { events: 9, changes: 5, changes_failed: 1, writes: 40, refusals: 4 },
        write_failures: 1,
        needs_retry: false,
        unsynced: Vec::new(),
        problems: BTreeMap::from([("over-limit", 1), ("untracked", 0)]),
        latency,
        trigger_latency,
        drained: DrainStatus {
            drain_timeout: 3,
            backend_gone: 2,
            not_found: 1,
            ..DrainStatus::default()
        },
        http2: Http2Status {
            interfaces: 32,
            services: ["shop/\"cart\"", "zoo"].map(|name| (name.into(), moved())).into(),
            ..Http2Status::default()
        },
        pods: BTreeMap::from([("balanced", 11), ("mesh-proxy", 2), ("opted-out", 1)]),
        kubernetes: Some(kubernetes()),
    }
}

/// What was moved of a service.
fn moved() -> Http2Account {
    Http2Account {
        connections: BTreeMap::from([("visible".into(), 30), ("moved".into(), 2)]),
        begun: BTreeMap::from([("new-backend".into(), 11)]),
        made: 10,
        given_up: 1,
        stubborn: 2,
    }
}

fn kubernetes() -> KubernetesReport {
    let mut report = KubernetesHealth::default().snapshot();
    for watch in &mut report.watches {
        (watch.synced, watch.lists) = (true, 1);
    }
    let slices = &mut report.watches[1];
    (slices.staleness_ms, slices.restarts, slices.errors) = (2_500, 1, 3);
    report.counts.services = 7;
    (report.events_written, report.triggers_ignored) = (4, 2);
    report.problems_about.insert("policy".into(), 1);
    report
}

fn backend(state: u32, connections: u64) -> BackendView {
    let counts = Counts {
        opened: 20,
        established: 19,
        closed: 15 - connections,
        reset: 2,
        refused: 1,
        timed_out: 0,
        abandoned: 0,
        retransmits: 7,
        ejections: 1,
    };
    BackendView { tracked: true, state, weight: 1, connections, counts, srtt_us: 640 }
}

fn kernel() -> KernelView {
    let mut kernel = KernelView {
        reasons: BTreeMap::from([(Reason::NotFrontend, 1_000), (Reason::Picked, 60)]),
        tables: vec![
            TableUse { name: "services", used: 3, limit: 63, strict: true },
            TableUse { name: "pod cursors", used: 5, limit: 256, strict: false },
        ],
        ..KernelView::default()
    };
    // Names are any UTF-8 without control characters, quotes included.
    for (name, tracked) in [("shop/\"cart\"", true), ("untracked", false), ("zoo", true)] {
        let counts = Counts { opened: 40, established: 38, ..Counts::default() };
        let service = ServiceView {
            tracked,
            counts,
            untouched: 3,
            socket_option_failures: 1,
            ..ServiceView::default()
        };
        kernel.services.insert(name.into(), service);
    }
    let mut requests = Requests { in_flight: 2, abandoned: 1, ..Requests::default() };
    (requests.sums.opened, requests.sums.ended, requests.sums.reset_by_client) = (13, 9, 1);
    for (ns, count) in [(90_000, 4), (1_500_000, 5), (60_000_000_000, 1)] {
        requests.sums.latency[latency_bucket(ns)] += count;
    }
    let key = ("shop/\"cart\"".into(), "198.51.100.1:50051".parse().unwrap());
    kernel.requests.insert(key, requests);
    for (service, address, backend) in [
        ("shop/\"cart\"", "198.51.100.1:50051", backend(STATE_ACTIVE, 4)),
        ("shop/\"cart\"", "[2001:db8::1]:50051", backend(STATE_DRAINING, 2)),
        ("shop/\"cart\"", "198.51.100.1:50051", backend(STATE_GONE, 1)),
        (
            "untracked",
            "198.51.100.2:50051",
            BackendView { tracked: false, srtt_us: 0, ..backend(STATE_ACTIVE, 0) },
        ),
        ("zoo", "198.51.100.3:50051", backend(STATE_ACTIVE, 0)),
    ] {
        kernel.add(&service.into(), address.parse().unwrap(), backend, 3);
    }
    kernel
}

fn view() -> View {
    let set = LookupHealth {
        lookup: "shop.internal:443".into(),
        standing: Standing::Partial,
        known: true,
        members: [false, true, false]
            .map(|departed| MemberHealth {
                address: "198.51.100.9:443".parse().unwrap(),
                weight: 1,
                departed,
            })
            .to_vec(),
        last_success_age_ms: Some(1_500),
        last_error: None,
        last_error_age_ms: None,
        next_try_ms: 0,
        queries: 12,
        failures: BTreeMap::from([(FailureKind::Timeout, 2)]),
        addresses_refused: 1,
        excess: 0,
    };
    View {
        vitals: Some(vitals()),
        kernel: Some(kernel()),
        dns: vec![set],
        dns_counts: DnsCounts { left_out: 3, restarted: 1 },
        services_max: 2,
    }
}

#[test]
fn the_exposition_is_as_golden() {
    let text = write(view()).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN), text).unwrap();
        return;
    }
    assert_eq!(text, read(GOLDEN));
}

/// Type and labels of every metric by its name, as samples carry them.
fn metrics_of(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut metrics = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("# TYPE ") {
            let (name, kind) = words.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            current = format!("{name}{suffix}");
            let known = metrics.insert(current.clone(), (kind.to_owned(), BTreeSet::new()));
            assert_eq!(known, None, "{name} stands twice");
        }
        if !line.starts_with('#') {
            assert!(line.starts_with(&current), "{line} stands below {current}");
            metrics.get_mut(&current).unwrap().1.extend(label_keys(line));
        }
    }
    metrics
}

/// The keys of a sample's labels, without that of a histogram's buckets.
fn label_keys(sample: &str) -> impl Iterator<Item = String> {
    sample.match_indices("=\"").filter_map(|(end, _)| {
        let key = sample[..end].rsplit(['{', ',']).next()?;
        (key != "le").then(|| key.to_owned())
    })
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    let told = metrics_of(&read(GOLDEN));
    let mut documented = BTreeMap::new();
    for row in read(REFERENCE).lines().filter_map(|line| line.strip_prefix("| `balancer_")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [name, kind, labels, unit, meaning, ""] = cells[..] else { panic!("{row}") };
        let name = format!("balancer_{}", name.trim_end_matches('`'));
        let seconds = name.ends_with("_seconds");
        assert_eq!(unit == "seconds", seconds, "{name} is in {unit}");
        assert!(!meaning.is_empty(), "{name} means nothing");
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let known = documented.insert(name.clone(), (kind.to_owned(), labels));
        assert_eq!(known, None, "{name} is documented twice");
    }
    assert_eq!(told, documented);
}

#[test]
fn what_is_missing_is_said_and_the_rest_is_told() {
    let text = write(View { vitals: None, ..view() }).unwrap();
    for line in ["balancer_agent_responsive 0", "balancer_agent_ready 0", "balancer_services 3"] {
        assert!(text.contains(&format!("\n{line}\n")), "no `{line}` in:\n{text}");
    }
    assert!(!text.contains("balancer_events_total"));
    let text = write(View { kernel: None, ..view() }).unwrap();
    for line in ["balancer_maps_readable 0", "balancer_agent_ready 1", "balancer_events_total 9"] {
        assert!(text.contains(&format!("\n{line}\n")), "no `{line}` in:\n{text}");
    }
    assert!(!text.contains("balancer_services "));
}

#[test]
fn no_series_stands_twice() {
    let text = write(view()).unwrap();
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        assert!(seen.insert(series), "{series} stands twice");
    }
}
