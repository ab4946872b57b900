//! A large cluster: first sync, memory, CPU and the latency of a change while others go on.

use anyhow::Context;
use balancer_agent::datapath::maps::Maps;
use balancer_tests::{
    bench::{
        self, Settings,
        agent::{Agent, service_id, wait_for},
        api_server::ApiServer,
        cluster::{
            self, Endpoint, NAMESPACES, NODE, NODES, Phase, SERVICES, SLICE_ENDPOINTS, SLICES,
        },
        figure::{Figure, Unit},
        statistics::quantile,
    },
    world::World,
};
use nix::{poll::ppoll, sys::time::TimeSpec};
use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const ROUNDS: usize = 3;
/// Services, and endpoints of each.
const SERVICES_COUNT: usize = 5_000;
const ENDPOINTS: usize = 20;
/// Endpoints of the service that is rolled over, which comes after the others.
const LARGE_ENDPOINTS: usize = 500;
/// New pods of a step of the rollout.
const SURGE: usize = 25;
/// Changes a second of services that nobody looks at.
const CHANGES_PER_S: u32 = 100;
/// How long these go on.
const LOAD: Duration = Duration::from_secs(20);
/// Changes that are looked at meanwhile.
const PROBES: usize = 200;

const CHANGE_BAR_MS: f64 = 50.0;
const RSS_BAR_MB: f64 = 150.0;
const CPU_BAR_PERCENT: f64 = 5.0;

/// What one round measured.
#[derive(Default)]
struct Round {
    sync_ms: f64,
    rss_mb: f64,
    idle_percent: f64,
    loaded_percent: f64,
    p50_ms: f64,
    p99_ms: f64,
    writes_per_change: f64,
    rollout_ms: f64,
    rss_after_mb: f64,
}

fn main() -> ExitCode {
    bench::main("cluster", run)
}

fn run(settings: Settings) -> anyhow::Result<Vec<Figure>> {
    let mut rounds = Vec::new();
    for _ in 0..settings.rounds(ROUNDS) {
        rounds.push(round()?);
    }
    let figure = |what: &str, unit, of: fn(&Round) -> f64| {
        let values: Vec<f64> = rounds.iter().map(of).collect();
        Figure::new(what, unit, &values)
    };
    let load = format!("at {CHANGES_PER_S} changes/s");
    Ok(vec![
        figure("from the start to the first full sync", Unit::Milliseconds, |it| it.sync_ms),
        figure("resident memory, synced", Unit::Megabytes, |it| it.rss_mb).at_most(RSS_BAR_MB),
        figure("CPU of one core, at rest", Unit::Percent, |it| it.idle_percent),
        figure(&format!("CPU of one core, {load}"), Unit::Percent, |it| it.loaded_percent)
            .at_most(CPU_BAR_PERCENT),
        figure(&format!("one change to the map, {load}, p50"), Unit::Milliseconds, |it| it.p50_ms),
        figure(&format!("one change to the map, {load}, p99"), Unit::Milliseconds, |it| it.p99_ms)
            .at_most(CHANGE_BAR_MS),
        figure("map writes of one change", Unit::Number, |it| it.writes_per_change),
        figure("last event of a 500-pod rollout to the map", Unit::Milliseconds, |it| {
            it.rollout_ms
        }),
        figure("resident memory, after all that", Unit::Megabytes, |it| it.rss_after_mb)
            .at_most(RSS_BAR_MB),
    ])
}

fn round() -> anyhow::Result<Round> {
    let world = World::new("bench-cluster")?;
    let server = ApiServer::start()?;
    populate(&server)?;
    let kubeconfig = world.runtime().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig()).context("write the kubeconfig")?;
    let configuration = format!(
        "version: 1\nkubernetes:\n  enabled: true\n  node-name: {NODE}\n  kubeconfig: {}\n",
        kubeconfig.display()
    );
    let started = Instant::now();
    let agent = Agent::start(&world, &configuration)?;
    let maps = Maps::open_loaded(world.pins())?;
    let expected = SERVICES_COUNT + 1;
    wait_for("the first sync", || {
        let known = maps.service_names.keys().flatten().count();
        Ok((known >= expected).then_some(()))
    })?;
    let mut round = Round { sync_ms: started.elapsed().as_secs_f64() * 1e3, ..Round::default() };
    // What the sync needed is given back at the next sweep.
    pause(Duration::from_secs(7));
    round.rss_mb = megabytes(agent.resident_bytes()?);
    round.idle_percent = cpu_percent(&agent, || {
        pause(Duration::from_secs(5));
        Ok(())
    })?;
    measure_changes(&agent, &server, &maps, &mut round)?;
    round.rollout_ms = roll_over(&server, &maps)?;
    pause(Duration::from_secs(7));
    round.rss_after_mb = megabytes(agent.resident_bytes()?);
    Ok(round)
}

fn ready(first: usize, count: usize) -> Vec<Endpoint> {
    (first..first + count).map(|number| Endpoint { number, phase: Phase::Ready }).collect()
}

fn populate(server: &ApiServer) -> anyhow::Result<()> {
    server.apply(NODES, vec![cluster::node()])?;
    server.apply(NAMESPACES, vec![cluster::namespace()])?;
    server.apply(SERVICES, (0..=SERVICES_COUNT).map(cluster::service).collect())?;
    let slices = (0..SERVICES_COUNT)
        .map(|service| cluster::slice(service, 0, &ready(service * ENDPOINTS, ENDPOINTS)));
    server.apply(SLICES, slices.collect())?;
    server.apply(SLICES, large(&ready(SERVICES_COUNT * ENDPOINTS, LARGE_ENDPOINTS)))
}

/// The slices of the service that is rolled over.
fn large(endpoints: &[Endpoint]) -> Vec<serde_json::Value> {
    let slices = endpoints.chunks(SLICE_ENDPOINTS).enumerate();
    slices.map(|(nth, part)| cluster::slice(SERVICES_COUNT, nth, part)).collect()
}

/// A service's only slice, with its last endpoint on its way out or back.
fn toggled(service: usize, phase: Phase) -> serde_json::Value {
    let mut endpoints = ready(service * ENDPOINTS, ENDPOINTS);
    if let Some(last) = endpoints.last_mut() {
        last.phase = phase;
    }
    cluster::slice(service, 0, &endpoints)
}

const fn phase(round: usize) -> Phase {
    if round.is_multiple_of(2) { Phase::Terminating } else { Phase::Ready }
}

fn measure_changes(
    agent: &Agent,
    server: &ApiServer,
    maps: &Maps,
    round: &mut Round,
) -> anyhow::Result<()> {
    let probed = SERVICES_COUNT - 1;
    let id = service_id(maps, &cluster::balanced_name(probed))?;
    let generation = || -> anyhow::Result<u32> { Ok(maps.services.get(&id, 0)?.0.generation) };
    let before = agent.status()?.work;
    let is_over = AtomicBool::new(false);
    let mut latencies = Vec::new();
    round.loaded_percent = std::thread::scope(|scope| {
        let load = scope.spawn(|| background(server, &is_over));
        let percent = cpu_percent(agent, || {
            let started = Instant::now();
            for probe in 0..PROBES {
                let was = generation()?;
                let sent = Instant::now();
                server.apply(SLICES, vec![toggled(probed, phase(probe))])?;
                wait_for("the change", || Ok((generation()? != was).then_some(())))?;
                latencies.push(sent.elapsed().as_secs_f64() * 1e3);
                let next = LOAD * u32::try_from(probe + 1)? / u32::try_from(PROBES)?;
                pause(next.saturating_sub(started.elapsed()));
            }
            Ok(())
        });
        is_over.store(true, Ordering::Relaxed);
        load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        percent
    })?;
    round.p50_ms = quantile(&latencies, 0.5);
    round.p99_ms = quantile(&latencies, 0.99);
    let after = agent.status()?.work;
    let changes = (after.changes - before.changes).max(1);
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let per_change = (after.writes - before.writes) as f64 / changes as f64;
    round.writes_per_change = per_change;
    Ok(())
}

/// Changes services in turn, [`CHANGES_PER_S`] in a second, until it is over.
fn background(server: &ApiServer, is_over: &AtomicBool) -> anyhow::Result<()> {
    let started = Instant::now();
    for change in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let service = change % (SERVICES_COUNT - 1);
        server.apply(SLICES, vec![toggled(service, phase(change / (SERVICES_COUNT - 1)))])?;
        let next = Duration::from_secs(1) * u32::try_from(change + 1)? / CHANGES_PER_S;
        pause(next.saturating_sub(started.elapsed()));
    }
    Ok(())
}

/// Replaces every pod of the large service, some at a time; from the last event to the map.
fn roll_over(server: &ApiServer, maps: &Maps) -> anyhow::Result<f64> {
    let id = service_id(maps, &cluster::balanced_name(SERVICES_COUNT))?;
    let old = ready(SERVICES_COUNT * ENDPOINTS, LARGE_ENDPOINTS);
    let new = ready(SERVICES_COUNT * ENDPOINTS + LARGE_ENDPOINTS, LARGE_ENDPOINTS);
    // The last step is the one that is timed: its new pods are ready and the last old ones gone.
    for step in (SURGE..LARGE_ENDPOINTS).step_by(SURGE) {
        let leaving = old[step - SURGE..step]
            .iter()
            .map(|endpoint| Endpoint { phase: Phase::Terminating, ..*endpoint });
        let mixed: Vec<Endpoint> =
            new[..step].iter().copied().chain(leaving).chain(old[step..].iter().copied()).collect();
        server.apply(SLICES, large(&mixed))?;
        pause(Duration::from_millis(100));
    }
    let was = maps.services.get(&id, 0)?.0.generation;
    let sent = Instant::now();
    // The sixth slice of the surge empties with the last old pods.
    let mut slices = large(&new);
    slices.push(cluster::slice(SERVICES_COUNT, LARGE_ENDPOINTS / SLICE_ENDPOINTS, &[]));
    server.apply(SLICES, slices)?;
    wait_for("the end of the rollout", || {
        Ok((maps.services.get(&id, 0)?.0.generation != was).then_some(()))
    })?;
    Ok(sent.elapsed().as_secs_f64() * 1e3)
}

fn cpu_percent(agent: &Agent, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let (before, started) = (agent.cpu_s()?, Instant::now());
    work()?;
    Ok((agent.cpu_s()? - before) / started.elapsed().as_secs_f64() * 100.0)
}

/// Waits; benchmarks measure time, and there is no event at its end.
fn pause(time: Duration) {
    let _ = ppoll(&mut [], Some(TimeSpec::from_duration(time)), None);
}

#[expect(clippy::cast_precision_loss, reason = "bytes far below 2^52")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
