//! What the balancer adds to `connect()`: hits, with and without tracking, and misses, against the
//! same process outside of the balanced cgroup.

use balancer_agent::datapath::sys::AttachType;
use balancer_tests::{
    bench::{
        self, LIMITS, Settings,
        beside::CgroupBeside,
        figure::{Figure, Unit},
        statistics::{interleaved, quantile, ratios},
        timed::{Batch, Client, Listener, Listening, TimedDialer},
    },
    fixture::{Fixture, service::ServiceSpec},
    foreign::{Act, ForeignProgram},
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
};

const ROUNDS: usize = 60;
const CONNECTS: usize = 2_000;

struct Variant {
    what: &'static str,
    cgroup: PathBuf,
    to: SocketAddr,
    bars: Option<(f64, f64)>,
}

fn main() -> ExitCode {
    bench::main("connect", run)
}

fn run(settings: Settings) -> anyhow::Result<Vec<Figure>> {
    let mut fixture = Fixture::with_limits("bench-connect", LIMITS)?;
    let mut dialer = TimedDialer::start()?;
    let rounds = settings.rounds(ROUNDS);
    let null_connect = CgroupBeside::new(fixture.world(), "null-connect")?;
    let null_both = CgroupBeside::new(fixture.world(), "null-both")?;
    let _programs = [
        ForeignProgram::attach(null_connect.path(), AttachType::Connect4, Act::LetBy)?,
        ForeignProgram::attach(null_both.path(), AttachType::Connect4, Act::LetBy)?,
        ForeignProgram::attach(null_both.path(), AttachType::SockOps, Act::LetBy)?,
    ];
    let nulls = [null_connect.path(), null_both.path()];
    let Listening { behind_veth, served, v4, .. } = dialer.listening;
    let paths = [
        ("veth, as gRPC dials", Listener::BehindVeth, behind_veth, Client::Tokio),
        ("veth", Listener::BehindVeth, behind_veth, Client::Blocking),
        ("loopback, server waits in accept()", Listener::Served, served, Client::Blocking),
        ("loopback", Listener::Own, v4, Client::Blocking),
    ];
    let mut figures = Vec::new();
    for (nth, (path, at, direct, by)) in (0_u8..).zip(paths) {
        let variants = variants(&mut fixture, direct, nulls, 2 * nth)?;
        let batch = |variant: &Variant| Batch {
            cgroup: variant.cgroup.clone(),
            to: variant.to,
            connects: CONNECTS,
            asks_peer: false,
            at,
            by,
        };
        figures.extend(compare(&mut dialer, path, &variants, batch, rounds)?);
    }
    Ok(figures)
}

fn compare(
    dialer: &mut TimedDialer,
    path: &str,
    variants: &[Variant],
    batch: impl Fn(&Variant) -> Batch,
    rounds: usize,
) -> anyhow::Result<Vec<Figure>> {
    let mut batch = |variant: &Variant| dialer.time(&batch(variant));
    for variant in variants {
        batch(variant)?;
    }
    let times = interleaved(variants.len(), rounds, |index| {
        let times = batch(&variants[index])?;
        Ok((quantile(&times, 0.5), quantile(&times, 0.99)))
    })?;
    let p50 = |index: usize| -> Vec<f64> { times[index].iter().map(|(p50, _)| *p50).collect() };
    let p99 = |index: usize| -> Vec<f64> { times[index].iter().map(|(_, p99)| *p99).collect() };
    let micros = |nanos: Vec<f64>| -> Vec<f64> { nanos.iter().map(|ns| ns / 1e3).collect() };
    let mut figures = vec![
        Figure::new(format!("{path}: direct, p50"), Unit::Microseconds, &micros(p50(0))),
        Figure::new(format!("{path}: direct, p99"), Unit::Microseconds, &micros(p99(0))),
    ];
    for (index, Variant { what, bars, .. }) in variants.iter().enumerate().skip(1) {
        let quantiles = [("p50", p50(index), p50(0)), ("p99", p99(index), p99(0))];
        for (nth, (name, own, base)) in quantiles.into_iter().enumerate() {
            let what = format!("{path}: {what}, {name}");
            let figure = Figure::new(what, Unit::Ratio, &ratios(&own, &base));
            let bar = bars.map(|bars| [bars.0, bars.1][nth]);
            figures.push(match bar {
                Some(bar) => figure.at_most(bar),
                None => figure,
            });
        }
    }
    Ok(figures)
}

/// The first is what the others are compared with. `used` is how many frontends there are already.
fn variants(
    fixture: &mut Fixture,
    direct: SocketAddr,
    [null_connect, null_both]: [&Path; 2],
    used: u8,
) -> anyhow::Result<Vec<Variant>> {
    let vip = |last| SocketAddr::new(Ipv4Addr::new(10, 96, 0, used + last).into(), 80);
    let (tracked, untracked) = (vip(1), vip(2));
    fixture.serve(ServiceSpec::new(tracked, [direct]))?;
    fixture.serve(ServiceSpec { tracked: false, ..ServiceSpec::new(untracked, [direct]) })?;
    let pod = fixture.world().pod("pod")?;
    let outside = outside(fixture)?;
    let variant =
        |what, cgroup: &Path, to, bars| Variant { what, cgroup: cgroup.to_owned(), to, bars };
    Ok(vec![
        variant("direct", &outside, direct, None),
        variant("hit, tracked / direct", &pod, tracked, Some((1.05, 1.2))),
        variant("hit, untracked / direct", &pod, untracked, Some((1.03, 1.2))),
        variant("miss / direct", &pod, direct, Some((1.05, 1.2))),
        variant("null program in connect4 / direct", null_connect, direct, None),
        variant("null programs in connect4 and sock_ops / direct", null_both, direct, None),
        variant("control: direct / direct", &outside, direct, None),
    ])
}

/// The cgroup around the balanced one, in which no program of ours runs.
fn outside(fixture: &Fixture) -> anyhow::Result<PathBuf> {
    let parent = fixture.world().cgroup().parent();
    parent.map(PathBuf::from).ok_or_else(|| anyhow::anyhow!("the balanced cgroup has no parent"))
}
