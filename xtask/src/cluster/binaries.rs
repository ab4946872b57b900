//! The control plane's binaries: compiled once per release, kept in the user's cache.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::go::Go;
use crate::{process, workspace};

/// A release of Kubernetes that the tests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Release {
    /// What users call it.
    pub(crate) minor: &'static str,
    /// The version that is built.
    pub(crate) version: &'static str,
}

/// Newest first: the newest that the cloud providers offer, and the oldest still supported.
pub(crate) const RELEASES: [Release; 2] =
    [Release { minor: NEWEST, version: "1.36.3" }, Release { minor: "1.34", version: "1.34.4" }];

/// The release that is run unless another one is asked for.
pub(crate) const NEWEST: &str = "1.36";

/// The programs of a control plane, each with the package that `go build` makes it from.
///
/// Kubernetes depends on etcd's server for its own tests, so that one module pins them all and
/// most of what they share is compiled once.
const PROGRAMS: [(&str, &str); 3] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
];

/// Changes whenever binaries that are kept must be made anew.
const RECIPE: &str = "1";

/// Where they are kept.
pub(crate) fn cache() -> PathBuf {
    workspace::cache("control-plane")
}

/// The directory with the programs of `release`, which are compiled if they are not there.
pub(crate) fn ensure(release: &Release) -> Result<PathBuf> {
    let directory = cache().join(release.minor);
    if is_complete(&directory, release) {
        return Ok(directory);
    }
    let go = Go::find()?;
    let started = Instant::now();
    process::say(format!(
        "compiling the control plane of Kubernetes {}: minutes the first time, then kept in {}",
        release.version,
        directory.display()
    ));
    // A place of its own, so that two builds at the same time cannot take each other's files.
    let workshop = cache().join(format!("{}.{}", release.minor, std::process::id()));
    fs::create_dir_all(&workshop).with_context(|| format!("create {}", workshop.display()))?;
    let built = compile(&go, release, &workshop).and_then(|()| keep(&workshop, &directory));
    let removed = fs::remove_dir_all(&workshop);
    built.with_context(|| format!("compile Kubernetes {}", release.version))?;
    removed.with_context(|| format!("remove {}", workshop.display()))?;
    let stamp = directory.join("STAMP");
    fs::write(&stamp, stamp_of(release)).with_context(|| format!("write {}", stamp.display()))?;
    process::say(format!("compiled in {} s", started.elapsed().as_secs()));
    Ok(directory)
}

fn stamp_of(release: &Release) -> String {
    format!("kubernetes {} recipe {RECIPE}\n", release.version)
}

fn is_complete(directory: &Path, release: &Release) -> bool {
    let stamp = fs::read_to_string(directory.join("STAMP"));
    stamp.is_ok_and(|stamp| stamp == stamp_of(release))
        && PROGRAMS.iter().all(|(name, _)| process::is_executable(&directory.join(name)))
}

fn compile(go: &Go, release: &Release, workshop: &Path) -> Result<()> {
    go.write_module(release.version, workshop)?;
    for (name, package) in PROGRAMS {
        process::say(format!("compiling {name}"));
        go.build(release.version, package, &workshop.join(name), workshop)?;
    }
    Ok(())
}

fn keep(workshop: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    for (name, _) in PROGRAMS {
        let (from, to) = (workshop.join(name), directory.join(name));
        fs::rename(&from, &to).with_context(|| format!("put {} in place", to.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_release_is_named_by_the_start_of_its_version() {
        for Release { minor, version } in RELEASES {
            assert!(version.starts_with(&format!("{minor}.")), "{minor} {version}");
        }
        assert_eq!(RELEASES[0].minor, NEWEST);
    }

    #[test]
    fn only_whole_builds_of_this_version_and_recipe_are_taken() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        for (name, _) in PROGRAMS {
            assert!(!is_complete(path, &RELEASES[0]));
            fs::write(path.join(name), "").expect("writable");
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(path.join(name), executable).expect("its owner may");
        }
        assert!(!is_complete(path, &RELEASES[0]), "without a stamp it may be half a build");
        fs::write(path.join("STAMP"), stamp_of(&RELEASES[0])).expect("writable");
        assert!(is_complete(path, &RELEASES[0]));
        assert!(!is_complete(path, &RELEASES[1]));
    }
}
