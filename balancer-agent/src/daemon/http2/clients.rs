//! Clients whose interfaces are to lead to the programs: every pod that is balanced, before its first
//! connection if that can be, and whoever else is met by its connections.

use crate::{
    core::pods::registry::{Known, Registry},
    datapath::{
        bpffs::PinRoot,
        cgroup,
        http2::{Attachment, Taps, tap_cgroup},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// The first pause before a client without processes is looked at again; it doubles each time.
const RETRY_MIN: Duration = Duration::from_millis(5);
/// The longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// When interfaces of a client that has some are looked at again: more may have come.
const AGAIN: Duration = Duration::from_mins(1);
/// Most clients that are not pods.
const STRANGERS_MAX: usize = 4_096;

#[derive(Debug)]
struct Client {
    /// Below the root of cgroup v2; found by its id where it is not known.
    path: Option<String>,
    is_pod: bool,
    attempts: u32,
    next_at: Instant,
    taps: Taps,
}

/// Clients by cgroup id.
#[derive(Debug, Default)]
pub(super) struct Clients {
    attachment: Attachment,
    known: BTreeMap<u64, Client>,
    off: BTreeSet<u64>,
    running: Option<JoinHandle<Vec<(u64, Taps)>>>,
    /// Cookies of all clients' namespaces, once all pods were looked at.
    alive: BTreeSet<u64>,
}

// === impl Client ===

impl Client {
    fn new(path: Option<String>, is_pod: bool, now: Instant) -> Self {
        Self { path, is_pod, attempts: 0, next_at: now, taps: Taps::default() }
    }

    fn take_in(&mut self, taps: Taps, now: Instant) {
        let pause = if taps.interfaces == 0 {
            let factor = 2_u32.saturating_pow(self.attempts.min(16));
            RETRY_MIN.saturating_mul(factor).min(RETRY_MAX)
        } else {
            AGAIN
        };
        self.attempts += 1;
        self.next_at = now + pause;
        self.taps = taps;
    }
}

// === impl Clients ===

impl Clients {
    /// Nobody yet; interfaces will lead to the programs in this way.
    pub(super) fn new(attachment: Attachment) -> Self {
        Self { attachment, ..Self::default() }
    }

    /// Takes in which pods there are.
    pub(super) fn observe(&mut self, registry: &Registry, now: Instant) {
        let is_meant = |pod: &Known<'_>| {
            pod.skip.is_none() && pod.object.is_none_or(|object| !object.host_network)
        };
        let is_off = |pod: &Known<'_>| pod.wishes.http2_off;
        self.off = registry.pods().filter(is_off).map(|pod| pod.id).collect();
        let pods: BTreeMap<u64, &str> =
            registry.pods().filter(is_meant).map(|pod| (pod.id, pod.local.path.as_str())).collect();
        // What was moved depends on the programs: whoever leads to them goes on doing so.
        self.known.retain(|id, client| {
            let stays = !self.off.contains(id) || client.taps.interfaces > 0;
            stays && (!client.is_pod || pods.contains_key(id))
        });
        for (id, path) in pods.into_iter().filter(|(id, _)| !self.off.contains(id)) {
            self.known
                .entry(id)
                .or_insert_with(|| Client::new(Some(path.to_owned()), true, now))
                .is_pod = true;
        }
    }

    /// Pods that asked for their connections not to be followed, by cgroup id.
    pub(super) const fn off(&self) -> &BTreeSet<u64> {
        &self.off
    }

    /// Takes in which clients have connections, by cgroup id and network namespace.
    pub(super) fn meet(&mut self, strangers: impl Iterator<Item = (u64, u64)>) {
        let now = Instant::now();
        for (id, netns) in strangers {
            let is_known = self.known.contains_key(&id) || self.off.contains(&id);
            if self.alive.contains(&netns) || is_known {
                continue;
            }
            if self.known.values().filter(|client| !client.is_pod).count() < STRANGERS_MAX {
                self.known.insert(id, Client::new(None, false, now));
            }
        }
    }

    /// When somebody is to be looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.running.is_some() {
            return Some(Instant::now() + RETRY_MIN);
        }
        self.known.values().map(|client| client.next_at).min()
    }

    /// Begins to look at whoever is due.
    pub(super) fn begin(&mut self, pins: &PinRoot, now: Instant) {
        if self.running.is_some() {
            return;
        }
        let due = self.known.iter().filter(|(_, client)| client.next_at <= now);
        let jobs: Vec<_> = due.map(|(id, client)| (*id, client.path.clone())).collect();
        if !jobs.is_empty() {
            let (pins, attachment) = (pins.clone(), self.attachment);
            let lead = move || lead_all(&pins, attachment, jobs);
            self.running = Some(tokio::task::spawn_blocking(lead));
        }
    }

    /// Looks at everybody now, and returns when that is done; what stood in the way.
    pub(super) fn lead_now(&mut self, pins: &PinRoot) -> Vec<String> {
        let jobs = self.known.iter().map(|(id, client)| (*id, client.path.clone())).collect();
        self.take_in(lead_all(pins, self.attachment, jobs))
    }

    /// Takes in what was found; returns what stood in the way.
    pub(super) async fn collect(&mut self) -> Vec<String> {
        let Some(running) = self.running.take_if(|running| running.is_finished()) else {
            return Vec::new();
        };
        let results = match running.await {
            Ok(results) => results,
            Err(error) => {
                return vec![format!("looking at clients' interfaces ended early: {error}")];
            }
        };
        self.take_in(results)
    }

    fn take_in(&mut self, results: Vec<(u64, Taps)>) -> Vec<String> {
        let (mut errors, now) = (Vec::new(), Instant::now());
        for (id, taps) in results {
            errors.extend(taps.errors.iter().cloned());
            let Some(client) = self.known.get_mut(&id) else { continue };
            client.take_in(taps, now);
            if !client.is_pod && client.attempts > 1 && client.taps.interfaces == 0 {
                // In the node's own namespace, or gone.
                client.next_at = now + AGAIN;
            }
        }
        let namespaces = self.known.values().flat_map(|client| &client.taps.namespaces);
        self.alive = namespaces.copied().collect();
        errors
    }

    /// Cookies of all clients' network namespaces, once every pod was looked at.
    pub(super) fn alive(&self) -> Option<&BTreeSet<u64>> {
        let are_known = self.known.values().all(|client| client.attempts > 0);
        are_known.then_some(&self.alive)
    }

    /// How many clients lead to the programs, and by how many interfaces.
    pub(super) fn counts(&self) -> (u64, u64) {
        let led = self.known.values().filter(|client| client.taps.interfaces > 0);
        led.fold((0, 0), |(clients, interfaces), client| {
            (clients + 1, interfaces + client.taps.interfaces as u64)
        })
    }
}

fn lead_all(
    pins: &PinRoot,
    attachment: Attachment,
    jobs: Vec<(u64, Option<String>)>,
) -> Vec<(u64, Taps)> {
    let Ok(root) = cgroup::root() else { return Vec::new() };
    let lead = |(id, path): (u64, Option<String>)| {
        let path = path.map(PathBuf::from).or_else(|| cgroup::find(&root, id));
        let directory = path.map(|path| root.join(path.strip_prefix("/").unwrap_or(&path)));
        let taps = directory.map(|directory| tap_cgroup(pins, &directory, attachment));
        (id, taps.unwrap_or_default())
    };
    jobs.into_iter().map(lead).collect()
}
