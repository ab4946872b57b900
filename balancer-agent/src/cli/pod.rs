//! Pods as users name them (cgroup path, cgroup id, process), and cgroup ids as users read them.

use crate::datapath::cgroup::{self, CgroupError};
use serde::Serialize;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// A text that names no pod.
#[derive(Debug, thiserror::Error)]
pub(super) enum PodError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("read the cgroup of process {pid}: {cause}; hint: is it running?")]
    Process { pid: String, cause: std::io::Error },
    #[error("process {pid} is in no cgroup v2; hint: name its cgroup's path instead")]
    NoUnified { pid: String },
    #[error("`{text}` is no process id; hint: write a number")]
    NotAPid { text: String },
}

/// A client, told by its cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Pod {
    /// The cgroup's id.
    pub(super) id: u64,
    /// Its path below the root of cgroup v2; none if it has gone.
    pub(super) path: Option<PathBuf>,
}

impl std::fmt::Display for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.path {
            Some(path) => path.display().fmt(f),
            None => write!(f, "cgroup {}", self.id),
        }
    }
}

/// The pods of this node, looked up once each.
pub(super) struct Pods {
    root: PathBuf,
    paths: HashMap<u64, Option<PathBuf>>,
}

impl Pods {
    pub(super) fn new() -> Result<Self, CgroupError> {
        let root = cgroup::root()?;
        let paths = HashMap::new();
        Ok(Self { root, paths })
    }

    /// The root of cgroup v2.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The pod with a cgroup id.
    pub(super) fn pod(&mut self, id: u64) -> Pod {
        let root = &self.root;
        let path = self.paths.entry(id);
        let path = path.or_insert_with(|| cgroup::find(root, id)).clone();
        Pod { id, path }
    }

    /// The pod that a user named.
    pub(super) fn parse(&mut self, text: &str) -> Result<Pod, PodError> {
        if let Some(pid) = text.strip_prefix("pid:") {
            return self.of_process(pid);
        }
        if let Ok(id) = text.parse() {
            return Ok(self.pod(id));
        }
        let path = below(&self.root, Path::new(text));
        let id = cgroup::id(&path)?;
        Ok(self.pod(id))
    }

    /// The pod that a process belongs to.
    pub(super) fn of_process(&mut self, pid: &str) -> Result<Pod, PodError> {
        if pid.parse::<u32>().is_err() {
            return Err(PodError::NotAPid { text: pid.into() });
        }
        let table = fs::read_to_string(format!("/proc/{pid}/cgroup"));
        let table = table.map_err(|cause| PodError::Process { pid: pid.into(), cause })?;
        let path = unified(&table).ok_or_else(|| PodError::NoUnified { pid: pid.into() })?;
        let id = cgroup::id(&below(&self.root, path))?;
        Ok(self.pod(id))
    }
}

/// A cgroup's directory: paths may be given whole, or as `connections` prints them.
fn below(root: &Path, path: &Path) -> PathBuf {
    if path.starts_with(root) {
        return path.into();
    }
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The cgroup v2 line of `/proc/[pid]/cgroup` (cgroups(7)): hierarchy 0, no controllers.
fn unified(table: &str) -> Option<&Path> {
    let mut lines = table.lines();
    lines.find_map(|line| line.strip_prefix("0::").map(Path::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_whole_or_below_the_root() {
        let root = Path::new("/sys/fs/cgroup");
        let pod = Path::new("/sys/fs/cgroup/kubepods/a");
        for path in ["/sys/fs/cgroup/kubepods/a", "/kubepods/a", "kubepods/a"] {
            assert_eq!(below(root, Path::new(path)), pod);
        }
    }

    #[test]
    fn the_unified_line_is_found_among_those_of_v1() {
        let table = "12:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/kubepods/c\n";
        assert_eq!(unified(table), Some(Path::new("/kubepods/c")));
        assert_eq!(unified("12:cpu,cpuacct:/a\n"), None);
    }

    #[test]
    fn what_is_no_pod_is_refused() {
        // Hosts without cgroup v2 refuse everything, with a hint of their own.
        let Ok(mut pods) = Pods::new() else { return };
        let refused = |pods: &mut Pods, text| pods.parse(text).unwrap_err().to_string();
        assert!(refused(&mut pods, "pid:x").contains("no process id"));
        assert!(refused(&mut pods, "pid:4294967295").contains("hint: is it running"));
        assert!(refused(&mut pods, "/no/such/pod").contains("hint"));
        assert_eq!(pods.parse("18446744073709551615").unwrap().path, None);
    }
}
