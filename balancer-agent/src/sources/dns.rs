//! The DNS source: follows the sets of addresses that services need, and emits their members.
//!
//! Every set has a task of its own, so that a slow name delays no other; queries share a bound.
//! Names are asked for as they are (absolute): search domains and `/etc/hosts` have no say.

use crate::{
    config::DnsSettings,
    core::{event::Event, model::Lookup},
};
use follow::{Follower, Surroundings};
use servers::ServerSource;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
};

mod failure;
mod follow;
mod health;
mod query;
mod records;
mod servers;

pub use failure::FailureKind;
pub use health::{DnsHealth, LookupHealth, MemberHealth, Standing};
pub use servers::IN_FLIGHT_MAX;

/// Where a Linux system keeps its DNS servers (resolv.conf(5)).
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Most sets that are followed.
pub const LOOKUPS_MAX: usize = 16_384;

/// How long the follower of a set rests after a panic, which will likely happen again.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// What is to be followed, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The configuration's say on DNS.
    pub settings: DnsSettings,
    /// The sets that services need.
    pub lookups: BTreeSet<Lookup>,
}

/// The DNS source, before it runs.
#[derive(Debug)]
pub struct DnsSource {
    resolv_conf: PathBuf,
    health: DnsHealth,
}

/// The tasks that follow sets.
struct Followers {
    surroundings: Surroundings,
    settings: watch::Sender<Arc<DnsSettings>>,
    tasks: JoinSet<()>,
    running: BTreeMap<Lookup, AbortHandle>,
    names: HashMap<Id, Lookup>,
    overfull: bool,
}

// === impl DnsSource ===

impl Default for DnsSource {
    fn default() -> Self {
        Self::new(RESOLV_CONF)
    }
}

impl DnsSource {
    /// A source that takes its servers from `resolv_conf` where the settings name none. The file
    /// may change, appear and disappear at any time.
    pub fn new(resolv_conf: impl Into<PathBuf>) -> Self {
        Self { resolv_conf: resolv_conf.into(), health: DnsHealth::default() }
    }

    /// Reads the health of every set while the source runs.
    pub fn health(&self) -> DnsHealth {
        self.health.clone()
    }

    /// Follows what is wanted and sends [`Event::MembersChanged`], until either end of the two
    /// channels is closed. A set that is not wanted any more is dropped without an event.
    pub async fn run(self, mut wanted: watch::Receiver<Wanted>, events: mpsc::Sender<Event>) {
        let closed = events.clone();
        let first = Arc::new(wanted.borrow().settings.clone());
        let (settings, receiver) = watch::channel(first);
        let mut followers = Followers {
            surroundings: Surroundings {
                servers: Arc::new(ServerSource::new(self.resolv_conf)),
                settings: receiver,
                events,
                health: self.health,
            },
            settings,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            names: HashMap::new(),
            overfull: false,
        };
        let now = wanted.borrow_and_update().clone();
        followers.apply(now);
        loop {
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = wanted.borrow_and_update().clone();
                    followers.apply(now);
                }
                () = closed.closed() => return,
                Some(ended) = followers.tasks.join_next_with_id() => followers.note_end(ended),
            }
        }
    }
}

// === impl Followers ===

impl Followers {
    fn apply(&mut self, wanted: Wanted) {
        self.settings.send_if_modified(|settings| {
            let changed = **settings != wanted.settings;
            if changed {
                *settings = Arc::new(wanted.settings);
            }
            changed
        });
        let health = &self.surroundings.health;
        self.running.retain(|lookup, task| {
            let keep = wanted.lookups.contains(lookup);
            if !keep {
                task.abort();
                health.remove(lookup);
            }
            keep
        });
        let mut excess = 0_usize;
        for lookup in wanted.lookups {
            if self.running.contains_key(&lookup) {
                continue;
            }
            if self.running.len() >= LOOKUPS_MAX {
                excess += 1;
                continue;
            }
            self.start(lookup, Duration::ZERO);
        }
        if excess > 0 && !self.overfull {
            tracing::error!(
                excess,
                "more than {LOOKUPS_MAX} DNS names are wanted; the others are not resolved; hint: \
                 remove some from the configuration"
            );
        }
        self.overfull = excess > 0;
    }

    fn start(&mut self, lookup: Lookup, pause: Duration) {
        self.surroundings.health.add(&lookup);
        let follower = Follower::new(lookup.clone(), self.surroundings.clone(), pause);
        let task = self.tasks.spawn(follower.run());
        self.names.insert(task.id(), lookup.clone());
        self.running.insert(lookup, task);
    }

    /// A task that ended by itself is a fault and begins anew. While the source stops they all end.
    fn note_end(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(lookup) = self.names.remove(&id) else {
            return;
        };
        if ended.is_err_and(|error| error.is_panic())
            && self.running.get(&lookup).is_some_and(|task| task.id() == id)
        {
            tracing::error!(
                %lookup,
                "the task that follows a DNS set panicked and begins anew; hint: report this"
            );
            self.start(lookup, RESTART_PAUSE);
        }
    }
}
