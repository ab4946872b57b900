//! inotify on the directories that a path leads through, reduced to one signal.
//!
//! Directories are watched, not files: an editor that renames a new file over the old one, and a
//! swapped symlink, leave a watched file behind.

use super::links;
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// What happened last to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// A change that is over: a writer closed the file, or another took its place.
    Complete,
    /// A change that may go on: bytes were written, or the file was removed or created.
    Partial,
}

/// Why changes of the file cannot be seen.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// There is no inotify instance to be had.
    #[error("cannot watch files: {source}\n  hint: raise the sysctl fs.inotify.max_user_instances")]
    Instance {
        /// What the system says.
        source: notify::Error,
    },
    /// A directory cannot be watched.
    #[error("cannot watch {path}: {source}\n  hint: make the directory readable to the agent")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The entries that matter, shared with the watcher's thread.
type Entries = Arc<Mutex<BTreeSet<PathBuf>>>;

/// Watches for changes of what a path leads to.
pub(super) struct DirectoryWatch {
    watcher: RecommendedWatcher,
    entries: Entries,
    directories: BTreeSet<PathBuf>,
    signals: watch::Receiver<Signal>,
}

// === impl DirectoryWatch ===

impl DirectoryWatch {
    /// A watch of nothing yet.
    pub(super) fn new() -> Result<Self, WatchError> {
        let entries = Entries::default();
        let (sender, signals) = watch::channel(Signal::Complete);
        let of_interest = Arc::clone(&entries);
        let handler = move |event: notify::Result<Event>| {
            if let Some(signal) = classify(event, &of_interest) {
                // Fails only once the source is gone, together with this watcher.
                let _ = sender.send(signal);
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .map_err(|source| WatchError::Instance { source })?;
        Ok(Self { watcher, entries, directories: BTreeSet::new(), signals })
    }

    /// Watches the directories that `path` leads through now, and no others.
    pub(super) fn follow(&mut self, path: &Path) -> Result<(), WatchError> {
        let entries = links::entries(path);
        let directories: BTreeSet<PathBuf> =
            entries.iter().filter_map(|entry| entry.parent().map(Path::to_owned)).collect();
        // Set first: an event of a directory that was just added must not be missed.
        *self.entries.lock().unwrap_or_else(PoisonError::into_inner) = entries;
        for gone in self.directories.difference(&directories) {
            // A directory that was deleted is not watched any more, which is no error here.
            let _ = self.watcher.unwatch(gone);
        }
        let mut watched = BTreeSet::new();
        let mut result = Ok(());
        for path in directories {
            // Also those that are watched: the directory may be another one of the same name.
            match self.watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(path);
                }
                Err(error) => {
                    let source = match error.kind {
                        notify::ErrorKind::Io(source) => source,
                        kind => io::Error::other(format!("{kind:?}")),
                    };
                    result = Err(WatchError::Directory { path, source });
                }
            }
        }
        self.directories = watched;
        result
    }

    /// Whether there was a change since the last call of [`Self::changed`].
    pub(super) fn has_changed(&self) -> bool {
        self.signals.has_changed().unwrap_or(false)
    }

    /// Waits for a change since the last call. Changes that come together are one.
    pub(super) async fn changed(&mut self) -> Signal {
        if self.signals.changed().await.is_err() {
            // The watcher's thread ended; only reloads that are asked for are left.
            std::future::pending::<()>().await;
        }
        *self.signals.borrow_and_update()
    }
}

fn classify(event: notify::Result<Event>, entries: &Entries) -> Option<Signal> {
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!(%error, "watching the configuration failed; reading it again");
            return Some(Signal::Complete);
        }
    };
    // inotify(7): events were lost, so that anything may have changed.
    if event.need_rescan() {
        return Some(Signal::Complete);
    }
    let entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
    // A watched directory that goes away is reported by its own name.
    let concerns = |path: &PathBuf| {
        entries.contains(path) || entries.iter().any(|entry| entry.parent() == Some(path))
    };
    if !event.paths.iter().any(concerns) {
        return None;
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_)) => Some(Signal::Complete),
        EventKind::Access(_) => None,
        // Permissions are among these: they decide whether the file can be read.
        _ => Some(Signal::Partial),
    }
}
