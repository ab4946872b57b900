//! What the machine holds: every rustc and every bpf-linker that could be used.

use std::{
    env,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Result, bail};

use super::{OVERRIDE, probe};
use crate::{process, workspace};

/// Everything that the selection looks at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// In the order in which they are considered.
    pub(crate) compilers: Vec<Compiler>,
    /// In the order in which they are considered.
    pub(crate) linkers: Vec<Linker>,
    /// The cargo that runs xtask.
    pub(crate) cargo: PathBuf,
}

/// One rustc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Where it is.
    pub(crate) rustc: PathBuf,
    /// How it was found.
    pub(crate) origin: Origin,
    /// What it said about itself, or why it could not.
    pub(crate) about: Result<CompilerAbout, String>,
}

/// How a rustc was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Named by [`OVERRIDE`].
    Override,
    /// In `PATH` or a system directory.
    Path,
    /// In one of rustup's toolchains.
    Rustup,
}

/// What a rustc says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CompilerAbout {
    /// `release` of `rustc -vV`.
    pub(crate) release: String,
    /// (major, minor) of the release.
    pub(crate) version: (u32, u32),
    /// The major version of its LLVM.
    pub(crate) llvm_major: Option<u32>,
    /// Whether it has a precompiled `core` for BPF.
    pub(crate) has_core: bool,
    /// Whether it has the sources of `core` (rustup's rust-src).
    pub(crate) has_source: bool,
    /// The cargo of the same toolchain, if there is one.
    pub(crate) cargo: Option<PathBuf>,
}

impl CompilerAbout {
    /// Whether it is a nightly release.
    pub(crate) fn is_nightly(&self) -> bool {
        self.release.contains("nightly")
    }
}

/// One bpf-linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linker {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What it said about itself, or why it could not.
    pub(crate) about: Result<LinkerAbout, String>,
}

/// What a bpf-linker says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkerAbout {
    /// (major, minor) of its version.
    pub(crate) version: (u32, u32),
    /// The major version of its LLVM; none if that is linked statically, and so not visible.
    pub(crate) llvm_major: Option<u32>,
}

impl Facts {
    /// Looks at this machine.
    pub(crate) fn gather() -> Result<Self> {
        Ok(Self {
            compilers: compilers()?,
            linkers: linker_paths().into_iter().map(probe::linker).collect(),
            cargo: workspace::cargo_path(),
        })
    }
}

fn compilers() -> Result<Vec<Compiler>> {
    let mut found: Vec<(PathBuf, Origin)> = Vec::new();
    if let Some(path) = env::var_os(OVERRIDE).filter(|value| !value.is_empty()) {
        let path = PathBuf::from(path);
        if !process::is_executable(&path) {
            bail!(
                "{OVERRIDE}={} is not an executable file\nhint: set it to the path of a rustc, or unset it",
                path.display()
            );
        }
        found.push((path, Origin::Override));
    }
    // A proxy of rustup (a link to rustup itself) says what the toolchain behind it says, which
    // is looked at anyway; and its answer changes with the environment.
    let in_path = process::all_in_path("rustc");
    found.extend(
        in_path.into_iter().filter(|path| !is_proxy(path)).map(|path| (path, Origin::Path)),
    );
    found.extend(rustup_compilers().into_iter().map(|path| (path, Origin::Rustup)));

    let mut seen: Vec<PathBuf> = Vec::new();
    found.retain(|(path, _)| {
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        let is_new = !seen.contains(&real);
        if is_new {
            seen.push(real);
        }
        is_new
    });
    // Asked all at once: this is most of what a build without changes takes.
    let asked = thread::scope(|scope| {
        let ask = |(path, origin)| scope.spawn(move || probe::compiler(path, origin));
        let asking: Vec<_> = found.into_iter().map(ask).collect();
        asking.into_iter().map(thread::ScopedJoinHandle::join).collect::<Result<Vec<_>, _>>()
    });
    asked.map_err(|_| anyhow::anyhow!("asking a rustc about itself panicked"))
}

fn is_proxy(rustc: &Path) -> bool {
    let proxies = rustc.with_file_name("rustup");
    let same_length = || Some(proxies.metadata().ok()?.len() == rustc.metadata().ok()?.len());
    process::is_executable(&proxies) && same_length().unwrap_or(false)
}

fn rustup_compilers() -> Vec<PathBuf> {
    let Some(toolchains) = rustup_home().map(|home| home.join("toolchains")) else {
        return Vec::new();
    };
    let Ok(entries) = toolchains.read_dir() else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("bin").join("rustc"))
        .filter(|path| process::is_executable(path))
        .collect();
    paths.sort();
    paths
}

fn rustup_home() -> Option<PathBuf> {
    let home = || env::home_dir().map(|home| home.join(".rustup"));
    env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(home)
}

fn linker_paths() -> Vec<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let mut paths = process::all_in_path("bpf-linker");
    for home in cargo_home.into_iter().chain([workspace::tools()]) {
        let path = home.join("bin").join("bpf-linker");
        if process::is_executable(&path) && !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}
