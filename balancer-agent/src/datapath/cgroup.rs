//! The cgroup v2 hierarchy: where it is mounted, and cgroups' ids.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Why there is no cgroup to attach to.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mount table cannot be read.
    #[error("read /proc/self/mounts: {0}")]
    Mounts(#[source] io::Error),
    /// Only cgroup v1 is mounted, or nothing at all.
    #[error(
        "no cgroup v2 hierarchy is mounted{}; hint: boot with \
         `systemd.unified_cgroup_hierarchy=1`, or mount one beside cgroup v1: \
         `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`",
        if *.has_v1 { " (this host runs cgroup v1 only)" } else { "" }
    )]
    NoUnified {
        /// Whether a cgroup v1 hierarchy is mounted.
        has_v1: bool,
    },
    /// The given path is no cgroup.
    #[error("`{}` is no cgroup v2 directory: {cause}; hint: pass a directory below the cgroup2 mount", path.display())]
    NotACgroup {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

/// Finds where cgroup v2 is mounted: `/sys/fs/cgroup` on unified hosts,
/// `/sys/fs/cgroup/unified` on systemd's hybrid layout, anywhere else on others.
///
/// # Errors
/// [`CgroupError::NoUnified`] on hosts with cgroup v1 only.
pub fn root() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(CgroupError::Mounts)?;
    root_of(&mounts).ok_or_else(|| CgroupError::NoUnified {
        has_v1: mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup")),
    })
}

/// Picks the cgroup2 mount out of a mount table (proc(5), `/proc/[pid]/mounts`).
fn root_of(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let path = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| unescape(path))
    })
}

/// Undoes the octal escapes that the kernel writes for blanks in mount points.
fn unescape(path: &str) -> PathBuf {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").into()
}

/// The id of a cgroup, which is its directory's inode number (`cgroup_id()`, Linux 5.5).
///
/// # Errors
/// [`CgroupError::NotACgroup`] when the path is not a cgroup v2 directory.
pub fn id(path: &Path) -> Result<u64, CgroupError> {
    let not_a_cgroup = |cause: String| CgroupError::NotACgroup { path: path.into(), cause };
    let metadata = fs::metadata(path).map_err(|error| not_a_cgroup(error.to_string()))?;
    if !path.join("cgroup.procs").exists() {
        return Err(not_a_cgroup("it has no file `cgroup.procs`".into()));
    }
    Ok(metadata.ino())
}

/// The path of the cgroup with this id below `root`, relative to it.
///
/// Walks the hierarchy, at most `CGROUPS_MAX` directories of it.
pub fn find(root: &Path, id: u64) -> Option<PathBuf> {
    const CGROUPS_MAX: usize = 100_000;
    let mut pending = vec![root.to_owned()];
    let mut seen = 0;
    while let Some(directory) = pending.pop() {
        seen += 1;
        if fs::metadata(&directory).is_ok_and(|metadata| metadata.ino() == id) {
            let relative = directory.strip_prefix(root).ok()?;
            return Some(Path::new("/").join(relative));
        }
        if seen > CGROUPS_MAX {
            return None;
        }
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        pending.extend(entries.flatten().filter_map(|entry| {
            entry.file_type().is_ok_and(|kind| kind.is_dir()).then(|| entry.path())
        }));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_in_each_layout() {
        let unified = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let v1 = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n";
        let odd = "none /mnt/my\\040groups cgroup2 rw 0 0\n";
        assert_eq!(root_of(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(root_of(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(root_of(v1), None);
        assert_eq!(root_of(odd), Some("/mnt/my groups".into()));
    }

    #[test]
    fn a_directory_that_is_no_cgroup_is_refused() {
        let error = id(Path::new("/proc")).unwrap_err().to_string();
        assert!(error.contains("no cgroup v2 directory") && error.contains("hint"), "{error}");
    }
}
