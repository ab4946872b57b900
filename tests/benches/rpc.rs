//! What an established connection pays for being balanced: RPC latency and processor time, against
//! a direct connection, beside a second direct one that shows the noise.

use anyhow::Context;
use balancer_tests::{
    bench::{
        self, LIMITS, Settings,
        figure::{Figure, Unit},
        statistics::{interleaved, ratios},
    },
    fixture::{Fixture, service::ServiceSpec},
    grpc::{load::LoadPlan, pod::PodCommand, process::PodProcess, server::EchoServer},
};
use nix::sys::resource::{UsageWho, getrusage};
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

const ROUNDS: usize = 12;
const SLICE_MS: u64 = 1_000;
/// Connections and streams.
const SHAPES: [(u32, u32); 2] = [(1, 1), (8, 16)];
const BAR: f64 = 1.03;

/// One slice of load: the median latency, and the processor time of client and server per call.
struct Slice {
    p50_us: f64,
    cpu_us: f64,
}

fn main() -> ExitCode {
    bench::main("rpc", run)
}

fn run(settings: Settings) -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut fixture = Fixture::with_limits("bench-rpc", LIMITS)?;
    let start = EchoServer::start("server", "127.0.0.1:0".parse()?);
    let server = runtime.block_on(start)?;
    let vip = "10.96.0.1:80".parse()?;
    fixture.serve(ServiceSpec::new(vip, [server.address()]))?;
    let pod = fixture.world().pod("pod")?;
    let log = fixture.world().runtime().join("clients.log");
    let variants: [(Option<PathBuf>, SocketAddr); 3] =
        [(None, server.address()), (Some(pod), vip), (None, server.address())];
    let mut figures = Vec::new();
    for (connections, streams) in SHAPES {
        let slices = interleaved(variants.len(), settings.rounds(ROUNDS), |index| {
            let (pod, target) = variants[index].clone();
            let command = PodCommand::Client {
                netns: None,
                pod,
                plan: LoadPlan {
                    target,
                    connections,
                    streams,
                    rate: None,
                    payload_bytes: 32,
                    held: 0,
                },
            };
            runtime.block_on(slice(&command, &log))
        })?;
        let shape = format!("{connections}x{streams}");
        figures.extend(compare(&shape, &slices));
    }
    drop(server);
    Ok(figures)
}

fn compare(shape: &str, slices: &[Vec<Slice>]) -> Vec<Figure> {
    let p50 = |index: usize| -> Vec<f64> { slices[index].iter().map(|it| it.p50_us).collect() };
    let cpu = |index: usize| -> Vec<f64> { slices[index].iter().map(|it| it.cpu_us).collect() };
    let ratio = |what: &str, values: &[f64], base: &[f64]| {
        Figure::new(format!("{shape}: {what}"), Unit::Ratio, &ratios(values, base))
    };
    let micros = |what: &str, values: &[f64]| {
        Figure::new(format!("{shape}: {what}"), Unit::Microseconds, values)
    };
    vec![
        micros("direct, p50", &p50(0)),
        micros("direct, CPU per call", &cpu(0)),
        ratio("p50, balanced / direct", &p50(1), &p50(0)).at_most(BAR),
        ratio("p50, control: direct / direct", &p50(2), &p50(0)),
        ratio("CPU, balanced / direct", &cpu(1), &cpu(0)).at_most(BAR),
        ratio("CPU, control: direct / direct", &cpu(2), &cpu(0)),
    ]
}

async fn slice(command: &PodCommand, log: &std::path::Path) -> anyhow::Result<Slice> {
    let own = std::env::current_exe().context("find the own binary")?;
    let mut client = PodProcess::start("bench", &own, command, log).await?;
    client.dial().await?;
    client.connected().await?;
    let before_us = cpu_us()?;
    tokio::time::sleep(Duration::from_millis(SLICE_MS)).await;
    let tally = client.stop().await?;
    anyhow::ensure!(tally.failed() == 0, "calls failed: {:?}", tally.failures);
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let per_call = |us: u64| us as f64 / tally.replied().max(1) as f64;
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds far below 2^52")]
    let p50_us = tally.quantile_ns(0.5) as f64 / 1e3;
    Ok(Slice { p50_us, cpu_us: per_call(tally.cpu_us + cpu_us()? - before_us) })
}

/// Processor time of this process, which is the server, so far.
fn cpu_us() -> anyhow::Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("read the processor time")?;
    let (user, system) = (usage.user_time(), usage.system_time());
    let us = (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec();
    Ok(u64::try_from(us)?)
}
