//! A small cluster, the source that watches it, and what the core would know from the source.

use super::server::{NODES, SERVICES, SLICES, Server};
use balancer_agent::{
    core::{
        discovery::Rules,
        event::{Event, Source},
        model::{BackendSource, Behaviour, EndpointState, FrontendSource, Service},
    },
    sources::kubernetes::{KubernetesHealth, KubernetesSource, Update},
};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};
use tokio::sync::{mpsc, watch};

/// Long enough for the slowest machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A source and everything that it has told.
pub(super) struct Cluster {
    pub(super) server: Server,
    pub(super) health: KubernetesHealth,
    pub(super) farewells: KubernetesHealth,
    pub(super) defaults: watch::Sender<Behaviour>,
    updates: mpsc::Receiver<Update>,
    services: BTreeMap<String, Service>,
    /// Services that were ever gone.
    pub(super) removed: Vec<String>,
    snapshots: usize,
    /// When changes began that came to something.
    pub(super) triggered_at: Vec<SystemTime>,
}

pub(super) struct Pauses;

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(1))
    }
}

impl kube::runtime::utils::Backoff for Pauses {
    fn reset(&mut self) {}
}

// === impl Cluster ===

impl Cluster {
    /// Starts a server with the own Node, lets `prepare` fill it, then starts the source.
    pub(super) async fn start(prepare: impl FnOnce(&Server)) -> Self {
        let server = Server::start().await;
        let client = Client::try_from(Config::new(server.url.clone())).unwrap();
        Self::start_with(server, client, prepare)
    }

    /// The same with a server and a client of one's own.
    pub(super) fn start_with(
        server: Server,
        client: Client,
        prepare: impl FnOnce(&Server),
    ) -> Self {
        server.apply(NODES, json!({"metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "z1"}}}));
        prepare(&server);
        let rules = Rules {
            node_name: "node-a".into(),
            departed_grace: Duration::from_mins(10),
            watch_pods: true,
            defaults: Behaviour::default(),
        };
        let (defaults_sender, defaults) = watch::channel(Behaviour::default());
        let source =
            KubernetesSource::new(client, rules, defaults).with_pauses(|| Box::new(Pauses));
        let (health, farewells) = (source.health(), source.farewells_health());
        let (sender, updates) = mpsc::channel(16);
        tokio::spawn(source.run(sender));
        Self {
            server,
            health,
            farewells,
            defaults: defaults_sender,
            updates,
            services: BTreeMap::new(),
            removed: Vec::new(),
            snapshots: 0,
            triggered_at: Vec::new(),
        }
    }

    /// Takes updates in until the services are as wanted.
    pub(super) async fn await_services(&mut self, wanted: impl Fn(&Self) -> bool) {
        let reached = async {
            while self.snapshots == 0 || !wanted(self) {
                let update = self.updates.recv().await.expect("the source runs");
                self.triggered_at.extend(update.triggered_at);
                update.events.into_iter().for_each(|event| self.take(event));
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, reached).await.is_ok();
        let health = self.health.snapshot();
        assert!(in_time, "not reached; known: {:#?}\n{health:#?}", self.services);
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Snapshot { source, services } => {
                assert_eq!(source, Source::Kubernetes);
                self.snapshots += 1;
                assert_eq!(self.snapshots, 1, "later lists are told as differences");
                self.services = services.into_iter().map(|it| (it.name.to_string(), it)).collect();
            }
            Event::ServiceChanged { service, .. } => {
                self.services.insert(service.name.to_string(), service);
            }
            Event::ServiceRemoved { name, .. } => {
                let known = self.services.remove(name.as_str());
                assert!(known.is_some(), "{name} was never told of");
                self.removed.push(name.to_string());
            }
            Event::MembersChanged { .. } => panic!("that is DNS's to say"),
        }
    }

    /// How many services are known.
    pub(super) fn count(&self) -> usize {
        self.services.len()
    }

    /// Whether all services are so.
    pub(super) fn all(&self, wanted: impl Fn(&Service) -> bool) -> bool {
        self.services.values().all(wanted)
    }

    /// The frontends of a service; none if there is no such service.
    pub(super) fn frontends(&self, name: &str) -> Vec<String> {
        let sources = self.services.get(name).into_iter().flat_map(|service| &service.frontends);
        sources
            .map(|source| match source {
                FrontendSource::Fixed(address) => address.to_string(),
                FrontendSource::Resolved(lookup) => lookup.to_string(),
            })
            .collect()
    }

    /// The backends of a service, those that drain with a `-` in front, those that are ejected with
    /// a `~`.
    pub(super) fn backends(&self, name: &str) -> Vec<String> {
        let sources = self.services.get(name).into_iter().flat_map(|service| &service.backends);
        sources
            .map(|source| match source {
                BackendSource::Fixed(endpoint) if endpoint.state == EndpointState::Active => {
                    endpoint.address.to_string()
                }
                BackendSource::Fixed(endpoint) if endpoint.state == EndpointState::Inactive => {
                    format!("~{}", endpoint.address)
                }
                BackendSource::Fixed(endpoint) => format!("-{}", endpoint.address),
                BackendSource::Resolved { lookup, .. } => lookup.to_string(),
            })
            .collect()
    }
}

/// A Service `shop/NAME` at `10.96.0.HOST:80` that speaks gRPC.
pub(super) fn service(name: &str, host: u8) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}")},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": format!("10.96.0.{host}"),
            "clusterIPs": [format!("10.96.0.{host}")],
            "ports": [{"name": "grpc", "port": 80, "targetPort": 50051, "protocol": "TCP"}],
        },
    })
}

/// The UID of the pod at `10.1.0.HOST`.
pub(super) fn uid(host: u8) -> String {
    format!("3f9c8a1e-6a0b-4c5d-9e2f-{host:012x}")
}

/// A slice of `shop/SERVICE` with ready endpoints at `10.1.0.HOST:50051`.
pub(super) fn slice(service: &str, name: &str, hosts: &[u8]) -> Value {
    let endpoints: Vec<Value> = hosts
        .iter()
        .map(|host| {
            json!({
                "addresses": [format!("10.1.0.{host}")],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": "node-b",
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("pod-{host}"), "uid": uid(*host)},
            })
        })
        .collect();
    json!({
        "metadata": {
            "namespace": "shop", "name": name,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "grpc", "port": 50051, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// `shop/a` and `shop/b` with two endpoints each.
pub(super) fn two_services(server: &Server) {
    server.apply(SERVICES, service("a", 1));
    server.apply(SERVICES, service("b", 2));
    server.apply(SLICES, slice("a", "a-1", &[1, 2]));
    server.apply(SLICES, slice("b", "b-1", &[3, 4]));
}
