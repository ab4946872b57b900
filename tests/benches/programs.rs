//! Nanoseconds per run of each kernel program, by the kernel's own statistics, beside a program of
//! two instructions: the statistics themselves take time, and so does entering any program.

use aya::sys::{Stats, enable_stats};
use balancer_agent::datapath::sys::AttachType;
use balancer_common::service::{
    POLICY_LEAST_CONNECTION, POLICY_MAGLEV, POLICY_RANDOM, POLICY_ROUND_ROBIN, policy_name,
};
use balancer_tests::{
    bench::{
        self, LIMITS, Settings,
        beside::CgroupBeside,
        figure::{Figure, Unit},
        statistics::interleaved,
        timed::{Batch, Client, Listener, TimedDialer},
    },
    fixture::{Fixture, service::ServiceSpec},
    foreign::{Act, ForeignProgram},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
};

const ROUNDS: usize = 20;
const CONNECTS: usize = 2_000;
const BACKENDS: u8 = 4;

const FOLLOWERS: [&str; 3] = ["socket_released", "tcp_events", "getpeername4"];

/// One kind of dial, and the program that it is about.
struct Case {
    what: String,
    program: &'static str,
    to: SocketAddr,
    bar_ns: Option<f64>,
    /// Also reported of the programs that follow the connection.
    is_followed: bool,
}

fn main() -> ExitCode {
    bench::main("programs", run)
}

fn run(settings: Settings) -> anyhow::Result<Vec<Figure>> {
    let mut fixture = Fixture::with_limits("bench-programs", LIMITS)?;
    let mut dialer = TimedDialer::start()?;
    let cases = cases(&mut fixture, dialer.listening.v4, dialer.listening.v6)?;
    let pod = fixture.world().pod("pod")?;
    let null_cgroup = CgroupBeside::new(fixture.world(), "null")?;
    let null_cgroup = null_cgroup.path();
    let null = ForeignProgram::attach(null_cgroup, AttachType::Connect4, Act::LetBy)?;
    let _statistics = enable_stats(Stats::RunTime)?;
    let batch = |cgroup: &Path, to| Batch {
        cgroup: cgroup.to_owned(),
        to,
        connects: CONNECTS,
        asks_peer: true,
        at: Listener::Own,
        by: Client::Blocking,
    };
    let direct = dialer.listening.v4;
    let runs = interleaved(cases.len() + 1, settings.rounds(ROUNDS), |index| {
        let Some(case) = cases.get(index) else {
            let before = null.runs()?;
            dialer.time(&batch(null_cgroup, direct))?;
            return Ok(vec![per_run(before, null.runs()?)]);
        };
        let programs: Vec<&str> = std::iter::once(case.program).chain(FOLLOWERS).collect();
        let read = |fixture: &Fixture| -> anyhow::Result<Vec<(u64, u64)>> {
            programs.iter().map(|name| fixture.runs(name)).collect()
        };
        let before = read(&fixture)?;
        dialer.time(&batch(&pod, case.to))?;
        let after = read(&fixture)?;
        Ok(before.into_iter().zip(after).map(|(before, after)| per_run(before, after)).collect())
    })?;
    let null: Vec<f64> = runs[cases.len()].iter().map(|round| round[0]).collect();
    Ok(figures(&cases, &runs, &null))
}

fn figures(cases: &[Case], runs: &[Vec<Vec<f64>>], null: &[f64]) -> Vec<Figure> {
    let mut figures = vec![Figure::new("null program", Unit::Nanoseconds, null)];
    for (case, rounds) in cases.iter().zip(runs) {
        let of =
            |program: usize| -> Vec<f64> { rounds.iter().map(|round| round[program]).collect() };
        let net = |runs: &[f64]| -> Vec<f64> {
            let net = runs.iter().zip(null).map(|(run, null)| run - null);
            net.collect()
        };
        let figure = Figure::new(&case.what, Unit::Nanoseconds, &of(0));
        figures.push(match case.bar_ns {
            Some(bar) => figure.at_most(bar),
            None => figure,
        });
        let text = format!("{}, net of the null program", case.what);
        figures.push(Figure::new(text, Unit::Nanoseconds, &net(&of(0))));
        if !case.is_followed {
            continue;
        }
        for (index, program) in FOLLOWERS.iter().enumerate() {
            let text = format!("{program}, of {}", case.what);
            figures.push(Figure::new(text, Unit::Nanoseconds, &of(index + 1)));
        }
        let both: Vec<f64> = of(0).iter().zip(of(1)).map(|(made, let_go)| made + let_go).collect();
        let text = format!("{} and its release", case.what);
        figures.push(Figure::new(&text, Unit::Nanoseconds, &both));
        let twice: Vec<f64> = null.iter().map(|null| 2.0 * null).collect();
        let both: Vec<f64> = both.iter().zip(&twice).map(|(both, twice)| both - twice).collect();
        let text = format!("{text}, net of two null programs");
        figures.push(Figure::new(text, Unit::Nanoseconds, &both).at_most(600.0));
    }
    figures
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn per_run(before: (u64, u64), after: (u64, u64)) -> f64 {
    let (runs, ns) = (after.0 - before.0, after.1 - before.1);
    ns as f64 / runs.max(1) as f64
}

fn cases(fixture: &mut Fixture, v4: SocketAddr, v6: SocketAddr) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut vip = 0;
    // Several backends, of which each is the same listener under another address.
    let backends: Vec<SocketAddr> = (1..=BACKENDS)
        .map(|host| SocketAddr::new(Ipv4Addr::new(127, 0, 0, host).into(), v4.port()))
        .collect();
    let mut serve = |spec: ServiceSpec| -> anyhow::Result<SocketAddr> {
        let frontend = spec.frontends[0];
        fixture.serve(spec)?;
        Ok(frontend)
    };
    let mut next_vip = || {
        vip += 1;
        SocketAddr::new(Ipv4Addr::new(10, 96, 0, vip).into(), 80)
    };
    for tracked in [false, true] {
        for policy in [POLICY_ROUND_ROBIN, POLICY_RANDOM, POLICY_LEAST_CONNECTION, POLICY_MAGLEV] {
            if policy == POLICY_LEAST_CONNECTION && !tracked {
                continue;
            }
            let is_first = policy == POLICY_ROUND_ROBIN;
            let spec = ServiceSpec {
                policy,
                tracked,
                ..ServiceSpec::new(next_vip(), backends.iter().copied())
            };
            let kind = if tracked { "tracked" } else { "untracked" };
            cases.push(Case {
                what: format!("connect4 hit, {kind}, {}", policy_name(policy)),
                program: "connect4",
                to: serve(spec)?,
                bar_ns: Some(if tracked { 600.0 } else { 250.0 }),
                is_followed: tracked && is_first,
            });
        }
    }
    let other = |what: &str, program, to, bar_ns| Case {
        what: what.to_owned(),
        program,
        to,
        bar_ns,
        is_followed: false,
    };
    cases.push(other("connect4 miss", "connect4", v4, Some(130.0)));
    let mapped_vip = next_vip();
    let IpAddr::V4(dialled_ip) = serve(ServiceSpec::new(mapped_vip, [v4]))?.ip() else {
        anyhow::bail!("{mapped_vip} is no IPv4 frontend");
    };
    let mapped = SocketAddr::new(dialled_ip.to_ipv6_mapped().into(), mapped_vip.port());
    let v6_vip = serve(ServiceSpec::new("[fd00:96::1]:80".parse()?, [v6]))?;
    cases.push(other("connect6 hit, tracked, IPv4-mapped", "connect6", mapped, Some(600.0)));
    cases.push(other("connect6 hit, tracked, IPv6", "connect6", v6_vip, Some(600.0)));
    cases.push(other("connect6 miss", "connect6", v6, Some(130.0)));
    Ok(cases)
}
