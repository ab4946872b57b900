//! The configuration file as a source: read at the start, when it changes, and when asked to.
//!
//! Invariants: a file is read only while no writer is seen at work on it, as half a file may be a
//! whole document with half of the services; a bad file is told of and changes nothing; unchanged
//! content is not told of again.

mod changes;
mod links;
#[cfg(test)]
mod tests;
mod watch;

use crate::config::{Config, ConfigError};
use changes::Digests;
use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use watch::{DirectoryWatch, Signal};

pub use changes::Services;
pub use watch::WatchError;

/// Largest file that is read; 10,000 services of 10 backends take about 10 MB.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// How long the file must be left alone after a change that may be one of several.
const SETTLE: Duration = Duration::from_millis(100);
/// How long a writer that never pauses can put off reading.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// What the file says now.
#[derive(Clone, Debug)]
pub enum FileUpdate {
    /// A new configuration, to be applied.
    Loaded {
        /// All of it but the services.
        config: Arc<Config>,
        /// The services: all at first, then what changed.
        services: Services,
        /// Keys that differ from what the agent runs with and take effect at its next start.
        restart_needed: Vec<&'static str>,
    },
    /// Nothing is new; told only to whoever asked for a reload.
    Unchanged,
    /// The file is of no use; what was applied before stays.
    Rejected(Arc<FileError>),
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the configuration {path}: {source}\n  hint: {hint}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
        /// How to mend it.
        hint: &'static str,
    },
    /// It is no regular file.
    #[error("the configuration {path} is not a regular file\n  hint: name a file of YAML")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// It is too large.
    #[error(
        "the configuration {path} is larger than {FILE_BYTES_MAX} bytes\n  hint: give each node only the services that its pods dial"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is no text.
    #[error(
        "the configuration {path} is not UTF-8: byte {offset} is wrong\n  hint: save it as UTF-8"
    )]
    NotText {
        /// The file.
        path: PathBuf,
        /// Offset of the first wrong byte.
        offset: usize,
    },
    /// Reading it ended before its end.
    #[error("reading the configuration broke off: {source}\n  hint: report this as a defect")]
    Ended {
        /// What the runtime says.
        source: tokio::task::JoinError,
    },
    /// It has mistakes.
    #[error("the configuration is refused\n{0}")]
    Mistakes(#[from] ConfigError),
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct FileCounts {
    loaded: AtomicU64,
    rejected: AtomicU64,
}

/// Asks for a reload and reads the counts, from anywhere.
#[derive(Clone, Debug, Default)]
pub struct FileHandle {
    reload: Arc<Notify>,
    counts: Arc<FileCounts>,
}

/// The source. [`FileSource::run`] it on the runtime.
pub struct FileSource {
    path: PathBuf,
    watch: DirectoryWatch,
    handle: FileHandle,
    /// What was told last, so that it is not told again.
    told: Option<Told>,
    /// The settings that the agent has run with since its start; their services may be many, and are
    /// not kept.
    running: Option<Arc<Config>>,
    /// The services that were told.
    digests: Arc<Digests>,
    /// The last failure to watch, so that it is logged once.
    unwatched: Option<String>,
}

/// What was told, by the hash of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Loaded(u64),
    Rejected(u64),
}

/// What one look at the file finds.
enum Finding {
    Unchanged,
    New(Box<Content>),
    Bad(u64, FileError),
}

/// A usable content that was not told yet.
struct Content {
    hash: u64,
    config: Config,
    services: Services,
    digests: Digests,
}

// === impl FileHandle ===

impl FileHandle {
    /// Reads the file again, and tells of a rejection even if it was told before.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Configurations that were told as loaded.
    pub fn loaded(&self) -> u64 {
        self.counts.loaded.load(Ordering::Relaxed)
    }

    /// Rejections that were told.
    pub fn rejected(&self) -> u64 {
        self.counts.rejected.load(Ordering::Relaxed)
    }
}

// === impl FileSource ===

impl FileSource {
    /// Watches the directories that `path` leads through.
    ///
    /// # Errors
    /// Says what cannot be watched, and why.
    pub fn new(path: &Path) -> Result<(Self, FileHandle), WatchError> {
        let mut watch = DirectoryWatch::new()?;
        let path = std::path::absolute(path)
            .map_err(|source| WatchError::Directory { path: path.to_owned(), source })?;
        watch.follow(&path)?;
        let handle = FileHandle::default();
        let source = Self {
            path,
            watch,
            handle: handle.clone(),
            told: None,
            running: None,
            digests: Arc::default(),
            unwatched: None,
        };
        Ok((source, handle))
    }

    /// Tells the file's content, then every change, until `updates` is closed.
    pub async fn run(mut self, updates: mpsc::Sender<FileUpdate>) {
        let mut finding = self.look().await;
        let mut asked = true;
        loop {
            if let Some(update) = self.update(finding, asked)
                && updates.send(update).await.is_err()
            {
                return;
            }
            let reload = Arc::clone(&self.handle.reload);
            (finding, asked) = tokio::select! {
                () = updates.closed() => return,
                () = reload.notified() => (self.look().await, true),
                signal = self.watch.changed() => (self.look_when_settled(signal).await, false),
            };
        }
    }

    /// Looks at once after a complete change, and a while after any other. A bad file may be one
    /// moment of a longer change, and is looked at again.
    async fn look_when_settled(&mut self, mut signal: Signal) -> Finding {
        let latest = Instant::now() + SETTLE_MAX;
        loop {
            if signal == Signal::Complete {
                let finding = self.look().await;
                let usable = !matches!(finding, Finding::Bad(..)) && !self.watch.has_changed();
                if usable || Instant::now() >= latest {
                    return finding;
                }
            }
            let settled = (Instant::now() + SETTLE).min(latest);
            tokio::select! {
                next = self.watch.changed() => signal = next,
                () = tokio::time::sleep_until(settled) => return self.look().await,
            }
        }
    }

    async fn look(&mut self) -> Finding {
        // Before reading, so that a change after it is seen.
        let unwatched = self.watch.follow(&self.path).err().map(|error| error.to_string());
        if unwatched != self.unwatched
            && let Some(error) = &unwatched
        {
            tracing::warn!(error, "changes of the configuration are not seen; reload by SIGHUP");
        }
        self.unwatched = unwatched;
        let (path, told, digests) = (self.path.clone(), self.told, Arc::clone(&self.digests));
        let look = tokio::task::spawn_blocking(move || look(&path, told, &digests));
        look.await.unwrap_or_else(|source| bad(FileError::Ended { source }))
    }

    fn update(&mut self, finding: Finding, asked: bool) -> Option<FileUpdate> {
        match finding {
            Finding::Unchanged => asked.then_some(FileUpdate::Unchanged),
            Finding::New(content) => {
                let Content { hash, config, services, digests } = *content;
                self.told = Some(Told::Loaded(hash));
                self.digests = Arc::new(digests);
                self.handle.counts.loaded.fetch_add(1, Ordering::Relaxed);
                let config = Arc::new(config);
                let running = self.running.get_or_insert_with(|| Arc::clone(&config));
                let restart_needed = config.restart_needed(running);
                Some(FileUpdate::Loaded { config, services, restart_needed })
            }
            Finding::Bad(hash, error) => {
                let before = self.told.replace(Told::Rejected(hash));
                if before == self.told && !asked {
                    return None;
                }
                self.handle.counts.rejected.fetch_add(1, Ordering::Relaxed);
                Some(FileUpdate::Rejected(Arc::new(error)))
            }
        }
    }
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn bad(error: FileError) -> Finding {
    Finding::Bad(hash(error.to_string()), error)
}

fn look(path: &Path, told: Option<Told>, digests: &Digests) -> Finding {
    let text = match read(path) {
        Ok(text) => text,
        Err(error) => return bad(error),
    };
    let hash = hash(&text);
    if told == Some(Told::Loaded(hash)) {
        return Finding::Unchanged;
    }
    match Config::parse(&text, &path.to_string_lossy()) {
        Ok(mut config) => {
            // Here, on a thread of its own, unchanged services are found and let go of.
            let (services, digests) = digests.compare(std::mem::take(&mut config.services));
            Finding::New(Box::new(Content { hash, config, services, digests }))
        }
        Err(error) => Finding::Bad(hash, error.into()),
    }
}

fn read(path: &Path) -> Result<String, FileError> {
    let refuse = |source: io::Error| {
        let hint = match source.kind() {
            io::ErrorKind::NotFound => {
                "create it; `balancer-agent config --example` prints one to begin with"
            }
            io::ErrorKind::PermissionDenied => "make it readable to the agent",
            _ => "check the path and its file system",
        };
        FileError::Read { path: path.to_owned(), source, hint }
    };
    // Before opening: to open a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(refuse)?.is_file() {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(refuse)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(refuse)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > FILE_BYTES_MAX) {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        FileError::NotText { path: path.to_owned(), offset }
    })
}
