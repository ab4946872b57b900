//! How evenly each policy spreads connections: in the real kernel, and over many simulated nodes.

use anyhow::{Context, bail};
use balancer_agent::core::{
    Core,
    event::{Event, Source},
    fake::FakeDatapath,
    model::{BackendSource, Endpoint, EndpointState, FrontendSource, Policy, Service, ServiceName},
};
use balancer_tests::{
    backend::Backend,
    bench::{
        self, Settings,
        figure::{Figure, Unit},
    },
    demo::spread::Spread,
    dialer::Dialer,
    fixture::{Fixture, LIMITS, service::ServiceSpec},
};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
};

/// Services stay declared until the end, of which the fixture takes 15.
const ROUNDS: usize = 3;
const CONNECTIONS: usize = 32;
const BACKENDS: u8 = 4;
const NODES: u32 = 100;
const NODE_BACKENDS: u8 = 10;

fn main() -> ExitCode {
    bench::main("spread", run)
}

fn run(settings: Settings) -> anyhow::Result<Vec<Figure>> {
    let mut fixture = Fixture::new("bench-spread")?;
    let backends = (0..BACKENDS)
        .map(|_| Backend::start("127.0.0.1:0".parse()?))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let addresses: Vec<SocketAddr> = backends.iter().map(Backend::address).collect();
    let pods = (0..CONNECTIONS)
        .map(|pod| fixture.pod(&format!("pod-{pod}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut figures = Vec::new();
    for policy in Policy::ALL {
        let (mut one, mut many) = (Vec::new(), Vec::new());
        for round in 0..settings.rounds(ROUNDS).min(ROUNDS) {
            let last = u8::try_from(round)? * 8 + u8::try_from(policy.code())?;
            let vip = SocketAddr::new(Ipv4Addr::new(10, 96, 0, last).into(), 80);
            fixture.serve(ServiceSpec {
                policy: policy.code(),
                ..ServiceSpec::new(vip, addresses.iter().copied())
            })?;
            one.push(dial(pods.iter().take(1).cycle(), vip, &addresses)?);
            many.push(dial(pods.iter(), vip, &addresses)?);
        }
        let name = policy.name();
        figures.extend(pair(
            &format!("{name}: 1 pod, {CONNECTIONS} connections, {BACKENDS} backends"),
            &one,
            policy,
        ));
        figures.extend(pair(
            &format!("{name}: {CONNECTIONS} pods, 1 connection each, {BACKENDS} backends"),
            &many,
            policy,
        ));
        if policy == Policy::Random {
            // Simulated nodes all draw the same numbers.
            continue;
        }
        let nodes = (0..settings.rounds(ROUNDS))
            .map(|round| nodes(policy, u32::try_from(round)? * NODES))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let text = format!("{name}: {NODES} nodes, 1 connection each, {NODE_BACKENDS} backends");
        figures.extend(pair(&text, &nodes, policy));
    }
    Ok(figures)
}

/// Coefficient of variation, and peak over mean.
fn pair(what: &str, spreads: &[Spread], policy: Policy) -> [Figure; 2] {
    let variations: Vec<f64> = spreads.iter().map(|spread| spread.variation).collect();
    let peaks: Vec<f64> = spreads.iter().map(|spread| spread.peak_to_mean).collect();
    let variation = Figure::new(format!("{what}: CV"), Unit::Number, &variations);
    let peak = Figure::new(format!("{what}: peak/mean"), Unit::Ratio, &peaks);
    match policy {
        Policy::RoundRobin | Policy::LeastConnection | Policy::LeastRequest => {
            [variation.at_most(0.02), peak.at_most(1.1)]
        }
        Policy::Random | Policy::Maglev => [variation, peak],
    }
}

/// Connections that are open at the same time, one of each pod in turn.
fn dial<'a>(
    pods: impl Iterator<Item = &'a Dialer>,
    vip: SocketAddr,
    backends: &[SocketAddr],
) -> anyhow::Result<Spread> {
    let mut counts: BTreeMap<SocketAddr, u64> =
        backends.iter().map(|address| (*address, 0)).collect();
    let mut open = Vec::new();
    for pod in pods.take(CONNECTIONS) {
        let dialled = pod.dial(vip)?;
        let reached = dialled.reached.context("a dial reached no backend")?;
        *counts.entry(reached).or_default() += 1;
        open.push((pod, dialled.handle));
    }
    for (pod, handle) in open {
        pod.close(handle, true)?;
    }
    Ok(Spread::of(counts.into_values()))
}

/// Every node has maps of its own and one client, which connects once.
fn nodes(policy: Policy, first_rank: u32) -> anyhow::Result<Spread> {
    let vip = SocketAddr::new(Ipv4Addr::new(10, 96, 0, 1).into(), 80);
    let backends: Vec<SocketAddr> = (1..=NODE_BACKENDS)
        .map(|host| SocketAddr::new(Ipv4Addr::new(10, 1, 0, host).into(), 50_051))
        .collect();
    let sources = backends.iter().map(|address| {
        BackendSource::Fixed(Endpoint {
            address: *address,
            weight: 1,
            state: EndpointState::Active,
        })
    });
    let service = Service {
        name: ServiceName::new("spread")?,
        frontends: [FrontendSource::Fixed(vip)].into(),
        backends: sources.collect(),
        policy,
        affinity_s: None,
        tracked: true,
        ejects: true,
        http2: false,
        user_timeout_ms: None,
        keepalive: None,
        drain_timeout_s: None,
        move_patience_ms: Some(500),
    };
    let mut counts: BTreeMap<SocketAddr, u64> =
        backends.iter().map(|address| (*address, 0)).collect();
    for rank in first_rank..first_rank + NODES {
        let mut core = Core::new(LIMITS, rank, [Source::File]);
        let mut maps = FakeDatapath::new(LIMITS);
        core.observe(Event::Snapshot { source: Source::File, services: vec![service.clone()] });
        while let Some(change) = core.plan() {
            let landed = maps.apply_all(&change.writes, |_| false)?;
            core.applied(change, landed);
        }
        let Some(connection) = maps.connect(vip, u64::from(rank) + 1) else {
            bail!("node {rank} left a connection untouched");
        };
        *counts.entry(connection.address).or_default() += 1;
    }
    Ok(Spread::of(counts.into_values()))
}
