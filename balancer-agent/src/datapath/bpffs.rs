//! The bpffs directory that keeps programs alive without the agent: layout, lock, removal.
//!
//! ```text
//! <pin root>/links/<program>        links; removing one detaches its program
//! <pin root>/maps-<layout>/<MAP>    state; one directory for each ABI version and set of limits
//! <pin root>/http2-v<N>/maps/<MAP>  HTTP/2 connections, whatever the limits
//! <pin root>/http2-v<N>/taps/...    what leads interfaces of pods there
//! ```

use super::sys;
use crate::core::write::Limits;
use balancer_common::abi;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Where everything is pinned unless the user says otherwise.
pub const PIN_ROOT: &str = "/sys/fs/bpf/balancer";
/// What names of directories about HTTP/2 connections begin with, before the version.
const HTTP2_PREFIX: &str = "http2-v";

/// Why the pin directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// No bpffs, and it could not be mounted.
    #[error(
        "no BPF file system holds `{}`, and mounting one failed: {cause}; hint: run \
         `mount -t bpf bpf /sys/fs/bpf` as root, or mount it into this container",
        path.display()
    )]
    NotMounted {
        /// The directory wanted.
        path: PathBuf,
        /// Why it could not be mounted.
        cause: Errno,
    },
    /// The directory wanted is not where bpffs is.
    #[error(
        "`{}` is on no BPF file system, which alone keeps programs alive; hint: choose a \
         --pin-root below /sys/fs/bpf, or run `mount -t bpf` for another place",
        path.display()
    )]
    Elsewhere {
        /// The directory wanted.
        path: PathBuf,
    },
    /// A name that bpffs refuses.
    #[error(
        "`{}` has a dot in a name, which the BPF file system refuses; hint: choose a --pin-root \
         without dots",
        path.display()
    )]
    Dotted {
        /// The directory wanted.
        path: PathBuf,
    },
    /// A directory or pin cannot be made, read or removed.
    #[error("{act} `{}`: {cause}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// Another agent holds the directory.
    #[error(
        "another balancer-agent already manages `{}`; hint: stop it first, or give this one \
         a directory of its own with --pin-root",
        path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

fn io_error(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BpffsError {
    move |cause| BpffsError::Io { act, path: path.into(), cause }
}

/// The directory under which everything of one agent is pinned.
#[derive(Clone, Debug)]
pub struct PinRoot(PathBuf);

/// Held while an agent manages a pin directory; the kernel lets go of it when the agent dies.
#[derive(Debug)]
pub struct PinLock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl PinRoot {
    /// Names a pin directory; nothing is touched yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Mounts bpffs at `/sys/fs/bpf` where it is missing there. Tells whether it was.
    ///
    /// # Errors
    /// [`BpffsError`] names the directory and the fix.
    pub fn mount(&self) -> Result<bool, BpffsError> {
        if is_on_bpffs(&self.0) {
            return Ok(false);
        }
        let mountpoint = Path::new("/sys/fs/bpf");
        if !self.0.starts_with(mountpoint) {
            return Err(BpffsError::Elsewhere { path: self.0.clone() });
        }
        mount(Some("bpf"), mountpoint, Some("bpf"), MsFlags::empty(), None::<&str>)
            .map_err(|cause| BpffsError::NotMounted { path: self.0.clone(), cause })?;
        Ok(true)
    }

    /// Makes the directory, mounting bpffs at `/sys/fs/bpf` where it is missing there.
    ///
    /// # Errors
    /// [`BpffsError`] names the directory and the fix.
    pub fn create(&self) -> Result<(), BpffsError> {
        if self.mount()? {
            tracing::info!("mounted bpffs");
        }
        let links = self.links();
        let directories = [&links, &self.http2_maps(), &self.taps()];
        directories.into_iter().try_for_each(fs::create_dir_all).map_err(|cause| {
            // `bpf_lookup()` keeps names with dots for itself.
            let dotted = self.0.iter().any(|name| name.to_string_lossy().contains('.'));
            if dotted && cause.kind() == io::ErrorKind::PermissionDenied {
                return BpffsError::Dotted { path: self.0.clone() };
            }
            io_error("create", &links)(cause)
        })
    }

    /// Takes the directory for this process.
    ///
    /// # Errors
    /// [`BpffsError::Locked`] while another process holds it.
    pub fn lock(&self) -> Result<PinLock, BpffsError> {
        let directory = File::open(&self.0).map_err(io_error("open", &self.0))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(PinLock(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Err(BpffsError::Locked { path: self.0.clone() }),
            Err((_, errno)) => Err(io_error("lock", &self.0)(errno.into())),
        }
    }

    /// Where links are pinned.
    pub fn links(&self) -> PathBuf {
        self.0.join("links")
    }

    /// Where the link of a program is pinned.
    pub fn link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// Where maps of a layout are pinned.
    pub fn maps(&self, layout: &str) -> PathBuf {
        self.0.join(format!("maps-{layout}"))
    }

    /// Where maps about HTTP/2 connections are pinned.
    pub fn http2_maps(&self) -> PathBuf {
        self.http2().join("maps")
    }

    /// Where links of pods' interfaces are pinned.
    pub fn taps(&self) -> PathBuf {
        self.http2().join("taps")
    }

    /// What this binary's version keeps about HTTP/2 connections.
    pub fn http2(&self) -> PathBuf {
        self.0.join(format!("{HTTP2_PREFIX}{}", abi::HTTP2_VERSION))
    }

    /// What every version keeps about HTTP/2 connections.
    pub fn http2_versions(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let is_one =
            |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(HTTP2_PREFIX);
        entries.filter(is_one).map(|entry| entry.path()).collect()
    }

    /// Every layout that has maps here.
    pub fn layouts(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.0) else {
            return Vec::new();
        };
        let mut layouts: Vec<_> = entries
            .flatten()
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("maps-")?.to_owned()))
            .collect();
        layouts.sort();
        layouts
    }

    /// Removes the maps of a layout.
    ///
    /// # Errors
    /// [`BpffsError::Io`] names what could not be removed.
    pub fn remove_layout(&self, layout: &str) -> Result<(), BpffsError> {
        let directory = self.maps(layout);
        fs::remove_dir_all(&directory).map_err(io_error("remove", &directory))
    }

    /// Removes everything of ours, programs first: connections made from now on go where the
    /// application asks. Returns whether there was anything.
    ///
    /// # Errors
    /// [`BpffsError::Io`] names what could not be removed.
    pub fn remove(&self) -> Result<bool, BpffsError> {
        if !self.0.exists() {
            return Ok(false);
        }
        let links = self.links();
        if links.exists() {
            detach_all(&links);
            fs::remove_dir_all(&links).map_err(io_error("remove", &links))?;
        }
        for directory in self.http2_versions() {
            detach_all(&directory.join("taps"));
            fs::remove_dir_all(&directory).map_err(io_error("remove", &directory))?;
        }
        for layout in self.layouts() {
            self.remove_layout(&layout)?;
        }
        // Not `remove_dir_all`: what is left now is not ours, and stays.
        match fs::remove_dir(&self.0) {
            Err(cause) if cause.kind() != io::ErrorKind::DirectoryNotEmpty => {
                Err(io_error("remove", &self.0)(cause))
            }
            _ => Ok(true),
        }
    }
}

/// Detaches what is pinned in a directory, so that no program runs any more when this returns: the
/// kernel lets go of a link whose pin was removed only some time later.
fn detach_all(links: &Path) {
    let Ok(entries) = fs::read_dir(links) else {
        return;
    };
    for entry in entries.flatten() {
        // Where this fails (Linux 5.7 and 5.8 do not know it), removing the pin detaches as well.
        let _ = sys::open_pinned(&entry.path()).and_then(|link| sys::detach_link(&link));
    }
}

/// Whether a path, or what there is of it already, is on a BPF file system.
pub fn is_on_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    statfs(existing).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

/// The name of the layout of maps made by this binary with these limits.
pub fn layout_of(limits: &Limits) -> String {
    let Limits { services, backends, frontends, chunks, flows, pod_services } = limits;
    format!(
        "v{}-s{services}-b{backends}-f{frontends}-c{chunks}-n{flows}-p{pod_services}",
        abi::ABI_VERSION
    )
}

/// The ABI version and limits that a layout's name tells.
pub fn parse_layout(layout: &str) -> Option<(u32, Limits)> {
    let mut fields = layout.split('-');
    let mut number = |prefix: char| fields.next()?.strip_prefix(prefix)?.parse().ok();
    let version = number('v')?;
    let limits = Limits {
        services: number('s')?,
        backends: number('b')?,
        frontends: number('f')?,
        chunks: number('c')?,
        flows: number('n')?,
        pod_services: number('p')?,
    };
    Some((version, limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_name_tells_what_it_was_made_of() {
        let limits =
            Limits { services: 1, backends: 2, frontends: 3, chunks: 4, flows: 5, pod_services: 6 };
        assert_eq!(parse_layout(&layout_of(&limits)), Some((abi::ABI_VERSION, limits)));
        assert_eq!(parse_layout("v1"), None);
        assert_eq!(parse_layout("v1-s1-b2-f3-c4-nx-p6"), None);
    }

    #[test]
    fn a_directory_outside_bpffs_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = PinRoot::new(directory.path().join("pins")).create().unwrap_err();
        assert!(error.to_string().contains("hint: choose a --pin-root"), "{error}");
    }
}
