//! Installing what the selection missed, or printing the commands where xtask may not.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use super::{OVERRIDE, select::Missing};
use crate::{process, system, system::System, workspace};

/// The bpf-linker that is installed.
const LINKER_VERSION: &str = "0.13.0";
/// The versions of LLVM that this bpf-linker can be built with.
const LINKER_LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;
/// Debian's Rust for web browsers: a current rustc, and a precompiled core for BPF.
const DEBIAN_RUST: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// What the machine offers to an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Whether xtask may call apt-get itself.
    pub(crate) may_use_apt: bool,
    /// Whether apt has [`DEBIAN_RUST`].
    pub(crate) apt_has_rust: bool,
    /// The versions of LLVM whose development files are installed.
    pub(crate) llvm_installed: Vec<u32>,
    /// The versions of LLVM whose development files apt has.
    pub(crate) llvm_in_apt: Vec<u32>,
    /// Whether rustup is installed.
    pub(crate) has_rustup: bool,
    /// The machine's architecture, as Rust calls it.
    pub(crate) architecture: String,
    /// Where tools of our own go.
    pub(crate) tools: PathBuf,
}

/// One thing to do; shown as the command that does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Install packages with apt, as root.
    Apt(Vec<String>),
    /// Install a nightly toolchain with rust-src.
    Nightly,
    /// Compile bpf-linker against the LLVM of this major version.
    CompileLinker { llvm_major: u32, tools: PathBuf },
    /// Fetch the linker's own release, which has its LLVM built in.
    FetchLinker { architecture: String, tools: PathBuf },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apt(packages) => write!(f, "sudo apt-get install -y {}", packages.join(" ")),
            Self::Nightly => f.write_str(&process::shown(&nightly())),
            Self::CompileLinker { llvm_major, tools } => write!(
                f,
                "LLVM_PREFIX={} {}",
                llvm_prefix(*llvm_major).display(),
                process::shown(&compile_linker(*llvm_major, tools))
            ),
            Self::FetchLinker { architecture, tools } => {
                f.write_str(&fetch_linker(architecture, tools))
            }
        }
    }
}

/// Decides how to install `missing`; empty if this machine offers no way.
pub(crate) fn plan(missing: &Missing, offer: &Offer) -> Vec<Step> {
    match missing {
        Missing::Compiler if offer.apt_has_rust && (offer.may_use_apt || !offer.has_rustup) => {
            vec![Step::Apt(DEBIAN_RUST.map(String::from).to_vec())]
        }
        Missing::Compiler if offer.has_rustup => vec![Step::Nightly],
        Missing::Compiler | Missing::Override { .. } => Vec::new(),
        Missing::Linker { llvm_major_min } => plan_linker(*llvm_major_min, offer),
    }
}

fn plan_linker(llvm_major_min: Option<u32>, offer: &Offer) -> Vec<Step> {
    let new_enough = |major: &&u32| {
        LINKER_LLVM_MAJORS.contains(*major) && llvm_major_min.is_none_or(|least| **major >= least)
    };
    let tools = offer.tools.clone();
    if let Some(&llvm_major) = offer.llvm_installed.iter().filter(new_enough).min() {
        return vec![Step::CompileLinker { llvm_major, tools }];
    }
    let Some(&llvm_major) = offer.llvm_in_apt.iter().filter(new_enough).min() else {
        let architecture = offer.architecture.clone();
        return vec![Step::FetchLinker { architecture, tools }];
    };
    let llvm = format!("llvm-{llvm_major}-dev");
    let packages = vec![llvm, "zlib1g-dev".into(), "libzstd-dev".into()];
    vec![Step::Apt(packages), Step::CompileLinker { llvm_major, tools }]
}

/// What [`install`] would do for `missing`, going by the package lists that are there.
pub(crate) fn steps(missing: &Missing) -> Vec<Step> {
    plan(missing, &offer(missing))
}

/// Installs `missing`, or fails with the exact commands.
pub(crate) fn install(missing: &Missing) -> Result<()> {
    if let Missing::Override { rustc, reason } = missing {
        bail!(
            "{OVERRIDE}={} cannot compile the kernel programs: {reason}\n\
             hint: name a rustc that can, or unset it; `cargo xtask setup --explain` lists others",
            rustc.display()
        );
    }
    if System::detect().may_install {
        // A fresh container has no package lists; without them apt would offer nothing.
        if let Err(error) = system::apt_update() {
            process::say(format!("going on with the package lists that are there: {error:#}"));
        }
    }
    let offer = offer(missing);
    let steps = plan(missing, &offer);
    if steps.is_empty() {
        bail!(
            "no rustc here can compile for BPF, and there is neither rustup nor a package for it\n\
             hint: install rustup (https://rustup.rs), then: {}",
            Step::Nightly
        );
    }
    if !offer.may_use_apt && steps.iter().any(|step| matches!(step, Step::Apt(_))) {
        let commands: Vec<String> = steps.iter().map(|step| format!("  {step}")).collect();
        bail!(
            "{} is missing, and installing it needs root\nhint: run these, then try again:\n{}",
            described(missing),
            commands.join("\n")
        );
    }
    for step in &steps {
        process::say(format!("installing {}: {step}", described(missing)));
        execute(step).map_err(|error| {
            error.context(format!(
                "{} could not be installed\nhint: {}",
                described(missing),
                manual(missing)
            ))
        })?;
    }
    Ok(())
}

fn described(missing: &Missing) -> &'static str {
    match missing {
        Missing::Compiler | Missing::Override { .. } => "a rustc for BPF",
        Missing::Linker { .. } => "bpf-linker",
    }
}

fn manual(missing: &Missing) -> String {
    match missing {
        Missing::Linker { llvm_major_min } => format!(
            "put a bpf-linker {LINKER_VERSION} or newer, with LLVM {} or newer, into PATH \
             (https://github.com/aya-rs/bpf-linker)",
            llvm_major_min.map_or_else(|| "of rustc".into(), |major| major.to_string())
        ),
        Missing::Compiler | Missing::Override { .. } => {
            format!("run `{}`, or set {OVERRIDE} to a rustc with a core for BPF", Step::Nightly)
        }
    }
}

fn offer(missing: &Missing) -> Offer {
    let system = System::detect();
    let wants_linker = matches!(missing, Missing::Linker { .. });
    let in_apt = |major: &u32| {
        wants_linker && system.has_apt && system::apt_knows(&format!("llvm-{major}-dev"))
    };
    Offer {
        may_use_apt: system.may_install,
        apt_has_rust: system.has_apt
            && !wants_linker
            && DEBIAN_RUST.iter().all(|package| system::apt_knows(package)),
        llvm_installed: LINKER_LLVM_MAJORS.filter(|major| has_llvm(*major)).collect(),
        llvm_in_apt: LINKER_LLVM_MAJORS.filter(in_apt).collect(),
        has_rustup: process::find_in_path("rustup").is_some(),
        architecture: std::env::consts::ARCH.into(),
        tools: workspace::tools(),
    }
}

fn has_llvm(major: u32) -> bool {
    let prefix = llvm_prefix(major);
    prefix.join("bin/llvm-config").exists() && prefix.join("include/llvm-c/Core.h").exists()
}

fn llvm_prefix(major: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{major}"))
}

fn execute(step: &Step) -> Result<()> {
    match step {
        Step::Apt(packages) => {
            system::apt_install(&packages.iter().map(String::as_str).collect::<Vec<_>>())
        }
        Step::Nightly => process::run(&mut nightly()),
        Step::CompileLinker { llvm_major, tools } => process::run(
            compile_linker(*llvm_major, tools).env("LLVM_PREFIX", llvm_prefix(*llvm_major)),
        ),
        Step::FetchLinker { architecture, tools } => {
            process::run(Command::new("sh").args(["-ec", &fetch_linker(architecture, tools)]))
        }
    }
}

fn nightly() -> Command {
    let mut command = Command::new("rustup");
    command.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
    command.args(["--component", "rust-src"]);
    command
}

fn compile_linker(llvm_major: u32, tools: &Path) -> Command {
    let mut command = Command::new("cargo");
    workspace::without_package_variables(&mut command);
    // The linker runs on this host: a target or flags meant for another thing must not reach it.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env_remove("CARGO_BUILD_TARGET").env_remove("CARGO_TARGET_DIR");
    command.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked"]);
    command.args(["--no-default-features", "--features"]);
    command.arg(format!("llvm-{llvm_major}")).arg("--root").arg(tools);
    command
}

/// A tarball that unpacks to `bpf-linker`, statically linked, with the newest LLVM of its day.
fn fetch_linker(architecture: &str, tools: &Path) -> String {
    let directory = tools.join("bin");
    let directory = directory.display();
    format!(
        "mkdir -p '{directory}' && curl -fsSL https://github.com/aya-rs/bpf-linker/releases/download/\
         v{LINKER_VERSION}/bpf-linker-{architecture}-unknown-linux-musl.tar.zst | \
         tar --zstd -x -C '{directory}'"
    )
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
