//! What every supported kernel must pass: load, attach, balance, replace, let go. The only program
//! of a guest of `cargo xtask test-kernels`; prints one line `RESULT {…}` for it.

use anyhow::{Context, bail, ensure};
use balancer_agent::{
    core::{
        Core,
        event::{Event, Source},
        model::{
            BackendSource, Endpoint, EndpointState, FrontendSource, Keepalive, Policy, Service,
            ServiceName,
        },
        pods::{
            PodUid,
            cgroup_path::{Driver, PodCgroup, QosClass},
            registry::PodWrite,
        },
        write::Limits,
    },
    datapath::{
        bpffs::PinRoot,
        cgroup,
        hooks::{self, Taken},
        http2::{self, Attachment},
        loader::{self, Loaded},
    },
    sources::pods::scan::{Places, scan},
};
use balancer_common::{
    hierarchy::{Hierarchy, SEARCH_LEVELS_MAX},
    pod::Skip,
    reason::Reason,
};
use balancer_tests::{backend::Backend, pings, verified};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    num::NonZeroU32,
    path::Path,
    process::ExitCode,
    time::Duration,
};

const LIMITS: Limits = Limits {
    services: 64,
    backends: 1_024,
    frontends: 256,
    chunks: 1_024,
    flows: 1_024,
    pod_services: 1_024,
};
const PORT: u16 = 50_051;
const BACKENDS: u8 = 4;
/// The frontend and the backend of the service whose connections are followed.
const FOLLOWED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 96, 1, 0)), PORT);
const ANSWERING: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 20)), PORT);
const DIALS: usize = 32;
const DIAL_S_MAX: u64 = 10;
const USER_TIMEOUT_MS: u32 = 20_000;

/// What the host reads.
#[derive(Debug, Default, Serialize)]
struct Smoke {
    loads: bool,
    attaches: bool,
    balanced: bool,
    /// Whether a connection has moved; unknown where none can be.
    moved: Option<bool>,
    degraded: Vec<String>,
    toolchain: String,
    verified: BTreeMap<String, u32>,
    error: Option<String>,
}

fn main() -> ExitCode {
    let mut smoke = Smoke::default();
    if let Err(error) = run(&mut smoke) {
        smoke.error = Some(format!("{error:#}"));
    }
    match serde_json::to_string(&smoke) {
        Ok(line) => println!("RESULT {line}"),
        Err(error) => eprintln!("{error}"),
    }
    ExitCode::from(u8::from(smoke.error.is_some()))
}

fn run(smoke: &mut Smoke) -> anyhow::Result<()> {
    // Kernels before 5.11 charge maps to RLIMIT_MEMLOCK.
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    let pins = PinRoot::new("/sys/fs/bpf/balancer");
    pins.create()?;
    let mut loaded = loader::load(&pins, &LIMITS, 0)?;
    smoke.loads = true;
    smoke.degraded.clone_from(&loaded.report.degraded);
    let cgroup = cgroup::root()?;
    hooks::attach(&mut loaded, &pins, &cgroup)?;
    smoke.attaches = true;

    let backends = (2..2 + BACKENDS)
        .map(|host| Backend::start(SocketAddr::new(Ipv4Addr::new(127, 0, 0, host).into(), PORT)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    pings::serve(ANSWERING)?;
    declare(&mut loaded, &addresses)?;
    for policy in Policy::ALL {
        check_spread(policy, vip(policy))?;
    }
    check_mapped(vip(Policy::RoundRobin))?;
    check_options(vip(Policy::RoundRobin))?;
    check_pod(&mut loaded, &cgroup, vip(Policy::RoundRobin))?;
    ensure!(
        dial(SocketAddr::new(Ipv4Addr::new(127, 1, 0, 1).into(), PORT)).is_err(),
        "a dial of no frontend must go where the application asked, where nobody listens"
    );
    check_counts(&loaded)?;
    if !loaded.http2.is_empty() {
        smoke.moved = Some(false);
        http2::install(&loaded, &pins)?;
        http2::tap(&pins, "lo", Attachment::Best)?;
        pings::check_move(&loaded, FOLLOWED).context("move a connection")?;
        smoke.moved = Some(true);
    }

    let mut again = loader::load(&pins, &LIMITS, 0).context("load beside running programs")?;
    let run = verified::run(&mut again)?;
    (smoke.toolchain, smoke.verified) = (run.toolchain, run.counts);
    let taken = hooks::attach(&mut again, &pins, &cgroup)?;
    ensure!(
        taken.iter().all(|(_, how)| *how == Taken::Replaced),
        "programs must be replaced in place, not {taken:?}"
    );
    check_spread(Policy::RoundRobin, vip(Policy::RoundRobin)).context("after the replacement")?;
    drop((loaded, again));
    check_spread(Policy::RoundRobin, vip(Policy::RoundRobin)).context("without a loader")?;
    pins.remove()?;
    ensure!(dial(vip(Policy::RoundRobin)).is_err(), "unloaded programs must not balance");
    smoke.balanced = true;
    Ok(())
}

/// Each policy has a frontend of its own. Loopback, so that nothing leaves the guest.
fn vip(policy: Policy) -> SocketAddr {
    let [.., code] = policy.code().to_be_bytes();
    SocketAddr::new(Ipv4Addr::new(127, 96, 0, code).into(), PORT)
}

fn declare(loaded: &mut Loaded, backends: &[SocketAddr]) -> anyhow::Result<()> {
    let seconds = |seconds| NonZeroU32::new(seconds).context("zero seconds");
    let keepalive =
        Keepalive { idle_s: seconds(10)?, interval_s: seconds(5)?, probes: seconds(3)? };
    let mut services = Vec::new();
    for policy in Policy::ALL {
        let backends = backends.iter().map(|address| {
            let state = EndpointState::Active;
            BackendSource::Fixed(Endpoint { address: *address, weight: 1, state })
        });
        services.push(Service {
            name: ServiceName::new(policy.name())?,
            frontends: [FrontendSource::Fixed(vip(policy))].into(),
            backends: backends.collect(),
            policy,
            affinity_s: None,
            tracked: true,
            ejects: true,
            http2: false,
            user_timeout_ms: NonZeroU32::new(USER_TIMEOUT_MS),
            keepalive: Some(keepalive),
            drain_timeout_s: None,
            move_patience_ms: Some(500),
        });
    }
    if let Some(first) = services.first() {
        let state = EndpointState::Active;
        let backend = Endpoint { address: ANSWERING, weight: 1, state };
        services.push(Service {
            name: ServiceName::new("followed")?,
            frontends: [FrontendSource::Fixed(FOLLOWED)].into(),
            backends: [BackendSource::Fixed(backend)].into(),
            http2: true,
            ..first.clone()
        });
    }
    let mut core = Core::new(LIMITS, 0, [Source::File]);
    core.adopt(&loaded.maps.read_state()?);
    core.observe(Event::Snapshot { source: Source::File, services });
    while let Some(change) = core.plan() {
        for write in &change.writes {
            loaded.maps.write(write)?;
        }
        let landed = change.writes.len();
        core.applied(change, landed);
    }
    let differences = core.differences(&loaded.maps.read_state()?);
    ensure!(differences.is_empty(), "the maps are not as planned: {differences:?}");
    Ok(())
}

/// Dials and returns the connection with what its backend said.
fn dial(to: SocketAddr) -> anyhow::Result<(TcpStream, SocketAddr)> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(DIAL_S_MAX))?;
    stream.set_read_timeout(Some(Duration::from_secs(DIAL_S_MAX)))?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let backend = line.trim().parse().with_context(|| format!("the backend said `{line}`"))?;
    Ok((stream, backend))
}

fn check_spread(policy: Policy, vip: SocketAddr) -> anyhow::Result<()> {
    let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    let mut open = Vec::new();
    for _ in 0..DIALS {
        let (stream, backend) = dial(vip).with_context(|| format!("dial {vip}"))?;
        ensure!(
            stream.peer_addr()? == vip,
            "getpeername() must show {vip}, not {}",
            stream.peer_addr()?
        );
        *counts.entry(backend).or_default() += 1;
        open.push(stream);
    }
    let fair = DIALS / usize::from(BACKENDS);
    let as_expected = match policy {
        Policy::RoundRobin | Policy::LeastConnection | Policy::LeastRequest => {
            counts.len() == usize::from(BACKENDS) && counts.values().all(|count| *count == fair)
        }
        // Fails once in 10^17 runs: 32 random picks all from one of 4.
        Policy::Random => counts.len() > 1,
        Policy::Maglev => counts.len() == 1,
    };
    if !as_expected {
        bail!("{}: {DIALS} connections were spread as {counts:?}", policy.name());
    }
    Ok(())
}

/// C-core dials IPv4 frontends from AF_INET6 sockets.
fn check_mapped(vip: SocketAddr) -> anyhow::Result<()> {
    let IpAddr::V4(v4) = vip.ip() else { bail!("{vip} is no IPv4 frontend") };
    if !Path::new("/proc/net/if_inet6").exists() {
        return Ok(());
    }
    let mapped = SocketAddr::new(v4.to_ipv6_mapped().into(), vip.port());
    let (stream, _) = dial(mapped).with_context(|| format!("dial {mapped}"))?;
    let peer = stream.peer_addr()?;
    ensure!(peer == mapped, "getpeername() must show {mapped}, not {peer}");
    Ok(())
}

fn check_options(vip: SocketAddr) -> anyhow::Result<()> {
    use nix::sys::socket::{getsockopt, sockopt};
    let (stream, _) = dial(vip)?;
    let user_timeout_ms = getsockopt(&stream, sockopt::TcpUserTimeout)?;
    ensure!(user_timeout_ms == USER_TIMEOUT_MS, "TCP_USER_TIMEOUT is {user_timeout_ms} ms");
    ensure!(getsockopt(&stream, sockopt::KeepAlive)?, "keepalive is off");
    ensure!(getsockopt(&stream, sockopt::TcpKeepIdle)? == 10, "TCP_KEEPIDLE is not 10 s");
    Ok(())
}

/// A client in a container is told by its pod, and left alone when that is skipped.
fn check_pod(loaded: &mut Loaded, root: &Path, vip: SocketAddr) -> anyhow::Result<()> {
    let uid = PodUid::new("7d4b9ac4-7c4a-4a9c-8d4a-1f7b0c6e0a51").context("a pod's UID")?;
    let pod = PodCgroup { uid, qos: QosClass::Burstable };
    let pod_path = root.join(pod.path(Driver::Systemd, &[]));
    let container = pod_path.join("cri-containerd-c0ffee.scope");
    fs::create_dir_all(&container)?;
    let places = Places { root: root.into(), balanced: root.into() };
    let hierarchy = scan(&places, None)?.cgroups.hierarchy;
    let pod = cgroup::id(&pod_path)?;
    let enter = |cgroup: &Path| fs::write(cgroup.join("cgroup.procs"), "0");
    enter(&container).context("enter a container's cgroup")?;
    for search_levels in [0, SEARCH_LEVELS_MAX] {
        let hierarchy = Hierarchy { search_levels, ..hierarchy };
        loaded.maps.write_pod(PodWrite::Hierarchy(hierarchy))?;
        let dialled = dial(vip)?;
        let flows = loaded.maps.read_flows()?;
        ensure!(
            flows.values().any(|flow| flow.pod == pod),
            "no connection is of the pod with cgroup {pod}, but {:?}",
            flows.values().map(|flow| flow.pod).collect::<Vec<_>>()
        );
        drop(dialled);
    }
    loaded.maps.write_pod(PodWrite::Skip { pod, skip: Skip::OPTED_OUT })?;
    loaded.maps.write_pod(PodWrite::Hierarchy(Hierarchy { skipping: 1, ..hierarchy }))?;
    ensure!(dial(vip).is_err(), "a skipped pod's dial must go where the application asked");
    let reasons = loaded.maps.read_reasons()?;
    ensure!(reasons[&Reason::PodOptedOut] == 1, "the skipped dial was not counted");
    loaded.maps.write_pod(PodWrite::Hierarchy(Hierarchy::default()))?;
    enter(root).context("leave the container's cgroup")
}

/// All connections are closed by now: nothing is active, and everything was counted.
fn check_counts(loaded: &Loaded) -> anyhow::Result<()> {
    let (mut active, mut established) = (0, 0);
    for id in loaded.maps.read_state()?.backends.keys() {
        let stats = loaded.maps.read_backend_stats(*id)?;
        active += stats.active;
        established += stats.established;
    }
    ensure!(active == 0, "{active} connections are still counted as active");
    let least = (DIALS * Policy::ALL.len()) as u64;
    ensure!(established >= least, "only {established} of {least} connections were counted");
    Ok(())
}
