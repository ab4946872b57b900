//! What users ask for by commands: a backend out of service on this node, and a service balanced now.

use super::{super::Daemon, Seen};
use crate::{
    admin::{Answer, Drained, PlannedMove},
    core::rebalance::Move,
    daemon::drained,
    datapath::{reader::socket_address, trace::monotonic_ns},
};
use balancer_common::backend::{Backend, STATE_ACTIVE};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

// === impl Daemon ===

impl Daemon {
    /// Takes a backend out of service on this node, or back.
    pub(in crate::daemon) fn drain_backend(
        &mut self,
        backend: SocketAddr,
        undo: bool,
        force: bool,
    ) -> Answer {
        match self.try_drain_backend(backend, undo, force) {
            Ok(drained) => Answer::Drained(drained),
            Err(error) => Answer::Failed { error: format!("{error:#}") },
        }
    }

    fn try_drain_backend(
        &mut self,
        backend: SocketAddr,
        undo: bool,
        force: bool,
    ) -> anyhow::Result<Drained> {
        let mut wanted = self.engine.core.drained().clone();
        let changed = if undo { wanted.remove(&backend) } else { wanted.insert(backend) };
        let all = self.engine.core.backends();
        let records: Vec<(u32, Backend)> = all
            .iter()
            .filter(|(_, record)| listens(record) == backend)
            .map(|(id, record)| (*id, *record))
            .collect();
        if records.is_empty() && !(undo && changed) {
            anyhow::bail!("no backend `{backend}`; hint: `balancer-agent backends` lists them");
        }
        let name = |service| self.engine.core.declared(service).map(|(_, it)| it.name.to_string());
        let services: Vec<String> =
            records.iter().filter_map(|(_, record)| name(record.service)).collect();
        if !undo && changed && !force {
            for (id, record) in &records {
                let serves_too = |(other, it): (&u32, &Backend)| {
                    other != id && it.service == record.service && it.state == STATE_ACTIVE
                };
                if record.state == STATE_ACTIVE && !all.iter().any(serves_too) {
                    anyhow::bail!(
                        "`{backend}` is the only backend of `{}` that takes connections; hint: \
                         --force drains it all the same",
                        name(record.service).unwrap_or_default()
                    );
                }
            }
        }
        let (mut connections, mut movable) = (0, 0);
        let seen = Seen::read(&self.engine.maps)?;
        let (_, loads) = self.loads(&seen, [], Duration::from_nanos(monotonic_ns()))?;
        for flow in loads.values().flat_map(|load| &load.flows) {
            if records.iter().any(|(id, _)| *id == flow.backend) && !flow.is_moved {
                connections += 1;
                movable += u64::from(flow.is_movable);
            }
        }
        if changed {
            drained::write(&self.options.runtime, &wanted)?;
            self.engine.core.set_drained(wanted);
            self.engine.settle(Instant::now());
            tracing::info!(%backend, undo, "taken out of service by a user, or back");
        }
        Ok(Drained { changed, services, connections, movable })
    }

    /// Moves connections of a service until shares are kept, or says what would be moved.
    pub(in crate::daemon) fn rebalance(&mut self, service: &str, dry_run: bool) -> Answer {
        match self.try_rebalance(service, dry_run) {
            Ok(answer) => answer,
            Err(error) => Answer::Failed { error: format!("{error:#}") },
        }
    }

    fn try_rebalance(&mut self, service: &str, dry_run: bool) -> anyhow::Result<Answer> {
        let Some(declared) = self.engine.core.services().find(|it| it.name.as_str() == service)
        else {
            anyhow::bail!("no service `{service}`; hint: `balancer-agent services` lists them");
        };
        if !declared.is_followed() {
            anyhow::bail!(
                "frames of `{service}` are not followed; hint: set `http2` and `tracking`, and see \
                 `balancer-agent check` for what this kernel lacks"
            );
        }
        let Some(id) = self.engine.core.id_of(&declared.name) else {
            return Ok(Answer::Moves { moves: Vec::new(), connections: 0, unmovable: 0 });
        };
        let seen = Seen::read(&self.engine.maps)?;
        let now = Duration::from_nanos(monotonic_ns());
        let load = self.loads(&seen, [id], now)?.1.remove(&id).unwrap_or_default();
        let core = &self.engine.core;
        let preview = self.http2.rebalancer.preview(id, &load, now);
        let at = |id: u32| core.backends().get(&id).map(listens);
        let planned = |it: &Move| {
            let (from, to) = (at(it.from)?, it.to.and_then(at));
            Some(PlannedMove { cookie: it.cookie, pod: it.pod, from, to })
        };
        let moves = preview.iter().filter_map(planned).collect();
        let connections = load.flows.len() as u64;
        let unmovable =
            load.flows.iter().filter(|it| !it.is_movable && !it.is_moved).count() as u64;
        if !dry_run {
            self.http2.rebalancer.ask(id);
            self.http2.busy_until = Instant::now() + super::BUSY_FOR;
            self.http2.is_urgent = true;
        }
        Ok(Answer::Moves { moves, connections, unmovable })
    }
}

fn listens(record: &Backend) -> SocketAddr {
    socket_address(record.address, record.port_be)
}
