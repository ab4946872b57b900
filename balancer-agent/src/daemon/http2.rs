//! Follows HTTP/2 connections and moves them: looks at their loads, plans, and carries the plan out.

mod accounts;
mod clients;
mod commands;
mod wishes;

use self::{clients::Clients, wishes::Wishes};
use super::Daemon;
use crate::{
    admin::Http2Status,
    config::Config,
    core::{
        Core,
        model::Service,
        rebalance::{Caution, Frames, Move, Picture, Rebalancer, ServiceLoad, Standings},
    },
    datapath::{http2, http2::Attachment, maps::Maps, trace::monotonic_ns},
};
use aya::maps::MapError;
use balancer_common::{
    flow::Flow,
    http2::{
        counts::Http2TotalsKey,
        flow::{Http2Flow, Http2Key},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Time between two looks while backends come and go, or connections move.
const BUSY: Duration = Duration::from_millis(100);
/// The same while nothing happens: loads drift slowly.
const IDLE: Duration = Duration::from_secs(2);
/// The same while backends come and go, but of services that had no connections when they were looked for.
const SOON: Duration = Duration::from_millis(400);
/// How long after something happened looks are frequent.
const BUSY_FOR: Duration = Duration::from_secs(5);
/// A look is followed by a pause of so many times its duration: with many connections it takes long.
const PAUSE_FACTOR: u32 = 20;
/// How long after a start pods are waited for to tell what they wish.
const WISHES_PATIENCE: Duration = Duration::from_secs(10);
/// How often links of interfaces that are gone are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// The same after pods have come or gone.
const SWEEP_SOON: Duration = Duration::from_secs(2);

/// The planner, and what carries its plans out.
pub(super) struct Http2 {
    pub(super) rebalancer: Rebalancer,
    standings: Standings,
    clients: Clients,
    wishes: Wishes,
    /// Services that had connections at the last look.
    in_use: BTreeSet<u32>,
    /// Somebody asked for something to be done at once.
    is_urgent: bool,
    looked_at: Instant,
    pause: Duration,
    busy_until: Instant,
    sweep_at: Instant,
    is_prepared: bool,
    /// Totals of backends that were gone at the last sweep.
    gone: BTreeSet<Http2TotalsKey>,
    pub(super) status: Http2Status,
}

type FramesByCookie = BTreeMap<u64, Frames>;
type LoadsByService = BTreeMap<u32, ServiceLoad>;

/// What the maps told at one moment.
pub(super) struct Seen {
    pub(super) flows: BTreeMap<u64, Flow>,
    pub(super) http2: BTreeMap<u64, (Http2Key, Http2Flow)>,
}

// === impl Seen ===

impl Seen {
    fn read(maps: &Maps) -> Result<Self, MapError> {
        Ok(Self { flows: maps.read_flows()?, http2: maps.read_http2_flows()? })
    }

    fn frames(&self) -> FramesByCookie {
        let frames = |flow: &Http2Flow| Frames {
            visibility: flow.visibility(),
            in_flight: flow.in_flight(),
            opened: flow.counts.opened,
        };
        self.http2.iter().map(|(cookie, (_, flow))| (*cookie, frames(flow))).collect()
    }
}

// === impl Http2 ===

impl Http2 {
    pub(super) fn new(config: &Config, attachment: Attachment) -> Self {
        let now = Instant::now();
        let caution = Caution::default();
        Self {
            standings: Standings::new(&caution),
            rebalancer: Rebalancer::new(caution, config.node_rank.unwrap_or_default()),
            clients: Clients::new(attachment),
            wishes: Wishes::default(),
            in_use: BTreeSet::new(),
            is_urgent: false,
            looked_at: now,
            pause: BUSY,
            // What an earlier agent has left is looked at soon.
            busy_until: now + BUSY_FOR,
            sweep_at: now,
            is_prepared: false,
            gone: BTreeSet::new(),
            status: Http2Status::default(),
        }
    }

    /// Something happened that may call for moves.
    fn is_busy(&self, now: Instant) -> bool {
        now < self.busy_until || !self.wishes.is_empty()
    }

    /// Whether any of these services had connections at the last look.
    fn uses_any(&self, services: &BTreeSet<u32>) -> bool {
        self.in_use.iter().any(|service| services.contains(service))
    }

    fn fail(&mut self, error: String) {
        if self.status.latest_error.as_ref() != Some(&error) {
            tracing::warn!(error, "HTTP/2 connections");
            self.status.latest_error = Some(error);
        }
    }

    /// What the status says of the connections.
    fn count(&mut self, loads: &LoadsByService, frames: &FramesByCookie, core: &Core) {
        self.status.begin_look();
        for (id, load) in loads {
            let Some((_, service)) = core.declared(*id) else { continue };
            let states = load.flows.iter().map(|flow| frames.get(&flow.cookie));
            let stubborn = self.rebalancer.stubborn(*id).count() as u64;
            self.status.look_at(
                &service.name,
                states.map(|it| it.map(|it| it.visibility)),
                stubborn,
            );
        }
        (self.status.clients, self.status.interfaces) = self.clients.counts();
    }
}

// === impl Daemon ===

impl Daemon {
    /// When the next look is due.
    pub(super) fn http2_due(&self) -> tokio::time::Instant {
        let http2 = &self.http2;
        let earliest = http2.looked_at + http2.pause;
        let touched = self.engine.core.touched();
        if http2.is_urgent || http2.is_busy(http2.looked_at) || http2.uses_any(touched) {
            return earliest.into();
        }
        let rest = if touched.is_empty() { IDLE } else { SOON.max(http2.pause) };
        let due = http2.looked_at + rest;
        http2.clients.due().map_or(due, |earlier| earlier.min(due)).into()
    }

    /// Pods have come or gone: their interfaces are looked at soon.
    pub(super) fn pods_changed(&mut self) {
        let now = Instant::now();
        self.http2.clients.observe(&self.pods.registry, now);
        self.http2.sweep_at = self.http2.sweep_at.min(now + SWEEP_SOON);
    }

    /// The first service whose connections are to be followed is about to be written: what pods there are is
    /// looked at before their first connections are made. Takes about a millisecond for each pod, once.
    pub(super) fn prepare_http2(&mut self) {
        let is_due = !self.http2.is_prepared
            && self.started.follows_http2()
            && self.engine.core.services().any(Service::is_followed);
        if is_due {
            self.http2.is_prepared = true;
            for error in self.http2.clients.lead_now(&self.options.pins) {
                self.http2.fail(error);
            }
        }
    }

    /// Looks at the connections once, and moves those that are to be moved.
    pub(super) async fn follow_http2(&mut self) {
        let began = Instant::now();
        let touched = self.engine.core.take_touched();
        self.http2.is_urgent = false;
        self.http2.status.retain_services(|name| self.engine.core.balances(name));
        // After the last such service is gone, what it leaves is looked at to its end.
        let is_wanted = self.engine.core.services().any(Service::is_followed)
            || !self.http2.wishes.is_empty()
            || self.http2.status.has_connections();
        if self.started.follows_http2() && is_wanted {
            self.lead_clients(began).await;
            if let Err(error) = self.balance_http2() {
                self.http2.fail(format!("read the connections: {error}"));
            }
        }
        if self.http2.uses_any(&touched) {
            self.http2.busy_until = began + BUSY_FOR;
        }
        let now = Instant::now();
        self.http2.looked_at = now;
        self.http2.pause = BUSY.max((now - began) * PAUSE_FACTOR);
    }

    /// Leads interfaces of clients to the programs, and forgets those that are gone.
    async fn lead_clients(&mut self, now: Instant) {
        for error in self.http2.clients.collect().await {
            self.http2.fail(error);
        }
        self.http2.clients.begin(&self.options.pins, now);
        if now >= self.http2.sweep_at {
            self.http2.sweep_at = now + SWEEP;
            self.sweep_totals();
            if let Err(error) = http2::sweep(&self.options.pins, self.http2.clients.alive()) {
                self.http2.fail(format!("remove links of interfaces that are gone: {error}"));
            }
        }
    }

    /// Removes totals of backends whose ids were freed.
    fn sweep_totals(&mut self) {
        let backends = self.engine.core.backends();
        let is_known = |key: &Http2TotalsKey| {
            backends.get(&key.backend).is_some_and(|it| it.incarnation == key.incarnation)
        };
        match self.engine.maps.sweep_http2_totals(&self.http2.gone, is_known) {
            Ok(gone) => self.http2.gone = gone,
            Err(error) => {
                self.http2.fail(format!("remove totals of backends that are gone: {error}"));
            }
        }
    }

    fn balance_http2(&mut self) -> Result<(), MapError> {
        let seen = Seen::read(&self.engine.maps)?;
        let now = Duration::from_nanos(monotonic_ns());
        let remembered: Vec<u32> = self.http2.rebalancer.remembered().collect();
        let (frames, loads) = self.loads(&seen, remembered, now)?;
        let strangers = seen.http2.values().map(|(key, flow)| (flow.pod, key.netns));
        self.http2.clients.meet(strangers);
        self.http2.rebalancer.set_node_rank(self.engine.core.node_rank());
        let outcome = self.http2.wishes.follow(&self.started, &seen.http2);
        self.take_in(outcome);
        let planned = if self.awaits_wishes() { None } else { Some(&loads) };
        for (service, load) in planned.into_iter().flatten() {
            for it in self.http2.rebalancer.plan(*service, load, now) {
                self.begin_move(*service, &it, &seen);
            }
        }
        self.http2.rebalancer.retain(|service| loads.contains_key(&service));
        let in_use = loads.iter().filter(|(_, load)| !load.flows.is_empty());
        self.http2.in_use = in_use.map(|(service, _)| *service).collect();
        self.http2.count(&loads, &frames, &self.engine.core);
        Ok(())
    }

    /// Whether pods may still tell that their connections are not to be moved.
    fn awaits_wishes(&self) -> bool {
        self.kubernetes.is_enabled()
            && !self.pods.registry.knows_objects()
            && self.started_at.elapsed() < WISHES_PATIENCE
    }

    /// What the connections of services are like now: of those that have any, and of those in `others`.
    /// Costs nothing for the others, of which a node may know thousands.
    pub(super) fn loads(
        &mut self,
        seen: &Seen,
        others: impl IntoIterator<Item = u32>,
        now: Duration,
    ) -> Result<(FramesByCookie, LoadsByService), MapError> {
        self.http2.standings.began(self.engine.core.take_newcomers(), now);
        let core = &self.engine.core;
        let services: BTreeSet<u32> =
            seen.flows.values().map(|flow| flow.service).chain(others).collect();
        let (mut backends, mut ejected) = (BTreeMap::new(), BTreeMap::new());
        for service in services {
            let declared = core.declared(service).map(|(_, service)| service);
            let Some(declared) = declared.filter(|it| it.is_followed()) else { continue };
            for (id, backend) in core.backends_of(service) {
                backends.insert(id, backend);
                if declared.ejects {
                    let stats = self.engine.maps.read_backend_stats(id)?;
                    if u128::from(stats.ejected_until_ns) > now.as_nanos() {
                        ejected.insert(id, stats.failures);
                    }
                }
            }
        }
        let frames = seen.frames();
        let picture = Picture {
            flows: &seen.flows,
            frames: &frames,
            backends: &backends,
            unmoved: self.http2.clients.off(),
            ejected: &ejected,
        };
        let declared = |service| core.declared(service).map(|(_, service)| service);
        let loads = self.http2.standings.loads(&picture, declared);
        Ok((frames, loads))
    }

    fn take_in(&mut self, outcome: wishes::Outcome) {
        for (service, end) in outcome.ends {
            self.http2.status.end_move(&service, end);
        }
        if let Some(error) = outcome.error {
            self.http2.fail(error);
        }
    }

    /// Tells the kernel of a move, after the client's cursor was set to where its next connection should go.
    fn begin_move(&mut self, service: u32, planned: &Move, seen: &Seen) {
        let Some((key, _)) = seen.http2.get(&planned.cookie) else { return };
        let Some((_, declared)) = self.engine.core.declared(service) else { return };
        if let Some((to, flow)) = planned.to.zip(seen.flows.get(&planned.cookie)) {
            let steered = self.engine.maps.steer(planned.pod, service, flow.frontend_family, to);
            if let Err(error) = steered {
                self.http2.fail(format!("set a client's cursor: {error}"));
            }
        }
        let patience = declared.move_patience_ms.map(|ms| Duration::from_millis(ms.into()));
        let connection = (&declared.name, planned.cookie);
        match self.http2.wishes.begin(&self.started, connection, *key, patience) {
            // It has ended by itself meanwhile.
            Ok(false) => {}
            Ok(true) => {
                self.http2.status.begin_move(&declared.name, planned.cause);
                tracing::debug!(
                    service,
                    cookie = planned.cookie,
                    from = planned.from,
                    to = planned.to,
                    cause = planned.cause.name(),
                    "move begun"
                );
            }
            Err(error) => self.http2.fail(error),
        }
    }
}
