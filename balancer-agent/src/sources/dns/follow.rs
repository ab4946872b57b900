//! The task that follows one set: asks when it is due, tells what changed, logs what turned.

use super::{
    failure::FailureKind,
    health::{DnsHealth, Standing},
    query::{self, Round},
    records::Refusal,
    servers::ServerSource,
};
use crate::{
    config::DnsSettings,
    core::{
        event::Event,
        model::{Lookup, Member},
        resolution::{MEMBERS_MAX, Resolution, Rules},
    },
};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

/// What all followers share.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) servers: Arc<ServerSource>,
    pub(super) settings: watch::Receiver<Arc<DnsSettings>>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) health: DnsHealth,
}

pub(super) struct Follower {
    lookup: Lookup,
    surroundings: Surroundings,
    resolution: Resolution,
    start: Instant,
    standing: Standing,
    /// Refused addresses of the last answer, so that each is logged once.
    refused: BTreeSet<(SocketAddr, Refusal)>,
    overfull: bool,
}

/// Nobody listens any more.
struct Closed;

fn rules(settings: &DnsSettings) -> Rules {
    Rules {
        ttl_min: settings.ttl_min,
        ttl_max: settings.ttl_max,
        serve_stale: settings.serve_stale,
        removal_delay: settings.removal_delay,
        grace: settings.grace,
        members_max: MEMBERS_MAX,
    }
}

// === impl Follower ===

impl Follower {
    /// Asks for the first time after `pause`.
    pub(super) fn new(lookup: Lookup, mut surroundings: Surroundings, pause: Duration) -> Self {
        let rules = rules(&surroundings.settings.borrow_and_update());
        Self {
            lookup,
            surroundings,
            resolution: Resolution::new(rules, pause),
            start: Instant::now(),
            standing: Standing::Waiting,
            refused: BTreeSet::new(),
            overfull: false,
        }
    }

    /// Follows the set until nobody listens; until then it ends by being aborted only.
    pub(super) async fn run(mut self) {
        while self.step().await.is_ok() {}
    }

    async fn step(&mut self) -> Result<(), Closed> {
        let now = self.start.elapsed();
        if self.resolution.query_at() <= now {
            return self.round().await;
        }
        tokio::select! {
            changed = self.surroundings.settings.changed() => {
                changed.map_err(|_| Closed)?;
                let rules = rules(&self.surroundings.settings.borrow_and_update());
                self.resolution.set_rules(rules, self.start.elapsed());
                Ok(())
            }
            () = sleep(self.resolution.next_at().saturating_sub(now)) => self.tick().await,
        }
    }

    /// Asks. Members whose time has come meanwhile do not wait for the answer.
    async fn round(&mut self) -> Result<(), Closed> {
        let settings = Arc::clone(&self.surroundings.settings.borrow());
        let servers = Arc::clone(&self.surroundings.servers);
        let lookup = self.lookup.clone();
        let asking = async move {
            match servers.current(&settings).await {
                Ok(servers) => query::ask(&servers, &lookup).await,
                Err(failure) => Round::failed(failure),
            }
        };
        tokio::pin!(asking);
        let round = loop {
            let due = self.resolution.change_at().unwrap_or(Duration::MAX);
            let pause = due.saturating_sub(self.start.elapsed());
            tokio::select! {
                round = &mut asking => break round,
                () = sleep(pause) => self.tick().await?,
            }
        };
        let news = self.resolution.answer(self.start.elapsed(), &round.answer);
        let excess = self.resolution.excess() + round.targets_dropped;
        let health = &self.surroundings.health;
        health.note_round(&self.lookup, &round, excess);
        self.log_standing(&round);
        self.log_refused(&round);
        self.log_excess(excess);
        self.tell(news).await
    }

    async fn tick(&mut self) -> Result<(), Closed> {
        let news = self.resolution.tick(self.start.elapsed());
        self.tell(news).await
    }

    async fn tell(&mut self, news: Option<Vec<Member>>) -> Result<(), Closed> {
        let pause = self.resolution.query_at().saturating_sub(self.start.elapsed());
        self.surroundings.health.note_members(&self.lookup, &self.resolution, pause);
        let Some(members) = news else { return Ok(()) };
        tracing::debug!(lookup = %self.lookup, members = members.len(), "DNS set changed");
        let event = Event::MembersChanged { lookup: self.lookup.clone(), members };
        self.surroundings.events.send(event).await.map_err(|_| Closed)
    }

    fn log_standing(&mut self, round: &Round) {
        let before = std::mem::replace(&mut self.standing, Standing::of(round));
        if before == self.standing {
            return;
        }
        let lookup = &self.lookup;
        match (self.standing, round.failures.first()) {
            // That there are no servers was said once, for all sets.
            (_, Some(failure)) if failure.kind == FailureKind::Servers => {}
            (Standing::Fails, Some(failure)) => tracing::warn!(
                %lookup,
                error = failure.text,
                "DNS fails; the last good members are kept up to the serve-stale limit"
            ),
            (Standing::Partial, Some(failure)) => tracing::warn!(
                %lookup,
                error = failure.text,
                "DNS fails in part; what was not answered keeps its last good members"
            ),
            _ if before == Standing::Waiting => tracing::debug!(%lookup, "DNS answers"),
            _ => tracing::info!(%lookup, "DNS answers again"),
        }
    }

    fn log_refused(&mut self, round: &Round) {
        let refused: BTreeSet<_> = round.refused.iter().copied().take(MEMBERS_MAX).collect();
        for (address, refusal) in refused.difference(&self.refused) {
            tracing::warn!(
                lookup = %self.lookup,
                %address,
                "dropped an address that DNS named: {refusal}; hint: correct the record"
            );
        }
        // What was not answered may still be there.
        if round.failures.is_empty() {
            self.refused = refused;
        } else {
            self.refused.extend(refused);
        }
    }

    fn log_excess(&mut self, excess: usize) {
        let before = std::mem::replace(&mut self.overfull, excess > 0);
        if excess > 0 && !before {
            tracing::warn!(
                lookup = %self.lookup,
                excess,
                "DNS names more than {MEMBERS_MAX} members; the others are left out; hint: split \
                 the name"
            );
        }
    }
}
