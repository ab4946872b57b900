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
use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

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
    let direct = dialer.listening.v4;
    let variants = variants(&mut fixture, direct)?;
    let mut batch = |variant: &Variant, connects| {
        dialer.time(&Batch {
            cgroup: variant.cgroup.clone(),
            to: variant.to,
            connects,
            asks_peer: false,
        })
    };
    for variant in &variants {
        batch(variant, CONNECTS)?;
    }
    let times = interleaved(variants.len(), settings.rounds(ROUNDS), |index| {
        let times = batch(&variants[index], CONNECTS)?;
        Ok((quantile(&times, 0.5), quantile(&times, 0.99)))
    })?;
    let p50 = |index: usize| -> Vec<f64> { times[index].iter().map(|(p50, _)| *p50).collect() };
    let p99 = |index: usize| -> Vec<f64> { times[index].iter().map(|(_, p99)| *p99).collect() };
    let micros = |nanos: Vec<f64>| -> Vec<f64> { nanos.iter().map(|ns| ns / 1e3).collect() };
    let mut figures = vec![
        Figure::new("direct, p50", Unit::Microseconds, &micros(p50(0))),
        Figure::new("direct, p99", Unit::Microseconds, &micros(p99(0))),
    ];
    for (index, Variant { what, bars, .. }) in variants.iter().enumerate().skip(1) {
        let of_p50 = ratios(&p50(index), &p50(0));
        let of_p99 = ratios(&p99(index), &p99(0));
        let mut pair = [
            Figure::new(format!("{what}, p50"), Unit::Ratio, &of_p50),
            Figure::new(format!("{what}, p99"), Unit::Ratio, &of_p99),
        ];
        if let Some((bar_p50, bar_p99)) = bars {
            pair = [
                pair[0].clone().at_most(*bar_p50),
                pair[1].clone().at_most(*bar_p99),
            ];
        }
        figures.extend(pair);
    }
    Ok(figures)
}

/// The first is what the others are compared with.
fn variants(fixture: &mut Fixture, direct: SocketAddr) -> anyhow::Result<Vec<Variant>> {
    let tracked = "10.96.0.1:80".parse()?;
    let untracked = "10.96.0.2:80".parse()?;
    fixture.serve(ServiceSpec::new(tracked, [direct]))?;
    fixture.serve(ServiceSpec {
        tracked: false,
        ..ServiceSpec::new(untracked, [direct])
    })?;
    let pod = fixture.world().pod("pod")?;
    let outside = outside(fixture)?;
    let variant = |what, cgroup: &PathBuf, to, bars| Variant {
        what,
        cgroup: cgroup.clone(),
        to,
        bars,
    };
    Ok(vec![
        variant("direct", &outside, direct, None),
        variant("hit, tracked / direct", &pod, tracked, Some((1.05, 1.2))),
        variant(
            "hit, untracked / direct",
            &pod,
            untracked,
            Some((1.03, 1.2)),
        ),
        variant("miss / direct", &pod, direct, Some((1.05, 1.2))),
        variant("control: direct / direct", &outside, direct, None),
    ])
}

/// The cgroup around the balanced one, in which no program of ours runs.
fn outside(fixture: &Fixture) -> anyhow::Result<PathBuf> {
    let parent = fixture.world().cgroup().parent();
    parent
        .map(PathBuf::from)
        .ok_or_else(|| anyhow::anyhow!("the balanced cgroup has no parent"))
}
