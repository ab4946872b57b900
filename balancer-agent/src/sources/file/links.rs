//! The directory entries that decide what a path leads to: where it is looked up, every symlink on
//! the way, and the file itself.
//!
//! A Kubernetes `ConfigMap` is such a way: `balancer.yaml` leads to `..data/balancer.yaml`, and
//! `..data` to a directory of the day; an update renames a new `..data` over the old one.

use std::{
    collections::{BTreeSet, VecDeque},
    ffi::OsString,
    path::{Component, Path, PathBuf},
};

/// Most symlinks that are followed, as in the kernel (`MAXSYMLINKS`, `path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// Entries, each by its directory and name, whose change may change what `path` leads to. The
/// directories exist, unless `path` begins nowhere.
pub(super) fn entries(path: &Path) -> BTreeSet<PathBuf> {
    let mut entries = BTreeSet::new();
    let mut left: VecDeque<OsString> = names(path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let entry = at.join(&name);
        if let Ok(target) = std::fs::read_link(&entry) {
            entries.insert(entry);
            links += 1;
            if links > LINKS_MAX {
                break;
            }
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for name in names(&target).into_iter().rev() {
                left.push_front(name);
            }
        } else if left.is_empty() || !entry.is_dir() {
            // The file, or the first name of the way that is missing.
            entries.insert(entry);
            break;
        } else {
            at = entry;
        }
    }
    entries
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn a_config_map_is_followed_through_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("..2026")).unwrap();
        fs::write(root.join("..2026/balancer.yaml"), "").unwrap();
        symlink("..2026", root.join("..data")).unwrap();
        symlink("..data/balancer.yaml", root.join("balancer.yaml")).unwrap();
        let expected = ["balancer.yaml", "..data", "..2026/balancer.yaml"];
        assert_eq!(
            entries(&root.join("balancer.yaml")),
            expected.map(|entry| root.join(entry)).into()
        );
    }

    #[test]
    fn a_missing_directory_is_awaited_where_it_would_appear() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(entries(&root.join("a/b/c")), [root.join("a")].into());
    }

    #[test]
    fn a_loop_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert_eq!(entries(&root.join("a")), ["a", "b"].map(|entry| root.join(entry)).into());
    }
}
