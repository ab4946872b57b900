//! One run: a world, an agent, maps, clients, and the invariants that hold between them.

use crate::{oracle, world::World};
use balancer_agent::core::{
    Core, Totals,
    event::Source,
    fake::{Connection, FakeDatapath},
    model::ServiceName,
    plan::{Change, ChangeKind},
    write::{Limits, Write},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

const AMPLE: Limits = Limits {
    services: 64,
    backends: 4_096,
    frontends: 256,
    chunks: 8_192,
    flows: 1_024,
    pod_services: 1_024,
};
const TIGHT: Limits = Limits { services: 9, backends: 48, frontends: 9, chunks: 90, ..AMPLE };
const CONNECTIONS_MAX: usize = 64;

pub(crate) struct Storm {
    rng: StdRng,
    world: World,
    core: Core,
    datapath: FakeDatapath,
    limits: Limits,
    connections: Vec<Connection>,
    steps: u32,
    restarts: u32,
    totals: Totals,
    connects: u64,
    swept: u64,
}

impl Storm {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let limits = if rng.random_bool(0.3) { TIGHT } else { AMPLE };
        Self {
            rng,
            world: World::default(),
            core: Core::new(limits, 3, [Source::File]),
            datapath: FakeDatapath::new(limits),
            limits,
            connections: Vec::new(),
            steps: 0,
            restarts: 0,
            totals: Totals::default(),
            connects: 0,
            swept: 0,
        }
    }

    /// Some events, a pass of the agent, some connections, now and then a failure or a restart.
    pub(crate) fn step(&mut self) {
        if self.rng.random_bool(0.02) {
            self.restart();
        }
        for _ in 0..self.rng.random_range(1..8) {
            if let Some(event) = self.world.happen(&mut self.rng) {
                self.core.observe(event);
            }
        }
        let failing = self.rng.random_bool(0.15);
        self.pass(if failing { 0.1 } else { 0.0 });
        self.check();
        self.steps += 1;
        if self.steps.is_multiple_of(16) {
            self.compare();
        }
        self.connect();
        if self.rng.random_bool(0.3) {
            self.sweep(0.02);
        }
        self.core.retry();
    }

    /// Everything becomes known, nothing fails any more: the kernel must be as desired.
    pub(crate) fn calm_down(&mut self) {
        if !self.world.listed
            && let Some(event) = self.world.happen(&mut self.rng)
        {
            self.core.observe(event);
        }
        for event in self.world.resolve_all() {
            self.core.observe(event);
        }
        self.core.retry();
        self.pass(0.0);
        self.check();
        for connection in std::mem::take(&mut self.connections) {
            self.datapath.close(&connection);
        }
        for _ in 0..3 {
            self.sweep(0.0);
            self.core.retry();
            self.pass(0.0);
        }
        self.check();
        self.compare();
        assert!(self.core.plan().is_none(), "nothing is left to do");
        let kernel = self.datapath.read_back();
        let gone = kernel.backends.values().filter(|backend| backend.state == 4).count();
        assert!(gone <= 1, "idle backends that are gone are freed, {gone} are not");
    }

    pub(crate) fn events(&self) -> u64 {
        self.totals.events + self.core.totals().events
    }

    pub(crate) fn statistics(&self) -> String {
        let totals = self.core.totals();
        format!(
            "{} events, {} changes, {} failed, {} refused, {} restarts, {} connects, {} swept",
            self.events(),
            self.totals.changes + totals.changes,
            self.totals.changes_failed + totals.changes_failed,
            self.totals.refusals + totals.refusals,
            self.restarts,
            self.connects,
            self.swept
        )
    }

    pub(crate) fn fingerprint(&self) -> String {
        format!("{:?} {:?} {:?}", self.statistics(), self.datapath.read_back(), self.connections)
    }

    /// Killed, perhaps in the middle of a change, and started anew from what the maps hold.
    fn restart(&mut self) {
        if let Some(change) = self.core.plan() {
            let landed = self.rng.random_range(0..=change.writes.len());
            self.apply(&change, |n| n >= landed);
        }
        let totals = self.core.totals();
        self.totals.events += totals.events;
        self.totals.changes += totals.changes;
        self.totals.changes_failed += totals.changes_failed;
        self.totals.refusals += totals.refusals;
        self.restarts += 1;
        self.core = Core::new(self.limits, 3, [Source::File]);
        self.core.adopt(&self.datapath.read_back());
        self.world.restart();
        let before = self.reachable_everywhere();
        self.pass(0.0);
        assert_eq!(
            before,
            self.reachable_everywhere(),
            "an agent that knows nothing changes nothing"
        );
    }

    fn pass(&mut self, failure_rate: f64) {
        let emptied = self.held_frontends();
        let mut changes = 0;
        while let Some(change) = self.core.plan() {
            changes += 1;
            assert!(changes < 1_000, "planning comes to an end");
            let mut rng = StdRng::seed_from_u64(self.rng.random());
            let landed = self.apply(&change, |_| rng.random_bool(failure_rate));
            self.core.applied(change, landed);
        }
        if self.limits == AMPLE {
            let names = self.names_by_frontend();
            for (frontend, name) in emptied {
                if names.get(&frontend) == Some(&name) {
                    let serves = !self.datapath.reachable(frontend).is_empty();
                    assert!(serves, "{name} was emptied though a set of its is unknown");
                }
            }
        }
    }

    /// Applies a change, looking at every frontend of its service after every single write: each
    /// goes from what it was to what it becomes in one step.
    fn apply(&mut self, change: &Change, mut fails: impl FnMut(usize) -> bool) -> usize {
        let frontends = self.frontends_of(change);
        let mut last: Vec<BTreeSet<SocketAddr>> =
            frontends.iter().map(|f| self.datapath.reachable(*f)).collect();
        let mut steps = vec![0; frontends.len()];
        for (landed, write) in change.writes.iter().enumerate() {
            if fails(landed) {
                return landed;
            }
            if let Err(error) = self.datapath.apply(write) {
                panic!("{error} in {change:#?}");
            }
            // The maps refuse slots that are in force; other writes lead nobody anywhere.
            if !matches!(
                write,
                Write::Service { .. } | Write::Frontend { .. } | Write::FrontendRemoved { .. }
            ) {
                continue;
            }
            for (index, frontend) in frontends.iter().enumerate() {
                let now = self.datapath.reachable(*frontend);
                if now != last[index] {
                    // A frontend that is let go may show the new set first.
                    steps[index] += u32::from(!matches!(write, Write::FrontendRemoved { .. }));
                    assert!(steps[index] <= 1, "{frontend} shows half a set in {change:#?}");
                    last[index] = now;
                }
            }
        }
        change.writes.len()
    }

    fn frontends_of(&self, change: &Change) -> BTreeSet<SocketAddr> {
        let name = change.service.as_ref().map(ServiceName::as_str);
        let names = self.names_by_frontend();
        let own = names.iter().filter(|(_, n)| Some(n.as_str()) == name).map(|(f, _)| *f);
        let touched = change.writes.iter().filter_map(|write| match write {
            Write::Frontend { address, .. } | Write::FrontendRemoved { address } => Some(*address),
            _ => None,
        });
        own.chain(touched).collect()
    }

    fn names_by_frontend(&self) -> BTreeMap<SocketAddr, String> {
        self.datapath.frontends().map(|(frontend, name)| (frontend, name.to_owned())).collect()
    }

    fn reachable_everywhere(&self) -> BTreeMap<SocketAddr, BTreeSet<SocketAddr>> {
        let frontends = self.names_by_frontend().into_keys();
        frontends.map(|f| (f, self.datapath.reachable(f))).collect()
    }

    /// Frontends that serve, of services of which a set of backends is unknown.
    fn held_frontends(&self) -> Vec<(SocketAddr, String)> {
        let names = self.names_by_frontend().into_iter();
        names
            .filter(|(frontend, name)| {
                let service = ServiceName::new(name).ok().and_then(|n| self.world.services.get(&n));
                let unknown =
                    service.is_some_and(|s| oracle::expected(&self.world, s).v4.is_none());
                unknown && !self.datapath.reachable(*frontend).is_empty()
            })
            .collect()
    }

    /// The core's own comparison, slot by slot, whenever nothing has failed.
    fn compare(&self) {
        if self.world.listed && !self.core.needs_retry() {
            let kernel = self.datapath.read_back();
            assert_eq!(self.core.differences(&kernel), [], "the kernel is not as desired");
        }
    }

    fn check(&self) {
        if !self.world.listed || self.core.needs_retry() {
            return;
        }
        let exact = self.limits == AMPLE;
        for (frontend, name) in self.names_by_frontend() {
            let service = ServiceName::new(&name).ok().and_then(|n| self.world.services.get(&n));
            let service =
                service.unwrap_or_else(|| panic!("{frontend} leads to {name}, which is gone"));
            let expected = oracle::expected(&self.world, service);
            if let Some(claimed) = &expected.frontends {
                assert!(claimed.contains(&frontend), "{frontend} is no frontend of {name}");
            }
            let usable = if frontend.is_ipv4() { expected.v4 } else { expected.v6 };
            let Some(usable) = usable else { continue };
            let reachable = self.datapath.reachable(frontend);
            if exact {
                assert_eq!(reachable, usable, "{frontend} of {name}");
            } else {
                // What does not fit may be missing, and another family may stand in for it.
                let all = oracle::usable_of_any_family(&self.world, service);
                assert!(all.is_none_or(|all| reachable.is_subset(&all)), "{frontend} of {name}");
            }
        }
        if exact {
            let names = self.names_by_frontend();
            for service in self.world.services.values() {
                for frontend in oracle::expected(&self.world, service).frontends.iter().flatten() {
                    if let Some(owner) = oracle::owner(&self.world, *frontend) {
                        assert_eq!(names.get(frontend).map(String::as_str), Some(owner.as_str()));
                    }
                }
            }
        }
    }

    fn connect(&mut self) {
        for frontend in self.names_by_frontend().into_keys() {
            let pod = self.rng.random_range(1..5);
            if let Some(connection) = self.datapath.connect(frontend, pod) {
                self.connects += 1;
                let reachable = self.datapath.reachable(frontend);
                assert!(
                    reachable.contains(&connection.address),
                    "{frontend} went to {}",
                    connection.address
                );
                self.connections.push(connection);
            }
        }
        while self.connections.len() > CONNECTIONS_MAX {
            let index = self.rng.random_range(0..self.connections.len());
            let connection = self.connections.swap_remove(index);
            self.datapath.close(&connection);
        }
    }

    fn sweep(&mut self, failure_rate: f64) {
        let datapath = &self.datapath;
        if let Some(change) = self.core.sweep(|id| datapath.active(id)) {
            assert_eq!(change.kind, ChangeKind::Swept);
            let mut rng = StdRng::seed_from_u64(self.rng.random());
            let landed = self.apply(&change, |_| rng.random_bool(failure_rate));
            self.swept += landed as u64;
            self.core.applied(change, landed);
        }
    }
}
