//! Follows cgroupfs by inotify: a pod's cgroup is known as soon as kubelet has made it.
//!
//! An event only says that something changed; the picture is always taken anew and whole, so that a
//! queue that ran over loses nothing.

use super::scan::{self, Places, Scan};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// How often a look is taken without any event: the pods' state is right even where inotify is not
/// to be had.
const RESCAN: Duration = Duration::from_secs(10);
/// The pause after a look that found no `kubepods`: there, unrelated cgroups come and go.
const SEARCH_PAUSE: Duration = Duration::from_millis(200);
/// Most looks in a row while directories come and go.
const LOOKS_MAX: u32 = 4;

/// Watches the cgroups of pods.
pub struct CgroupSource {
    places: Places,
}

// === impl CgroupSource ===

impl CgroupSource {
    /// A source that looks there.
    pub const fn new(places: Places) -> Self {
        Self { places }
    }

    /// Tells the present picture, and each new one, until nobody listens.
    pub async fn run(self, pictures: watch::Sender<Arc<Scan>>) {
        let changed = Arc::new(Notify::new());
        let mut watcher = Directories::new(Arc::clone(&changed));
        let mut failing = false;
        loop {
            let last = pictures.borrow().kubepods.clone();
            match self.look(last.as_deref(), &mut watcher) {
                Ok(found) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("cgroups can be read again");
                    }
                    tell(&pictures, found);
                }
                Err(error) if !failing => {
                    failing = true;
                    tracing::error!(%error, root = %self.places.root.display(), "read cgroups");
                }
                Err(_) => {}
            }
            if pictures.borrow().kubepods.is_none() {
                tokio::time::sleep(SEARCH_PAUSE).await;
            }
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(RESCAN) => {}
                () = pictures.closed() => return,
            }
        }
    }

    /// Looks until what is watched is what was looked at: what comes to be in between is not missed.
    fn look(&self, last: Option<&Path>, watcher: &mut Directories) -> std::io::Result<Scan> {
        let mut found = scan::scan(&self.places, last)?;
        for _ in 0..LOOKS_MAX {
            if !watcher.follow(&found.directories) {
                break;
            }
            found = scan::scan(&self.places, found.kubepods.as_deref())?;
        }
        Ok(found)
    }
}

fn tell(pictures: &watch::Sender<Arc<Scan>>, found: Scan) {
    pictures.send_if_modified(|known| {
        if **known == found {
            return false;
        }
        if found.truncated && !known.truncated {
            tracing::error!(max = scan::PODS_MAX, "too many pods; some are not shown");
        }
        if found.cgroups.hierarchy != known.cgroups.hierarchy {
            if let Some(place) = &found.kubepods {
                tracing::info!(place = %place.display(), "pods are told apart");
            } else {
                tracing::info!("no cgroup `kubepods`: clients are told by their own");
            }
        }
        *known = Arc::new(found);
        true
    });
}

/// The directories that are watched.
struct Directories {
    /// None where inotify is not to be had.
    watcher: Option<RecommendedWatcher>,
    /// Each with its inode number: another one of the same name is not watched yet.
    watched: BTreeMap<PathBuf, u64>,
}

impl Directories {
    fn new(changed: Arc<Notify>) -> Self {
        let handler = move |event: notify::Result<Event>| {
            // Files in a cgroup are written all the time; only directories that come and go matter.
            let matters = event.is_err()
                || event.is_ok_and(|event| {
                    event.need_rescan()
                        || matches!(event.kind, EventKind::Create(_) | EventKind::Remove(_))
                });
            if matters {
                changed.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(handler);
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(
                %error,
                every_s = RESCAN.as_secs(),
                "cgroups are not watched but looked at from time to time; hint: raise the sysctl \
                 fs.inotify.max_user_instances"
            );
        });
        Self { watcher: watcher.ok(), watched: BTreeMap::new() }
    }

    /// Watches these directories and no others; says whether any is new.
    fn follow(&mut self, directories: &[PathBuf]) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        let wanted: BTreeMap<_, _> = directories
            .iter()
            .filter_map(|directory| Some((directory.clone(), scan::inode(directory)?)))
            .collect();
        self.watched.retain(|directory, inode| {
            let stays = wanted.get(directory) == Some(inode);
            if !stays {
                // A directory that was removed is not watched any more, which is no error.
                let _ = watcher.unwatch(directory);
            }
            stays
        });
        let mut added = false;
        for (directory, inode) in wanted {
            if self.watched.contains_key(&directory) {
                continue;
            }
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    added = true;
                    self.watched.insert(directory, inode);
                }
                Err(error) => {
                    tracing::debug!(%error, directory = %directory.display(), "watch a cgroup");
                }
            }
        }
        added
    }
}
