//! What every test of the agent's life needs: a world with backends, a client under way, and the
//! kernel's view of the service.

use anyhow::{Context, ensure};
use balancer_agent::datapath::{
    hooks::{HOOKS, link_info},
    maps::Maps,
    reader::socket_address,
};
use balancer_common::backend::STATE_GONE;
use balancer_tests::{
    backend::Backend,
    dialer::{
        Dialer,
        protocol::{Outcome, Storm},
    },
    world::World,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

/// What clients dial. No route leads there: a connection that is not balanced fails.
pub(crate) const FRONTEND: &str = "10.96.0.1:80";
/// Connects of a storm between two looks at whether it shall end.
const BURST: u32 = 50;
/// Longest wait for a storm to get on.
const STORM_PATIENCE: Duration = Duration::from_mins(1);

/// A world with some backends.
pub(crate) struct Scene {
    pub(crate) backends: Vec<Backend>,
    // Last, so that everything is closed when it is taken down.
    pub(crate) world: World,
}

impl Scene {
    pub(crate) fn new(purpose: &str, backends: usize) -> Self {
        let world = World::new(purpose).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let backends = (0..backends).map(|_| Backend::start(any).unwrap()).collect();
        Self { backends, world }
    }

    /// A configuration of one round-robin service with all backends.
    pub(crate) fn config(&self) -> String {
        Self::config_with(&self.addresses(), 4_096)
    }

    /// The same with these backends and room for so many connections.
    pub(crate) fn config_with(backends: &[SocketAddr], connections: u32) -> String {
        let backends: Vec<_> = backends.iter().map(|it| format!("\"{it}\"")).collect();
        format!(
            "version: 1\n{}services:\n  - name: shop\n    frontends: [\"{FRONTEND}\"]\n    \
             backends: [{}]\n    policy: round-robin\n",
            limits(connections),
            backends.join(", ")
        )
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.backends.iter().map(Backend::address).collect()
    }

    /// A client of its own.
    pub(crate) fn pod(&self, name: &str) -> Dialer {
        Dialer::start(&self.world.pod(name).unwrap()).unwrap()
    }

    /// The kernel's maps, which need no agent.
    pub(crate) fn maps(&self) -> Maps {
        Maps::open_loaded(self.world.pins()).unwrap()
    }

    /// Id and active connections of each backend that the kernel knows.
    pub(crate) fn kernel_backends(&self) -> BTreeMap<SocketAddr, (u32, u64)> {
        let maps = self.maps();
        let backends = maps.read_backends().unwrap();
        let known = backends.iter().filter(|(_, it)| it.state != STATE_GONE);
        known
            .map(|(id, it)| {
                let active = maps.read_backend_stats(*id).unwrap().active;
                (socket_address(it.address, it.port_be), (*id, active))
            })
            .collect()
    }

    /// Active connections of all backends, and how many connections are tracked.
    pub(crate) fn counts(&self) -> (u64, usize) {
        let active = self.kernel_backends().values().map(|(_, it)| it).sum();
        (active, self.maps().read_flows().unwrap().len())
    }

    /// The program of each hook.
    pub(crate) fn programs(&self) -> BTreeMap<&'static str, u32> {
        HOOKS
            .iter()
            .map(|(name, _)| {
                let info = link_info(self.world.pins(), name).unwrap().unwrap();
                assert_ne!(info.cgroup_id, 0, "{name} is attached");
                (*name, info.program_id)
            })
            .collect()
    }

    /// One balanced connection after the other, each closed at once.
    pub(crate) fn assert_balanced(&self, pod: &Dialer) {
        let addresses: BTreeSet<_> = self.addresses().into_iter().collect();
        let reached = reach(pod, addresses.len());
        assert_eq!(reached, addresses);
    }
}

/// Sizes that are made and read in no time.
pub(crate) fn limits(connections: u32) -> String {
    format!(
        "limits: {{services: 16, backends: 64, frontends: 64, slots: 4096, \
         connections: {connections}, pod-services: 256}}\n"
    )
}

/// The servers that so many connections to [`FRONTEND`] reach.
pub(crate) fn reach(pod: &Dialer, connects: usize) -> BTreeSet<SocketAddr> {
    let to = FRONTEND.parse().unwrap();
    (0..connects)
        .map(|_| {
            let dialled = pod.dial(to).unwrap();
            assert_eq!(dialled.errno, 0, "{dialled:?}");
            pod.close(dialled.handle, false).unwrap();
            dialled.reached.unwrap()
        })
        .collect()
}

/// Connects that go on until they are told to end.
pub(crate) struct Weather {
    stop: Arc<AtomicBool>,
    bursts: mpsc::Receiver<()>,
    thread: Option<JoinHandle<anyhow::Result<BTreeMap<SocketAddr, u64>>>>,
}

impl Weather {
    pub(crate) fn start(pod: Dialer) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, bursts) = mpsc::channel();
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || storm(&pod, &stop, &sender)
        });
        let weather = Self { stop, bursts, thread: Some(thread) };
        weather.goes_on();
        weather
    }

    /// Waits until connects that began after this call have succeeded.
    pub(crate) fn goes_on(&self) {
        while self.bursts.try_recv().is_ok() {}
        for _ in 0..2 {
            // An ended storm says by itself why, in `end`.
            let _ = self.bursts.recv_timeout(STORM_PATIENCE);
        }
    }

    /// Ends it; every connect must have succeeded. Returns the connects of each server.
    pub(crate) fn end(mut self) -> BTreeMap<SocketAddr, u64> {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().unwrap();
        thread.join().unwrap().unwrap()
    }
}

impl Drop for Weather {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn storm(
    pod: &Dialer,
    stop: &AtomicBool,
    bursts: &mpsc::Sender<()>,
) -> anyhow::Result<BTreeMap<SocketAddr, u64>> {
    let mut reached = BTreeMap::new();
    while !stop.load(Ordering::SeqCst) {
        let stormed =
            pod.storm(Storm { to: vec![FRONTEND.parse()?], threads: 2, connects: BURST })?;
        for connect in &stormed.connects {
            let Outcome::Server(index) = connect.outcome else {
                let total: u64 = reached.values().sum();
                anyhow::bail!("after {total} connects one was not balanced: {connect:?}");
            };
            let server = stormed.servers.get(index as usize).context("a server")?;
            *reached.entry(*server).or_default() += 1;
        }
        ensure!(!stormed.connects.is_empty(), "an empty burst");
        let _ = bursts.send(());
    }
    Ok(reached)
}
