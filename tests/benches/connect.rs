//! What the balancer adds to `connect()`: hits, with and without tracking, and misses, against the
//! same process outside of the balanced cgroup.

use balancer_tests::{
    bench::{
        self, LIMITS, Settings,
        figure::{Figure, Unit},
        statistics::{interleaved, quantile, ratios},
        timed::{Batch, TimedDialer},
    },
    fixture::{Fixture, service::ServiceSpec},
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
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
    let served = variants(&mut fixture, dialer.listening.served, 0)?;
    let mut figures = compare(&mut dialer, &served, true, rounds)?;
    let bare = variants(&mut fixture, dialer.listening.v4, 2)?;
    figures.extend(compare(&mut dialer, &bare, false, rounds)?);
    Ok(figures)
}

fn compare(
    dialer: &mut TimedDialer,
    variants: &[Variant],
    is_served: bool,
    rounds: usize,
) -> anyhow::Result<Vec<Figure>> {
    let mut batch = |variant: &Variant| {
        dialer.time(&Batch {
            cgroup: variant.cgroup.clone(),
            to: variant.to,
            connects: CONNECTS,
            asks_peer: false,
            is_served,
        })
    };
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
    let server = if is_served { "server waits in accept()" } else { "nobody waits" };
    let mut figures = vec![
        Figure::new(format!("{server}: direct, p50"), Unit::Microseconds, &micros(p50(0))),
        Figure::new(format!("{server}: direct, p99"), Unit::Microseconds, &micros(p99(0))),
    ];
    for (index, Variant { what, bars, .. }) in variants.iter().enumerate().skip(1) {
        let quantiles = [("p50", p50(index), p50(0)), ("p99", p99(index), p99(0))];
        for (nth, (name, own, base)) in quantiles.into_iter().enumerate() {
            let what = format!("{server}: {what}, {name}");
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
fn variants(fixture: &mut Fixture, direct: SocketAddr, used: u8) -> anyhow::Result<Vec<Variant>> {
    let vip = |last| SocketAddr::new(Ipv4Addr::new(10, 96, 0, used + last).into(), 80);
    let (tracked, untracked) = (vip(1), vip(2));
    fixture.serve(ServiceSpec::new(tracked, [direct]))?;
    fixture.serve(ServiceSpec { tracked: false, ..ServiceSpec::new(untracked, [direct]) })?;
    let pod = fixture.world().pod("pod")?;
    let outside = outside(fixture)?;
    let variant =
        |what, cgroup: &PathBuf, to, bars| Variant { what, cgroup: cgroup.clone(), to, bars };
    Ok(vec![
        variant("direct", &outside, direct, None),
        variant("hit, tracked / direct", &pod, tracked, Some((1.05, 1.2))),
        variant("hit, untracked / direct", &pod, untracked, Some((1.03, 1.2))),
        variant("miss / direct", &pod, direct, Some((1.05, 1.2))),
        variant("control: direct / direct", &outside, direct, None),
    ])
}

/// The cgroup around the balanced one, in which no program of ours runs.
fn outside(fixture: &Fixture) -> anyhow::Result<PathBuf> {
    let parent = fixture.world().cgroup().parent();
    parent.map(PathBuf::from).ok_or_else(|| anyhow::anyhow!("the balanced cgroup has no parent"))
}
