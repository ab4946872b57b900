//! Real gRPC calls of every kind: what the kernel counts is what client and server counted.

use super::moves::{FAMILIES, Family, in_pod, pair};
use aya::maps::{HashMap, Map, MapData};
use balancer_agent::{
    core::requests::{Requests, by_backend, by_service},
    datapath::http2::{self, Attachment},
};
use balancer_common::{
    abi::{HTTP2_POD_FLOWS_MAX, map},
    http2::{flow::Visibility, track::Track},
    service::POLICY_LEAST_REQUEST,
};
use balancer_tests::{
    capability,
    fixture::{
        Fixture,
        service::{Served, ServiceSpec},
    },
    grpc::{calls::CallPlan, pod::PodCommand, process::PodProcess, server::EchoServer},
};
use std::{
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

/// Longest wait for what is on its way.
const SETTLE_S_MAX: u64 = 20;
const CANCEL: usize = 8;
/// Clients, one after the other.
const PROCESSES: u32 = 3;
/// Streams that keep a backend busy, and connections that should go elsewhere.
const HELD: u32 = 6;
const OTHERS: usize = 4;

struct Stage {
    servers: [EchoServer; 2],
    fixture: Fixture,
    served: Served,
    frontend: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn new(name: &str, family: &Family) -> Self {
        let mut fixture = Fixture::new(name).unwrap();
        http2::install(fixture.loaded(), fixture.world().pins()).unwrap();
        pair(family);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let servers = family.servers.map(|server| {
            let address = SocketAddr::new(server.parse().unwrap(), 50_051);
            runtime.block_on(EchoServer::start(server, address)).unwrap()
        });
        let frontend = family.frontend.parse().unwrap();
        let backends = servers.iter().map(EchoServer::address);
        let mut spec = ServiceSpec { http2: true, ..ServiceSpec::new(frontend, backends) };
        spec.policy = POLICY_LEAST_REQUEST;
        let served = fixture.serve(spec).unwrap();
        Self { servers, fixture, served, frontend, _runtime: runtime }
    }

    fn plan(&self) -> CallPlan {
        let target = self.frontend;
        CallPlan { target, unary: 0, streams: 0, cancelled: 0, refused: 0, held: 0 }
    }

    /// Makes calls in a process of its own; returns it and the backend that it reached.
    async fn call(&self, plan: CallPlan) -> (PodProcess, String) {
        let pod = self.fixture.world().pod("pod").unwrap();
        let log = self.fixture.world().runtime().join("calls.log");
        let command = PodCommand::Calls { pod: Some(pod), plan };
        let executable = Path::new(env!("CARGO_BIN_EXE_balancer-demo"));
        let mut client = PodProcess::start("calls", executable, &command, &log).await.unwrap();
        client.dial().await.unwrap();
        let backend = client.connected().await.unwrap().remove(0);
        (client, backend)
    }

    fn requests(&self) -> Requests {
        let read = self.fixture.loaded().maps.read_http2_counts().unwrap();
        let services = by_service(&by_backend(&read.flows, &read.totals));
        services.get(&self.served.id).copied().unwrap_or_default()
    }

    fn in_flight(&self) -> u64 {
        let maps = &self.fixture.loaded().maps;
        // The fixture gives ids from 1 on.
        (1..=2).map(|backend| maps.read_http2_in_flight(backend).unwrap()).sum()
    }

    /// Reads the counters until they are as wanted.
    fn await_requests(&self, what: &str, is_done: impl Fn(&Requests) -> bool) -> Requests {
        let deadline = Instant::now() + Duration::from_secs(SETTLE_S_MAX);
        loop {
            let requests = self.requests();
            if is_done(&requests) {
                return requests;
            }
            assert!(Instant::now() < deadline, "{what}: {requests:?}");
            std::thread::yield_now();
        }
    }
}

fn in_runtime<T>(act: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(act)
}

#[test]
fn the_counters_are_what_client_and_server_counted() {
    if !capability::can_load_ebpf() {
        return;
    }
    for family in &FAMILIES {
        let mut stage = Stage::new("http2-calls", family);
        let name = family.name;
        let mut calls = 0;
        let lent = &mut stage;
        in_pod(family, move || {
            let stage = &*lent;
            http2::tap(stage.fixture.world().pins(), "eth0", Attachment::Best).unwrap();
            for process in 1..=PROCESSES {
                let plan = CallPlan {
                    unary: 40 * process,
                    streams: 7,
                    cancelled: 5,
                    refused: 3,
                    held: 2,
                    ..stage.plan()
                };
                in_runtime(async {
                    let before = stage.requests();
                    let began = Instant::now();
                    let (client, _) = stage.call(plan).await;
                    let cancelled = before.sums.reset_by_client + u64::from(plan.cancelled);
                    let now = stage.await_requests("cancelled calls", |now| {
                        now.sums.reset_by_client >= cancelled
                    });
                    let took = began.elapsed();
                    calls += u64::from(plan.calls());
                    let ended = plan.calls() - plan.cancelled - plan.held;
                    assert_eq!(now.sums.ended - before.sums.ended, u64::from(ended), "{name}");
                    assert_eq!(now.sums.reset_by_client, cancelled, "{name}");
                    assert_eq!(now.sums.client_resets[CANCEL], cancelled, "{name}");
                    assert_eq!((now.live, now.in_flight), (1, u64::from(plan.held)), "{name}");
                    assert_eq!(stage.in_flight(), u64::from(plan.held), "{name}");
                    assert_eq!(now.sums.opened, calls, "{name}");
                    let by_servers: u64 = stage.servers.iter().map(EchoServer::requests).sum();
                    let refused = u64::from(process * plan.refused);
                    assert_eq!(now.sums.opened, by_servers + refused, "{name}");
                    assert_eq!(now.latency().count(), now.finished(), "{name}");
                    assert!(now.latency().quantile(1.0).unwrap() <= took * 2, "{name}: {now:?}");
                    assert!(now.received_bytes > u64::from(plan.unary) * 1_000, "{name}");
                    client.stop().await.unwrap();
                });
                let closed = stage.await_requests("a closed connection", |now| {
                    (now.live, now.settled) == (0, u64::from(process))
                });
                // Whether the process still says that it leaves its open calls is left to chance.
                assert_eq!(closed.finished() + closed.abandoned, calls, "{name}: {closed:?}");
                assert_eq!((closed.in_flight, stage.in_flight()), (0, 0), "{name}");
                assert_eq!((closed.refused, closed.sums.uncounted), (0, 0), "{name}");
            }
        });
    }
}

/// Connections of a pod that has as many as are followed already.
#[test]
fn a_pod_with_too_many_connections_is_served_and_not_followed() {
    if !capability::can_load_ebpf() {
        return;
    }
    let family = &FAMILIES[0];
    let mut stage = Stage::new("http2-many", family);
    let pod = stage.fixture.world().pod("pod").unwrap();
    let pin = stage.fixture.world().pins().http2_maps().join(map::HTTP2_PODS);
    let data = MapData::from_pin(pin).unwrap();
    let mut pods: HashMap<_, u64, u64> = Map::from_map_data(data).unwrap().try_into().unwrap();
    let id = std::fs::metadata(pod).unwrap().ino();
    pods.insert(id, HTTP2_POD_FLOWS_MAX, 0).unwrap();
    let lent = &mut stage;
    in_pod(family, move || {
        let stage = &*lent;
        http2::tap(stage.fixture.world().pins(), "eth0", Attachment::Best).unwrap();
        in_runtime(async {
            let (client, _) = stage.call(CallPlan { unary: 3, ..stage.plan() }).await;
            let requests = stage.requests();
            assert_eq!((requests.refused, requests.live, requests.sums.opened), (1, 0, 0));
            assert_eq!(stage.servers.iter().map(EchoServer::requests).sum::<u64>(), 4);
            client.stop().await.unwrap();
        });
    });
    assert_eq!(pods.get(&id, 0).unwrap(), HTTP2_POD_FLOWS_MAX, "none was counted");
}

impl Stage {
    /// What is known of each connection's frames, and why not more.
    fn seen(&self) -> Vec<(Visibility, Option<&'static str>, [Track; 2])> {
        let flows = self.fixture.loaded().maps.http2_flows.iter().filter_map(Result::ok);
        let seen = flows.map(|(_, flow)| {
            (flow.0.visibility(), flow.0.lost_by(), [flow.0.inbound, flow.0.outbound])
        });
        seen.collect()
    }
}

#[test]
fn least_request_avoids_who_is_busy() {
    if !capability::can_load_ebpf() {
        return;
    }
    let family = &FAMILIES[0];
    let mut stage = Stage::new("http2-least", family);
    let lent = &mut stage;
    in_pod(family, move || {
        let stage = &*lent;
        http2::tap(stage.fixture.world().pins(), "eth0", Attachment::Best).unwrap();
        in_runtime(async {
            let (first, busy) = stage.call(CallPlan { held: HELD, ..stage.plan() }).await;
            assert_eq!(stage.in_flight(), u64::from(HELD), "{:?}", stage.seen());
            let mut others = Vec::new();
            for _ in 0..OTHERS {
                let (other, backend) = stage.call(stage.plan()).await;
                // By connections alone, every other one would go there.
                assert_ne!(backend, busy);
                others.push(other);
            }
            for client in others.into_iter().chain([first]) {
                client.stop().await.unwrap();
            }
        });
        let closed = OTHERS as u64 + 1;
        stage.await_requests("closed connections", |now| now.settled == closed);
        assert_eq!(stage.in_flight(), 0);
    });
}
