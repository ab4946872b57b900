//! What an established connection pays: RPC latency and processor time of a connection that is balanced, of
//! one whose frames are followed, and of one through a proxy, each against a direct one; beside a second
//! direct one that shows the noise, and a bystander in a pod whose packets are seen.

use anyhow::Context;
use balancer_agent::datapath::{
    http2::{self, Attachment},
    netns,
};
use balancer_tests::{
    bench::{
        self, LIMITS, Settings,
        figure::{Figure, Unit},
        proxy::Proxy,
        statistics::{interleaved, ratios},
    },
    cluster::network::Network,
    fixture::{Fixture, service::ServiceSpec},
    grpc::{load::LoadPlan, pod::PodCommand, process::PodProcess, server::EchoServer},
};
use nix::sys::resource::{UsageWho, getrusage};
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

const ROUNDS: usize = 14;
const SLICE_MS: u64 = 1_000;
/// Connections, streams, and bytes of a payload.
const SHAPES: [(u32, u32, usize); 4] = [(1, 1, 100), (8, 16, 100), (1, 1, 10_240), (8, 16, 10_240)];
const BAR: f64 = 1.03;
/// Smallest part of a direct connection's calls.
const THROUGHPUT_MIN: f64 = 0.97;
/// The server's address, as pods reach it.
const SERVER: &str = "10.99.0.1:50051";

/// The connections that are compared, in the order of their slices.
const VARIANTS: [&str; 6] =
    ["direct", "balanced", "followed", "proxied", "bystander", "control: direct"];

/// One slice of load: the median and the 99th percentile of the latency, processor time of client, server and
/// proxy per call, and calls.
#[derive(Clone, Copy)]
struct Slice {
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
    calls: f64,
}

/// Where a variant's client is, and what it dials.
#[derive(Clone)]
struct Variant {
    pod: Option<PathBuf>,
    netns: PathBuf,
    target: SocketAddr,
}

fn main() -> ExitCode {
    bench::main("rpc", measure)
}

fn measure(settings: Settings) -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut fixture = Fixture::with_limits("bench-rpc", LIMITS)?;
    http2::install(fixture.loaded(), fixture.world().pins())?;
    let server: SocketAddr = SERVER.parse()?;
    fixture.world().add_address(server.ip())?;
    let server = runtime.block_on(EchoServer::start("server", server))?;
    let proxy = Proxy::start(fixture.world(), server.address())?;
    let (balanced, followed) = ("10.96.0.1:80".parse()?, "10.96.0.2:80".parse()?);
    fixture.serve(ServiceSpec::new(balanced, [server.address()]))?;
    fixture.serve(ServiceSpec { http2: true, ..ServiceSpec::new(followed, [server.address()]) })?;
    let network = Network::new()?;
    let (untapped, seen) = (network.connect()?, network.connect()?);
    let pins = fixture.world().pins();
    netns::within(&seen.path(), || {
        http2::tap(pins, "eth0", Attachment::Best).map_err(io::Error::other)
    })?;
    let pod = fixture.world().pod("pod")?;
    let variant = |pod: Option<&PathBuf>, netns: PathBuf, target| Variant {
        pod: pod.cloned(),
        netns,
        target,
    };
    let variants = [
        variant(None, untapped.path(), server.address()),
        variant(Some(&pod), untapped.path(), balanced),
        variant(Some(&pod), seen.path(), followed),
        variant(None, untapped.path(), proxy.address),
        variant(None, seen.path(), server.address()),
        variant(None, untapped.path(), server.address()),
    ];
    let log = fixture.world().runtime().join("clients.log");
    let mut figures = Vec::new();
    for (connections, streams, payload_bytes) in SHAPES {
        let slices = interleaved(VARIANTS.len(), settings.rounds(ROUNDS), |index| {
            let Variant { pod, netns, target } = variants[index].clone();
            let plan =
                LoadPlan { target, connections, streams, rate: None, payload_bytes, held: 0 };
            let command = PodCommand::Client { pod, netns: Some(netns), plan };
            runtime.block_on(slice(&command, &proxy, &log))
        })?;
        let shape = format!("{connections}x{streams}, {payload_bytes} B");
        figures.extend(compare(&shape, &slices));
    }
    Ok(figures)
}

fn compare(shape: &str, slices: &[Vec<Slice>]) -> Vec<Figure> {
    let of = |index: usize, field: fn(&Slice) -> f64| -> Vec<f64> {
        slices[index].iter().map(field).collect()
    };
    let micros = |what: &str, values: &[f64]| {
        Figure::new(format!("{shape}: {what}"), Unit::Microseconds, values)
    };
    let mut figures = vec![
        micros("direct, p50", &of(0, |it| it.p50_us)),
        micros("direct, p99", &of(0, |it| it.p99_us)),
        micros("direct, CPU per call", &of(0, |it| it.cpu_us)),
    ];
    for (index, name) in VARIANTS.iter().enumerate().skip(1) {
        let has_bar = ["balanced", "followed"].contains(name);
        let mut add = |what: &str, field: fn(&Slice) -> f64, is_barred: bool| {
            let ratios = ratios(&of(index, field), &of(0, field));
            let figure =
                Figure::new(format!("{shape}: {what}, {name} / direct"), Unit::Ratio, &ratios);
            figures.push(if is_barred && has_bar { figure.at_most(BAR) } else { figure });
        };
        add("p50", |it| it.p50_us, true);
        add("p99", |it| it.p99_us, false);
        add("CPU", |it| it.cpu_us, true);
        // Of the best slice of each: what noise does not reach.
        let best = |index: usize, field: fn(&Slice) -> f64| {
            of(index, field).into_iter().fold(f64::INFINITY, f64::min)
        };
        let ratio = best(index, |it| it.cpu_us) / best(0, |it| it.cpu_us);
        let text = format!("{shape}: CPU, best of {name} / best of direct");
        figures.push(Figure::new(text, Unit::Ratio, &[ratio]));
        let calls = ratios(&of(0, |it| it.calls), &of(index, |it| it.calls));
        let text = format!("{shape}: time for as many calls, {name} / direct");
        let figure = Figure::new(text, Unit::Ratio, &calls);
        figures.push(if has_bar { figure.at_most(1.0 / THROUGHPUT_MIN) } else { figure });
    }
    figures
}

async fn slice(command: &PodCommand, proxy: &Proxy, log: &Path) -> anyhow::Result<Slice> {
    let own = std::env::current_exe().context("find the own binary")?;
    let mut client = PodProcess::start("bench", &own, command, log).await?;
    client.dial().await?;
    client.connected().await?;
    let before_us = cpu_us()? + proxy.cpu_us()?;
    tokio::time::sleep(Duration::from_millis(SLICE_MS)).await;
    let tally = client.stop().await?;
    anyhow::ensure!(tally.failed() == 0, "calls failed: {:?}", tally.failures);
    let used_us = tally.cpu_us + cpu_us()? + proxy.cpu_us()? - before_us;
    #[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds far below 2^52")]
    let (used_us, calls, p50_us, p99_us) = (
        used_us as f64,
        tally.replied() as f64,
        tally.quantile_ns(0.5) as f64 / 1e3,
        tally.quantile_ns(0.99) as f64 / 1e3,
    );
    Ok(Slice { p50_us, p99_us, cpu_us: used_us / calls.max(1.0), calls })
}

/// Processor time of this process, which is the server, so far.
fn cpu_us() -> anyhow::Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("read the processor time")?;
    let (user, system) = (usage.user_time(), usage.system_time());
    let us = (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec();
    Ok(u64::try_from(us)?)
}
