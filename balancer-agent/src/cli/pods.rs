//! `pods`: this node's pods, what they are connected to, and which of them are left alone.

use super::{
    arguments::Global,
    exit::Exit,
    page::{self, Page, Report},
    pod::{Pod, Pods},
    snapshot::{Snapshot, listens},
};
use anyhow::Context;
use balancer_common::pod::Skip;
use serde::Serialize;
use std::{collections::BTreeMap, net::SocketAddr};

#[derive(Debug, Serialize)]
struct PodsReport {
    pods: Vec<PodRow>,
}

#[derive(Debug, Serialize)]
struct PodRow {
    #[serde(flatten)]
    pod: Pod,
    /// The reason for which its connections are left alone, if they are.
    skipped: Option<&'static str>,
    /// Live connections of all services.
    connections: usize,
    services: Vec<ServiceRow>,
}

#[derive(Debug, Serialize)]
struct ServiceRow {
    service: String,
    backends: Vec<BackendRow>,
}

#[derive(Debug, Serialize)]
struct BackendRow {
    /// None if the backend's id was given away.
    backend: Option<SocketAddr>,
    connections: usize,
}

impl Report for PodsReport {
    fn lay_out(&self, page: &mut Page) {
        let headings =
            ["~pod", "#cgroup", "qos", "network", "service", "backend", "#conns", "skipped"];
        page.table(&headings, self.pods.iter().flat_map(PodRow::lines).collect());
    }
}

impl PodRow {
    /// A line for each backend; the pod's own columns stand in each, for grep.
    fn lines(&self) -> Vec<Vec<String>> {
        let network = self.pod.host_network.map(|host| if host { "host" } else { "pod" });
        let qos = self.pod.qos.map(|qos| format!("{qos:?}").to_lowercase());
        let line = |service: Option<&String>, backend: Option<&BackendRow>| {
            vec![
                self.pod.to_string(),
                self.pod.id.to_string(),
                page::or_dash(qos.as_ref()),
                page::or_dash(network),
                page::or_dash(service),
                page::or_dash(backend.and_then(|it| it.backend)),
                backend.map_or(0, |it| it.connections).to_string(),
                page::or_dash(self.skipped),
            ]
        };
        let lines: Vec<_> = self
            .services
            .iter()
            .flat_map(|it| it.backends.iter().map(|backend| line(Some(&it.service), Some(backend))))
            .collect();
        if lines.is_empty() { vec![line(None, None)] } else { lines }
    }
}

/// Live connections by service and backend.
type Connections = BTreeMap<u32, BTreeMap<Option<SocketAddr>, usize>>;

pub(super) fn run(global: &Global, name: Option<&str>) -> anyhow::Result<Exit> {
    let snapshot = Snapshot::read(global)?;
    let mut pods = Pods::open(global, &snapshot.maps)?;
    let only = name.map(|name| pods.parse(name)).transpose()?;
    let mut clients: BTreeMap<u64, Connections> =
        pods.local().map(|pod| (pod.id, Connections::new())).collect();
    clients.extend(only.iter().map(|pod| (pod.id, Connections::new())));
    for flow in snapshot.maps.read_flows().context("read the connections")?.into_values() {
        let backend = snapshot.state.backends.get(&flow.backend);
        let backend = backend.filter(|record| record.incarnation == flow.incarnation).map(listens);
        let services = clients.entry(flow.pod).or_default();
        *services.entry(flow.service).or_default().entry(backend).or_default() += 1;
    }
    if let Some(only) = only {
        clients.retain(|id, _| *id == only.id);
    }
    let skips = snapshot.maps.read_skips().context("read which pods are skipped")?;
    let row = |(id, connections): (u64, Connections)| {
        row(&snapshot, pods.pod(id), connections, skips.get(&id).copied())
    };
    let mut rows: Vec<_> = clients.into_iter().map(row).collect();
    // Pods first, by name; then whatever else connects.
    rows.sort_by_cached_key(|row| (row.pod.uid.is_none(), row.pod.to_string()));
    page::print(global.output, &PodsReport { pods: rows })?;
    Ok(Exit::Ok)
}

fn row(snapshot: &Snapshot, pod: Pod, connections: Connections, skip: Option<Skip>) -> PodRow {
    let backends = |backends: BTreeMap<_, _>| {
        let row = |(backend, connections)| BackendRow { backend, connections };
        backends.into_iter().map(row).collect()
    };
    PodRow {
        pod,
        skipped: skip.map(|skip| skip.reason().name()),
        connections: connections.values().flat_map(BTreeMap::values).sum(),
        services: connections
            .into_iter()
            .map(|(id, it)| ServiceRow {
                service: snapshot.service_name(id),
                backends: backends(it),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::pods::cgroup_path::QosClass;

    #[test]
    fn the_table_is_as_golden() {
        let pod = |id, name: &str| Pod {
            path: Some(format!("/kubepods/burstable/pod{id}").into()),
            uid: Some(format!("uid-{id}")),
            qos: Some(QosClass::Burstable),
            namespace: Some("shop".into()),
            name: Some(name.into()),
            host_network: Some(false),
            ..Pod::unknown(id)
        };
        let backend = |address: Option<&str>, connections| BackendRow {
            backend: address.map(|address| address.parse().unwrap()),
            connections,
        };
        let report = PodsReport {
            pods: vec![
                PodRow {
                    pod: pod(71, "cart-0"),
                    skipped: None,
                    connections: 6,
                    services: vec![
                        ServiceRow {
                            service: "payments".into(),
                            backends: vec![
                                backend(Some("198.51.100.1:50051"), 3),
                                backend(Some("198.51.100.2:50051"), 2),
                            ],
                        },
                        ServiceRow { service: "search".into(), backends: vec![backend(None, 1)] },
                    ],
                },
                PodRow {
                    pod: pod(83, "mesh-0"),
                    skipped: Some(Skip::MESH_PROXY.reason().name()),
                    connections: 0,
                    services: Vec::new(),
                },
                PodRow {
                    pod: Pod { path: Some("/system.slice/cron.service".into()), ..Pod::unknown(9) },
                    skipped: None,
                    connections: 1,
                    services: vec![ServiceRow {
                        service: "payments".into(),
                        backends: vec![backend(Some("198.51.100.1:50051"), 1)],
                    }],
                },
            ],
        };
        page::check_golden("pods", &report, None);
    }
}
