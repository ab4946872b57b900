//! Pods as users name them (name, UID, cgroup path, cgroup id, process), and as users read them.
//!
//! Cgroups tell UIDs, which works with the daemon down; the daemon tells names.

use super::arguments::Global;
use crate::{
    admin::{self, Answer, PodStatus, Request, client},
    core::pods::{LocalPod, cgroup_path::QosClass},
    datapath::{
        cgroup::{self, CgroupError},
        maps::Maps,
    },
    sources::pods::scan::{Places, scan},
};
use anyhow::Context;
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How often the daemon is asked for the names of pods that came since the last time.
const NAMES_AGE_MIN: Duration = Duration::from_secs(1);

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

/// A client: a pod, or whatever else has a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Pod {
    /// The cgroup's id.
    pub(super) id: u64,
    /// Its path below the root of cgroup v2; none if it has gone.
    pub(super) path: Option<PathBuf>,
    /// The UID of the Kubernetes pod that it is of.
    pub(super) uid: Option<String>,
    /// That pod's quality of service.
    pub(super) qos: Option<QosClass>,
    /// Its namespace; known while the daemon runs.
    pub(super) namespace: Option<String>,
    /// Its name; known while the daemon runs.
    pub(super) name: Option<String>,
    /// Whether it is in the node's network namespace; known while the daemon runs.
    pub(super) host_network: Option<bool>,
}

impl Pod {
    /// A client of which nothing but its id is known.
    pub(super) const fn unknown(id: u64) -> Self {
        Self {
            id,
            path: None,
            uid: None,
            qos: None,
            namespace: None,
            name: None,
            host_network: None,
        }
    }

    /// Its name with its namespace.
    pub(super) fn full_name(&self) -> Option<String> {
        Some(format!("{}/{}", self.namespace.as_ref()?, self.name.as_ref()?))
    }
}

impl From<PodStatus> for Pod {
    fn from(status: PodStatus) -> Self {
        let mut pod = Self {
            path: Some(status.path),
            uid: Some(status.uid.to_string()),
            qos: Some(status.qos),
            ..Self::unknown(status.id)
        };
        if let Some(object) = status.object {
            pod.namespace = Some(object.namespace);
            pod.name = Some(object.name);
            pod.host_network = Some(object.host_network);
        }
        pod
    }
}

impl std::fmt::Display for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.full_name(), &self.uid, &self.path) {
            (Some(name), ..) => f.write_str(&name),
            (None, Some(uid), _) => f.write_str(uid),
            (None, None, Some(path)) => path.display().fmt(f),
            (None, None, None) => write!(f, "cgroup {}", self.id),
        }
    }
}

/// The pods of this node, looked up once each.
pub(super) struct Pods {
    places: Places,
    socket: PathBuf,
    asked_at: Instant,
    /// Kubernetes' pods by cgroup id; empty when clients are told by their own cgroups.
    local: BTreeMap<u64, Pod>,
    others: HashMap<u64, Pod>,
    /// Whether the kernel tells clients by their pods.
    by_pod: bool,
}

impl Pods {
    /// The pods, as cgroups tell and the daemon names them.
    pub(super) fn open(global: &Global, maps: &Maps) -> anyhow::Result<Self> {
        let mut pods = Self::without_maps(global)?;
        pods.by_pod = maps.read_hierarchy().context("read where pods are")?.kubepods != 0;
        pods.look();
        Ok(pods)
    }

    /// Cgroups alone, for when nothing may be loaded.
    pub(super) fn without_maps(global: &Global) -> Result<Self, CgroupError> {
        let places = Places { root: cgroup::root()?, balanced: global.cgroup()? };
        Ok(Self {
            places,
            socket: admin::socket_path(&global.runtime_dir),
            asked_at: Instant::now(),
            local: BTreeMap::new(),
            others: HashMap::new(),
            by_pod: false,
        })
    }

    /// Kubernetes' pods of this node.
    pub(super) fn local(&self) -> impl Iterator<Item = &Pod> {
        self.local.values()
    }

    /// The root of cgroup v2.
    pub(super) fn root(&self) -> &Path {
        &self.places.root
    }

    /// Looks at the cgroups, and asks the daemon for names.
    fn look(&mut self) {
        self.asked_at = Instant::now();
        // What the daemon is about to say is the same, with names.
        if let Ok(Answer::Pods { pods }) = client::ask(&self.socket, &Request::Pods) {
            self.local = pods.into_iter().map(|pod| (pod.id, pod.into())).collect();
            return;
        }
        if let Ok(found) = scan(&self.places, None) {
            let pods = found.cgroups.pods.into_iter();
            let pod = |(id, local): (u64, LocalPod)| PodStatus {
                id,
                path: local.path.into(),
                uid: local.cgroup.uid,
                qos: local.cgroup.qos,
                object: None,
            };
            self.local = pods.map(pod).map(|status| (status.id, status.into())).collect();
        }
    }

    /// The pod with a cgroup id.
    pub(super) fn pod(&mut self, id: u64) -> Pod {
        if let Some(pod) = self.local.get(&id).or_else(|| self.others.get(&id)) {
            return pod.clone();
        }
        if self.asked_at.elapsed() >= NAMES_AGE_MIN {
            self.look();
            if let Some(pod) = self.local.get(&id) {
                return pod.clone();
            }
        }
        let pod = Pod { path: cgroup::find(&self.places.root, id), ..Pod::unknown(id) };
        self.others.entry(id).or_insert(pod).clone()
    }

    /// The pod that a user named.
    pub(super) fn parse(&mut self, text: &str) -> Result<Pod, PodError> {
        if let Some(pid) = text.strip_prefix("pid:") {
            return self.of_process(pid);
        }
        if let Ok(id) = text.parse() {
            return Ok(self.pod(id));
        }
        let is_named = |pod: &&Pod| {
            pod.uid.as_deref() == Some(text) || pod.full_name().as_deref() == Some(text)
        };
        if let Some(pod) = self.local.values().find(is_named) {
            return Ok(pod.clone());
        }
        self.of_cgroup(&below(&self.places.root, Path::new(text)))
    }

    /// The pod that a process belongs to.
    pub(super) fn of_process(&mut self, pid: &str) -> Result<Pod, PodError> {
        if pid.parse::<u32>().is_err() {
            return Err(PodError::NotAPid { text: pid.into() });
        }
        let table = fs::read_to_string(format!("/proc/{pid}/cgroup"));
        let table = table.map_err(|cause| PodError::Process { pid: pid.into(), cause })?;
        let path = unified(&table).ok_or_else(|| PodError::NoUnified { pid: pid.into() })?;
        self.of_cgroup(&below(&self.places.root, path))
    }

    /// What the kernel takes a client in a cgroup for: its pod, or that cgroup itself.
    fn of_cgroup(&mut self, directory: &Path) -> Result<Pod, PodError> {
        let id = cgroup::id(directory)?;
        let around = directory.ancestors().take_while(|above| above.starts_with(self.root()));
        let mut ids = around.filter_map(|above| Some(fs::metadata(above).ok()?.ino()));
        let pod = ids.find_map(|id| self.local.get(&id)).filter(|_| self.by_pod);
        Ok(match pod {
            Some(pod) => pod.clone(),
            None => self.pod(id),
        })
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

    /// Pods whose cgroups are in a directory of any file system; no daemon runs.
    fn pods(root: &Path) -> Pods {
        let mut pods = Pods {
            places: Places { root: root.to_owned(), balanced: root.to_owned() },
            socket: root.join("admin.sock"),
            asked_at: Instant::now(),
            local: BTreeMap::new(),
            others: HashMap::new(),
            by_pod: true,
        };
        pods.look();
        pods
    }

    #[test]
    fn a_pod_is_found_by_all_of_its_names() {
        let root = tempfile::tempdir().unwrap();
        let container = root.path().join("kubepods/burstable/poda-b-c/0f0f");
        fs::create_dir_all(&container).unwrap();
        for cgroup in [container.as_path(), container.parent().unwrap(), root.path()] {
            fs::write(cgroup.join("cgroup.procs"), "").unwrap();
        }
        let mut pods = pods(root.path());
        let pod = pods.parse("a-b-c").unwrap();
        assert_eq!(pod.path.as_deref(), Some(Path::new("/kubepods/burstable/poda-b-c")));
        assert_eq!((pod.to_string(), pod.qos), ("a-b-c".into(), Some(QosClass::Burstable)));
        let id = pod.id.to_string();
        let container = container.to_str().unwrap();
        for name in [id.as_str(), "/kubepods/burstable/poda-b-c", container] {
            assert_eq!(pods.parse(name).unwrap(), pod, "{name}");
        }
        // As long as the kernel does not tell pods, a container is a client of its own.
        pods.by_pod = false;
        assert_ne!(pods.parse(container).unwrap().id, pod.id);
        assert_eq!(pods.of_cgroup(root.path()).unwrap().uid, None);
    }

    #[test]
    fn a_named_pod_is_shown_by_its_name() {
        let mut pod = Pod { uid: Some("a-b-c".into()), ..Pod::unknown(7) };
        assert_eq!(pod.to_string(), "a-b-c");
        (pod.namespace, pod.name) = (Some("shop".into()), Some("cart-0".into()));
        assert_eq!(pod.to_string(), "shop/cart-0");
    }

    #[test]
    fn what_is_no_pod_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut pods = pods(root.path());
        let refused = |pods: &mut Pods, text| pods.parse(text).unwrap_err().to_string();
        assert!(refused(&mut pods, "pid:x").contains("no process id"));
        assert!(refused(&mut pods, "pid:4294967295").contains("hint: is it running"));
        assert!(refused(&mut pods, "/no/such/pod").contains("hint"));
        assert_eq!(pods.parse("18446744073709551615").unwrap().path, None);
    }
}
