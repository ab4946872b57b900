//! The releases of Kubernetes that tests run, and where their programs are.

use anyhow::{Context, bail};
use std::{
    env,
    fmt::{self, Display, Formatter},
    path::PathBuf,
    str::FromStr,
};

/// Overrides where the directories of all releases are, each named by its minor version.
pub const DIRECTORY: &str = "BALANCER_CONTROL_PLANE";

/// A release of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The oldest.
    V1_34,
    /// The newest.
    V1_36,
}

impl Version {
    /// All, oldest first.
    pub const ALL: [Self; 2] = [Self::V1_34, Self::V1_36];
    /// The newest.
    pub const NEWEST: Self = Self::V1_36;

    /// The directory with etcd, kube-apiserver and kube-controller-manager of this release.
    ///
    /// # Errors
    /// Says how to build them.
    pub fn programs(self) -> anyhow::Result<PathBuf> {
        let directory = base()?.join(self.to_string());
        // Written when everything else is there.
        if !directory.join("STAMP").is_file() {
            bail!(
                "no control plane of Kubernetes {self} in {}; \
                 hint: cargo xtask cluster build (needs Go)",
                directory.display()
            );
        }
        Ok(directory)
    }
}

impl Display for Version {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V1_34 => "1.34",
            Self::V1_36 => "1.36",
        })
    }
}

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let known = Self::ALL.into_iter().find(|version| version.to_string() == text);
        known.with_context(|| {
            let names = Self::ALL.map(|version| version.to_string());
            format!("no Kubernetes `{text}` here; hint: one of {}", names.join(", "))
        })
    }
}

/// The cache that `cargo xtask cluster build` fills.
fn base() -> anyhow::Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = set(DIRECTORY) {
        return Ok(directory);
    }
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")));
    let cache = cache.with_context(|| format!("find the home directory; hint: set {DIRECTORY}"))?;
    Ok(cache.join("balancer").join("control-plane"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_they_are_written() {
        for version in Version::ALL {
            assert_eq!(version.to_string().parse::<Version>().unwrap(), version);
        }
        let error = "1.12".parse::<Version>().unwrap_err().to_string();
        assert!(error.contains("1.12") && error.contains("1.36"), "{error}");
    }
}
