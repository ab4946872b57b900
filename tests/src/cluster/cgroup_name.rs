//! The cgroups that a kubelet and a container runtime make for a container, by their names.

use std::path::PathBuf;

/// Who manages cgroups on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// systemd: slices and scopes.
    #[default]
    Systemd,
    /// The kubelet itself: plain directories.
    Cgroupfs,
}

/// What runs containers on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// containerd.
    #[default]
    Containerd,
    /// CRI-O.
    CriO,
}

impl Runtime {
    /// How a Pod's status names a container: the runtime and the id.
    pub fn container_id(self, id: &str) -> String {
        match self {
            Self::Containerd => format!("containerd://{id}"),
            Self::CriO => format!("cri-o://{id}"),
        }
    }
}

/// The path of a container's cgroup below the root, for a pod with this uid and quality of service
/// (`Guaranteed`, `Burstable` or `BestEffort`, as its status has it).
///
/// As kubelet's `pkg/kubelet/cm/cgroup_manager_linux.go` and the runtimes have it: a slice repeats
/// the names of those above it, dashes in a uid become underscores, and guaranteed pods are right
/// below `kubepods`.
pub fn path(driver: Driver, runtime: Runtime, qos: &str, uid: &str, container: &str) -> PathBuf {
    let class = match qos {
        "Guaranteed" => None,
        other => Some(other.to_lowercase()),
    };
    let prefix = match (driver, runtime) {
        (Driver::Systemd, Runtime::Containerd) => "cri-containerd-",
        (Driver::Cgroupfs, Runtime::Containerd) => "",
        (_, Runtime::CriO) => "crio-",
    };
    let (path, suffix) = match driver {
        Driver::Systemd => {
            let uid = uid.replace('-', "_");
            let root = PathBuf::from("kubepods.slice");
            let path = match class {
                None => root.join(format!("kubepods-pod{uid}.slice")),
                Some(class) => root
                    .join(format!("kubepods-{class}.slice"))
                    .join(format!("kubepods-{class}-pod{uid}.slice")),
            };
            (path, ".scope")
        }
        Driver::Cgroupfs => {
            let root = PathBuf::from("kubepods").join(class.unwrap_or_default());
            (root.join(format!("pod{uid}")), "")
        }
    };
    path.join(format!("{prefix}{container}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_named_as_on_real_nodes() {
        let of = |driver, runtime, qos| {
            path(driver, runtime, qos, "a-b", "c0").into_os_string().into_string().unwrap()
        };
        let (systemd, cgroupfs) = (Driver::Systemd, Driver::Cgroupfs);
        let (containerd, crio) = (Runtime::Containerd, Runtime::CriO);
        let cases = [
            (
                of(systemd, containerd, "Burstable"),
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda_b.slice/\
                 cri-containerd-c0.scope",
            ),
            (of(systemd, crio, "Guaranteed"), "kubepods.slice/kubepods-poda_b.slice/crio-c0.scope"),
            (of(cgroupfs, containerd, "BestEffort"), "kubepods/besteffort/poda-b/c0"),
            (of(cgroupfs, containerd, "Guaranteed"), "kubepods/poda-b/c0"),
            (of(cgroupfs, crio, "Burstable"), "kubepods/burstable/poda-b/crio-c0"),
        ];
        for (made, real) in cases {
            assert_eq!(made, real);
        }
    }
}
