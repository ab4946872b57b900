//! One look at cgroupfs: where `kubepods` is, and which pods are in it.

use crate::core::pods::{
    LocalPod, NodeCgroups,
    cgroup_path::{KubeCgroup, QosClass},
};
use balancer_common::hierarchy::{Hierarchy, SEARCH_LEVELS_MAX};
use std::{
    collections::VecDeque,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// How deep `kubepods` may be: kind's nodes have it 4 levels below the machine's root.
const DEPTH_MAX: u32 = 5;
/// Most directories that are looked into for `kubepods`.
const SEARCHED_MAX: usize = 4_096;
/// Most pods that are told of. Kubelet runs 110 unless it is told otherwise.
pub const PODS_MAX: usize = 4_096;
/// The inode number of the machine's root cgroup (`KERNFS_ROOT_INO`): any other directory is the root
/// of a cgroup namespace or a bind mount, whose level the kernel alone knows.
const ROOT_INODE: u64 = 1;

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The mount of cgroup v2.
    pub root: PathBuf,
    /// The cgroup that is balanced: pods elsewhere do not matter.
    pub balanced: PathBuf,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The pods and where they are.
    pub cgroups: NodeCgroups,
    /// The directory of `kubepods`.
    pub kubepods: Option<PathBuf>,
    /// The directories in which a change would make another picture.
    pub directories: Vec<PathBuf>,
    /// Whether there were more pods than [`PODS_MAX`].
    pub truncated: bool,
}

/// Looks for `kubepods` and for the pods in it. The place where it was the last time, if there was
/// one, is looked at first.
///
/// # Errors
/// When the mount itself cannot be read. What vanishes meanwhile is not there.
pub fn scan(places: &Places, last: Option<&Path>) -> io::Result<Scan> {
    let root_inode = fs::metadata(&places.root)?.ino();
    let mut scan = Scan::default();
    scan.directories.push(places.balanced.clone());
    let known = last.filter(|path| path.is_dir()).map(Path::to_owned);
    let found = known.or_else(|| scan.search(places));
    let Some((kubepods, id)) = found.and_then(|path| Some((path.clone(), inode(&path)?))) else {
        return Ok(scan);
    };
    let depth = kubepods.strip_prefix(&places.root).map_or(0, |path| path.iter().count());
    scan.cgroups.hierarchy = Hierarchy {
        kubepods: id,
        level: u32::try_from(depth).unwrap_or(u32::MAX),
        search_levels: if root_inode == ROOT_INODE { 0 } else { SEARCH_LEVELS_MAX },
        ..Hierarchy::default()
    };
    let chain = kubepods.ancestors().take_while(|above| above.starts_with(&places.balanced));
    scan.directories = chain.map(Path::to_owned).collect();
    scan.collect(&places.root, &kubepods);
    scan.kubepods = Some(kubepods);
    Ok(scan)
}

impl Scan {
    /// The nearest `kubepods`: around what is balanced, or in it. Without one, the directories where
    /// it would appear are noted.
    fn search(&mut self, places: &Places) -> Option<PathBuf> {
        let Places { root, balanced } = places;
        let is_kubepods = |directory: &Path| {
            below(root, directory).and_then(KubeCgroup::parse) == Some(KubeCgroup::Kubepods)
        };
        if let Some(around) = balanced.ancestors().find(|directory| is_kubepods(directory)) {
            return Some(around.to_owned());
        }
        let mut pending = VecDeque::from([(balanced.clone(), 0)]);
        let mut searched = 0;
        while let Some((directory, depth)) = pending.pop_front() {
            searched += 1;
            if searched > SEARCHED_MAX {
                tracing::debug!(max = SEARCHED_MAX, "too many cgroups to look for pods in all");
                return None;
            }
            for child in children(&directory) {
                if is_kubepods(&child) {
                    return Some(child);
                }
                if depth == 0 {
                    self.directories.push(child.clone());
                }
                if depth + 1 < DEPTH_MAX {
                    pending.push_back((child, depth + 1));
                }
            }
        }
        None
    }

    /// Notes the pods of `kubepods`, and those of its classes.
    fn collect(&mut self, root: &Path, kubepods: &Path) {
        for child in children(kubepods) {
            match below(root, &child).and_then(KubeCgroup::parse) {
                Some(KubeCgroup::Class(class)) => {
                    let Some(id) = inode(&child) else { continue };
                    match class {
                        QosClass::Burstable => self.cgroups.hierarchy.burstable = id,
                        QosClass::BestEffort => self.cgroups.hierarchy.besteffort = id,
                        QosClass::Guaranteed => continue,
                    }
                    for pod in children(&child) {
                        self.note(root, &pod);
                    }
                    self.directories.push(child);
                }
                Some(_) => self.note(root, &child),
                None => {}
            }
        }
    }

    fn note(&mut self, root: &Path, directory: &Path) {
        let Some(path) = below(root, directory) else { return };
        let Some(KubeCgroup::Pod(cgroup)) = KubeCgroup::parse(path) else {
            return;
        };
        if self.cgroups.pods.len() >= PODS_MAX {
            self.truncated = true;
            return;
        }
        if let Some(id) = inode(directory) {
            self.cgroups.pods.insert(id, LocalPod { cgroup, path: format!("/{path}") });
        }
    }
}

/// A cgroup's path below the root, where it is text: kubelet's are.
fn below<'a>(root: &Path, directory: &'a Path) -> Option<&'a str> {
    directory.strip_prefix(root).ok()?.to_str()
}

/// The id of a cgroup, which is its directory's inode number.
pub(super) fn inode(directory: &Path) -> Option<u64> {
    Some(fs::metadata(directory).ok()?.ino())
}

/// The child cgroups, in no order; none if the cgroup has gone.
fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.flatten().filter(is_directory).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::pods::{
        PodUid,
        cgroup_path::{ContainerCgroup, Driver, PodCgroup},
    };
    use std::collections::BTreeSet;

    // Any file system will do: ids are inode numbers.
    fn places(root: &Path, balanced: &str) -> Places {
        Places { root: root.to_owned(), balanced: root.join(balanced) }
    }

    fn make(root: &Path, driver: Driver, above: &[&str], pod: &PodCgroup) -> PathBuf {
        let container = ContainerCgroup { pod: pod.clone(), runtime: None, id: "c0ffee".into() };
        fs::create_dir_all(root.join(container.path(driver, above))).unwrap();
        root.join(pod.path(driver, above))
    }

    fn check(driver: Driver, above: &[&str]) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("system.slice/podman.service")).unwrap();
        let found = scan(&places(root, ""), None).unwrap();
        assert_eq!((found.cgroups, found.kubepods), (NodeCgroups::default(), None));
        assert!(found.directories.contains(&root.join("system.slice")));

        let pod = |uid: &str, qos| PodCgroup { uid: PodUid::new(uid).unwrap(), qos };
        let pods = [
            pod("a-1", QosClass::Guaranteed),
            pod("b-2", QosClass::Burstable),
            pod("c-3", QosClass::BestEffort),
        ];
        let made: Vec<_> = pods.iter().map(|pod| make(root, driver, above, pod)).collect();
        let found = scan(&places(root, ""), None).unwrap();
        assert_eq!(found.cgroups.pods.len(), 3);
        for (pod, path) in pods.iter().zip(&made) {
            let local = &found.cgroups.pods[&inode(path).unwrap()];
            assert_eq!((&local.cgroup, root.join(&local.path[1..])), (pod, path.clone()));
        }
        let kubepods = found.kubepods.clone().unwrap();
        let hierarchy = found.cgroups.hierarchy;
        assert_eq!(hierarchy.level as usize, above.len() + 1);
        assert_eq!(hierarchy.search_levels, SEARCH_LEVELS_MAX, "not the machine's root");
        let ids = [Some(kubepods.as_path()), made[1].parent(), made[2].parent()];
        let ids = ids.map(|path| inode(path.unwrap()).unwrap());
        assert_eq!([hierarchy.kubepods, hierarchy.burstable, hierarchy.besteffort], ids);
        let watched: BTreeSet<_> = found.directories.iter().map(PathBuf::as_path).collect();
        assert!(watched.contains(kubepods.as_path()) && watched.contains(root));
        assert!(watched.contains(made[1].parent().unwrap()));

        // Found again where it was, from within, and not where it is not.
        assert_eq!(scan(&places(root, ""), Some(&kubepods)).unwrap(), found);
        let within = made[0].strip_prefix(root).unwrap().to_str().unwrap();
        assert_eq!(scan(&places(root, within), None).unwrap().cgroups, found.cgroups);
        assert_eq!(scan(&places(root, "system.slice"), None).unwrap().kubepods, None);
        fs::remove_dir_all(&kubepods).unwrap();
        assert_eq!(scan(&places(root, ""), Some(&kubepods)).unwrap().kubepods, None);
    }

    #[test]
    fn pods_are_found_with_each_driver_and_root() {
        for above in [&[][..], &["kubelet"][..]] {
            check(Driver::Systemd, above);
            check(Driver::Cgroupfs, above);
        }
    }

    #[test]
    fn a_mount_that_is_not_there_is_an_error() {
        assert!(scan(&places(Path::new("/no/such/mount"), ""), None).is_err());
    }
}
