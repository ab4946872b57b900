//! The DNS source: follows the sets of addresses that services need, and emits their members.
//!
//! Every set has a task of its own, so that a slow name delays no other; queries share a bound.
//! Names are asked for as they are (absolute): search domains and `/etc/hosts` have no say.

use crate::{
    config::DnsSettings,
    core::{event::Event, model::Lookup},
};
use follow::Surroundings;
use followers::Followers;
use servers::ServerSource;
use std::{collections::BTreeSet, path::PathBuf, sync::Arc};
use tokio::sync::{mpsc, watch};

mod failure;
mod follow;
mod followers;
mod health;
mod query;
pub mod records;
mod servers;

pub use failure::FailureKind;
pub use health::{DnsCounts, DnsHealth, LookupHealth, MemberHealth, Standing};
pub use servers::IN_FLIGHT_MAX;

/// Where a Linux system keeps its DNS servers (resolv.conf(5)).
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Most sets that are followed, unless [`DnsSource::with_lookups_max`] says otherwise.
pub const LOOKUPS_MAX: usize = 16_384;

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
    lookups_max: usize,
    health: DnsHealth,
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
        Self {
            resolv_conf: resolv_conf.into(),
            lookups_max: LOOKUPS_MAX,
            health: DnsHealth::default(),
        }
    }

    /// Follows at most so many sets. Those that are followed stay; of those that are beyond the bound, the
    /// first by name take the places that become free.
    #[must_use]
    pub fn with_lookups_max(self, lookups_max: usize) -> Self {
        Self { lookups_max, ..self }
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
        let surroundings = Surroundings {
            servers: Arc::new(ServerSource::new(self.resolv_conf)),
            settings: receiver,
            events,
            health: self.health,
        };
        let mut followers = Followers::new(surroundings, settings, self.lookups_max);
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
                () = followers.restart_ended() => {}
            }
        }
    }
}
