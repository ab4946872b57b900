//! Cgroup paths as kubelet and container runtimes make them, with both cgroup drivers.
//!
//! ```text
//! systemd   kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope
//! cgroupfs  kubepods/burstable/pod<uid>/<id>
//! ```
//! Guaranteed pods have no class between `kubepods` and them. With kubelet's `--cgroup-root`, and
//! on kind's nodes, all of it is below further cgroups, and systemd's names carry those:
//! `kubelet.slice/kubelet-kubepods.slice`. Sources: kubelet's `pkg/kubelet/cm`
//! (`cgroup_manager_linux.go`, `ToSystemd()`), containerd's and CRI-O's cgroup path functions.

use super::PodUid;
use serde::{Deserialize, Serialize};

const KUBEPODS: &str = "kubepods";
/// Most bytes of a container's id; both runtimes make 64 hexadecimal digits.
const CONTAINER_ID_BYTES_MAX: usize = 128;

/// How cgroups are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Slices and scopes: `kubepods-burstable.slice`. The default of kubeadm, EKS and kind.
    Systemd,
    /// Plain directories: `kubepods/burstable`.
    Cgroupfs,
}

/// A pod's quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QosClass {
    /// Limits equal to requests.
    Guaranteed,
    /// Some requests.
    Burstable,
    /// None.
    BestEffort,
}

/// A container runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// containerd.
    Containerd,
    /// CRI-O.
    Crio,
    /// Docker Engine through cri-dockerd.
    Docker,
}

/// A pod, as its cgroup's path tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    /// Its UID.
    pub uid: PodUid,
    /// Its quality of service.
    pub qos: QosClass,
}

/// A container, as its cgroup's path tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerCgroup {
    /// Its pod.
    pub pod: PodCgroup,
    /// The runtime, where the name tells it.
    pub runtime: Option<Runtime>,
    /// Its id.
    pub id: String,
}

/// What a path below the root of cgroup v2 is to Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeCgroup {
    /// Holds all pods.
    Kubepods,
    /// Holds all pods of a class.
    Class(QosClass),
    /// A pod, or something in it that is no container.
    Pod(PodCgroup),
    /// A container, or something below it.
    Container(ContainerCgroup),
}

// === impl QosClass ===

impl QosClass {
    /// The name of its cgroup; guaranteed pods are without one.
    pub const fn cgroup(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }

    fn of_cgroup(name: &str) -> Option<Self> {
        [Self::Burstable, Self::BestEffort].into_iter().find(|class| class.cgroup() == Some(name))
    }
}

// === impl Runtime ===

impl Runtime {
    const ALL: [Self; 3] = [Self::Containerd, Self::Crio, Self::Docker];

    /// What precedes the container's id in the name of its scope.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Containerd => "cri-containerd-",
            Self::Crio => "crio-",
            Self::Docker => "docker-",
        }
    }
}

// === impl KubeCgroup ===

impl KubeCgroup {
    /// Reads a path below the root of cgroup v2, with or without a slash at its start.
    pub fn parse(path: &str) -> Option<Self> {
        let mut names = path.split('/').filter(|name| !name.is_empty());
        let root = names.find_map(Root::parse)?;
        let Some(first) = names.next() else {
            return Some(Self::Kubepods);
        };
        let (qos, pod) = match root.class(first) {
            Some(class) => match names.next() {
                Some(pod) => (class, pod),
                None => return Some(Self::Class(class)),
            },
            None => (QosClass::Guaranteed, first),
        };
        let pod = PodCgroup { uid: root.uid(qos, pod)?, qos };
        let container = names.next().and_then(|name| container(root.driver(), name));
        Some(match container {
            Some((runtime, id)) => Self::Container(ContainerCgroup { pod, runtime, id }),
            None => Self::Pod(pod),
        })
    }

    /// The pod that the path is of or in.
    pub fn into_pod(self) -> Option<PodCgroup> {
        match self {
            Self::Kubepods | Self::Class(_) => None,
            Self::Pod(pod) => Some(pod),
            Self::Container(container) => Some(container.pod),
        }
    }
}

// === impl PodCgroup ===

impl PodCgroup {
    /// Its path as kubelet makes it, below the cgroup that `--cgroup-root` names by its parts.
    pub fn path(&self, driver: Driver, root: &[&str]) -> String {
        let (class, uid) = (self.qos.cgroup(), self.uid.as_str());
        let mut names: Vec<String> = root.iter().map(|name| (*name).to_owned()).collect();
        names.push(KUBEPODS.into());
        names.extend(class.map(str::to_owned));
        match driver {
            Driver::Cgroupfs => {
                names.push(format!("pod{uid}"));
                names.join("/")
            }
            Driver::Systemd => {
                // In systemd's names a dash means a level: those of the UID have to go.
                names.push(format!("pod{}", uid.replace('-', "_")));
                let slices = (1..=names.len()).map(|end| names[..end].join("-") + ".slice");
                slices.collect::<Vec<_>>().join("/")
            }
        }
    }
}

// === impl ContainerCgroup ===

impl ContainerCgroup {
    /// Its path as its runtime makes it.
    pub fn path(&self, driver: Driver, root: &[&str]) -> String {
        let (pod, id) = (self.pod.path(driver, root), &self.id);
        let name = match (driver, self.runtime) {
            (Driver::Systemd, Some(runtime)) => format!("{}{id}.scope", runtime.prefix()),
            (Driver::Cgroupfs, Some(Runtime::Crio)) => format!("crio-{id}"),
            _ => id.clone(),
        };
        format!("{pod}/{name}")
    }
}

/// The `kubepods` cgroup's own name, which those below it carry with the systemd driver.
enum Root<'a> {
    Systemd { stem: &'a str },
    Cgroupfs,
}

impl<'a> Root<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        if name == KUBEPODS {
            return Some(Self::Cgroupfs);
        }
        let stem = name.strip_suffix(".slice")?;
        let above = stem.strip_suffix(KUBEPODS)?;
        let is_root = above.is_empty() || (above.len() > 1 && above.ends_with('-'));
        is_root.then_some(Self::Systemd { stem })
    }

    const fn driver(&self) -> Driver {
        match self {
            Self::Systemd { .. } => Driver::Systemd,
            Self::Cgroupfs => Driver::Cgroupfs,
        }
    }

    /// What a child's name adds to its parent's.
    fn own_part<'b>(&self, class: Option<&str>, name: &'b str) -> Option<&'b str> {
        match self {
            Self::Cgroupfs => Some(name),
            Self::Systemd { stem } => {
                let name = name.strip_suffix(".slice")?.strip_prefix(stem)?.strip_prefix('-')?;
                match class {
                    Some(class) => name.strip_prefix(class)?.strip_prefix('-'),
                    None => Some(name),
                }
            }
        }
    }

    fn class(&self, name: &str) -> Option<QosClass> {
        QosClass::of_cgroup(self.own_part(None, name)?)
    }

    fn uid(&self, qos: QosClass, name: &str) -> Option<PodUid> {
        let uid = self.own_part(qos.cgroup(), name)?.strip_prefix("pod")?;
        match self {
            Self::Cgroupfs => PodUid::new(uid),
            // A dash would be a level of its own.
            Self::Systemd { .. } if uid.contains('-') => None,
            Self::Systemd { .. } => PodUid::new(&uid.replace('_', "-")),
        }
    }
}

/// A container's runtime and id, from its cgroup's name.
fn container(driver: Driver, name: &str) -> Option<(Option<Runtime>, String)> {
    let name = match driver {
        Driver::Systemd => name.strip_suffix(".scope")?,
        Driver::Cgroupfs => name,
    };
    let runtime = Runtime::ALL.into_iter().find(|runtime| name.starts_with(runtime.prefix()));
    let id = runtime.map_or(name, |runtime| &name[runtime.prefix().len()..]);
    // CRI-O's monitor, `crio-conmon-<id>`, is no container.
    let is_id = (1..=CONTAINER_ID_BYTES_MAX).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_id.then(|| (runtime, id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UID: &str = "0ba1fcc0-2a5d-4f4b-9a0c-6e6ec2a4a6c3";
    const HASH: &str = "7d4b9ac47c4a4a9c8d4a1f7b0c6e0a51";
    const ID: &str = "b7f3ce1f8e5a4a7a9a0d2c2c3f0e3a6f4d5c6b7a8990a1b2c3d4e5f60718293a";

    fn pod(uid: &str, qos: QosClass) -> PodCgroup {
        PodCgroup { uid: PodUid::new(uid).unwrap(), qos }
    }

    fn check(path: &str, expected: impl Into<Option<KubeCgroup>>) {
        assert_eq!(KubeCgroup::parse(path), expected.into(), "{path}");
    }

    #[test]
    fn paths_as_they_are_found_on_nodes() {
        use QosClass::{BestEffort, Burstable, Guaranteed};
        let escaped = UID.replace('-', "_");
        let in_container = |qos, runtime| {
            let container = ContainerCgroup { pod: pod(UID, qos), runtime, id: ID.into() };
            Some(KubeCgroup::Container(container))
        };
        let in_pod = |uid, qos| Some(KubeCgroup::Pod(pod(uid, qos)));
        check("kubepods.slice", Some(KubeCgroup::Kubepods));
        check("/kubepods", Some(KubeCgroup::Kubepods));
        check("kubepods.slice/kubepods-burstable.slice", Some(KubeCgroup::Class(Burstable)));
        check("kubepods/besteffort", Some(KubeCgroup::Class(BestEffort)));
        check(
            &format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{escaped}.slice/cri-containerd-{ID}.scope"
            ),
            in_container(BestEffort, Some(Runtime::Containerd)),
        );
        check(
            &format!("/kubepods.slice/kubepods-pod{escaped}.slice/crio-{ID}.scope/container"),
            in_container(Guaranteed, Some(Runtime::Crio)),
        );
        check(
            &format!("/kubepods.slice/kubepods-pod{escaped}.slice/crio-conmon-{ID}.scope"),
            in_pod(UID, Guaranteed),
        );
        check(&format!("/kubepods/burstable/pod{UID}/{ID}"), in_container(Burstable, None));
        check(
            &format!("/kubepods/pod{UID}/crio-{ID}"),
            in_container(Guaranteed, Some(Runtime::Crio)),
        );
        check(
            &format!(
                "/system.slice/docker-{ID}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{escaped}.slice/cri-containerd-{ID}.scope"
            ),
            in_container(Burstable, Some(Runtime::Containerd)),
        );
        check(&format!("/kubelet/kubepods/pod{UID}"), in_pod(UID, Guaranteed));
        // Static pods carry the hash of their manifest.
        check(
            &format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice"),
            in_pod(HASH, Burstable),
        );
    }

    #[test]
    fn what_is_no_pod_is_none() {
        for path in [
            "",
            "/",
            "/system.slice/kubelet.service",
            "/mykubepods.slice",
            "/-kubepods.slice",
            "/kubepods.slicer",
            "/kubepods.slice/kubepods-other.slice",
            "/kubepods.slice/burstable/pod1",
            "/kubepods.slice/kubepods-pod.slice",
            "/kubepods.slice/kubepods-poda-b.slice",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-besteffort-poda.slice",
            "/kubepods/pod",
            "/kubepods/burstable/poda_b",
            "/kubepods/burstable/pod\u{e9}",
        ] {
            check(path, None);
        }
        check(&format!("/kubepods/pod{}", "a".repeat(65)), None);
    }

    fn any_qos() -> impl Strategy<Value = QosClass> {
        prop_oneof![
            Just(QosClass::Guaranteed),
            Just(QosClass::Burstable),
            Just(QosClass::BestEffort)
        ]
    }

    fn any_root() -> impl Strategy<Value = Vec<&'static str>> {
        prop_oneof![Just(vec![]), Just(vec!["kubelet"]), Just(vec!["a", "b"])]
    }

    proptest! {
        #[test]
        fn what_is_made_is_read_back(
            uid in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}|[0-9a-f]{32}",
            id in "[0-9a-f]{64}",
            qos in any_qos(),
            root in any_root(),
            runtime in prop_oneof![Just(Runtime::Containerd), Just(Runtime::Crio), Just(Runtime::Docker)],
        ) {
            let pod = pod(&uid, qos);
            for driver in [Driver::Systemd, Driver::Cgroupfs] {
                let path = pod.path(driver, &root);
                prop_assert_eq!(KubeCgroup::parse(&path), Some(KubeCgroup::Pod(pod.clone())));
                let told = driver == Driver::Systemd || runtime == Runtime::Crio;
                let runtime = Some(runtime).filter(|_| told);
                let container = ContainerCgroup { pod: pod.clone(), runtime, id: id.clone() };
                let path = container.path(driver, &root);
                prop_assert_eq!(KubeCgroup::parse(&path), Some(KubeCgroup::Container(container)));
            }
        }

        #[test]
        fn garbage_is_survived(path in "\\PC{0,200}", tail in "(/|kubepods|pod|-|_|\\.slice|\\.scope|burstable|crio-|[a-f]){0,30}") {
            let _ = KubeCgroup::parse(&path);
            let _ = KubeCgroup::parse(&format!("kubepods.slice/{tail}"));
            let _ = KubeCgroup::parse(&format!("kubepods/{tail}"));
            // Whatever is read as a pod can be made again, and then reads the same.
            if let Some(pod) = KubeCgroup::parse(&format!("kubepods/{tail}")).and_then(KubeCgroup::into_pod) {
                let again = KubeCgroup::parse(&pod.path(Driver::Cgroupfs, &[])).and_then(KubeCgroup::into_pod);
                prop_assert_eq!(again, Some(pod));
            }
        }
    }
}
