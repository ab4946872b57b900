//! The toolchain that compiles the kernel programs: a rustc with a `core` for BPF, and bpf-linker.
//!
//! [`facts`] looks at the machine, [`select`] decides on facts alone, [`install`] says what to add
//! when nothing fits, [`explain()`] shows all of it. Only `facts` and `install` touch the machine.

mod explain;
mod facts;
mod install;
mod probe;
mod select;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

pub(crate) use self::{
    explain::explain,
    select::{Choice, Selection},
};
use self::{facts::Facts, select::Core};
use crate::{process, workspace};

/// The environment variable that overrides the discovery of rustc.
pub(crate) const OVERRIDE: &str = "BALANCER_BPF_RUSTC";

/// The target of kernel programs: little-endian, as every host that balancer supports.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Finds the toolchain, installing what is missing where that is possible.
pub(crate) fn find_or_install() -> Result<Choice> {
    // One round installs the compiler, the next one the linker that fits it.
    for _ in 0..3 {
        let missing = match select::select(&Facts::gather()?).selection {
            Selection::Ready(choice) => return Ok(choice),
            Selection::Missing(missing) => missing,
        };
        install::install(&missing)?;
    }
    bail!(
        "the eBPF toolchain is still incomplete after installing what was missing\n\
         hint: `cargo xtask setup --explain` shows each candidate and why it was rejected"
    )
}

/// Finds the toolchain, or says what is missing; installs nothing.
pub(crate) fn find() -> Result<Selection> {
    Ok(select::select(&Facts::gather()?).selection)
}

impl Choice {
    /// A cargo command for [`TARGET`] with this toolchain.
    ///
    /// The environment of the cargo that runs xtask is removed: it names another toolchain, and
    /// crates compiled by two of them do not mix (E0514).
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.cargo);
        command.current_dir(workspace::root());
        workspace::without_package_variables(&mut command);
        for name in [
            "CARGO",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTDOC",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "CARGO_BUILD_RUSTC",
            "CARGO_BUILD_TARGET",
        ] {
            command.env_remove(name);
        }
        command
            .env("RUSTC", &self.rustc)
            // Both `-Z build-std` and the precompiled core of a stable release want it (E0554).
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("CARGO_ENCODED_RUSTFLAGS", flags(env::consts::ARCH).join("\u{1f}"))
            .args([subcommand, "--target", TARGET, "--release", "--target-dir"])
            .arg(build_directory());
        if self.core == Core::Source {
            command.args(["-Z", "build-std=core"]);
        }
        command
    }
}

/// The target directory of the kernel programs, apart from that of the host.
pub(crate) fn build_directory() -> PathBuf {
    workspace::target().join("bpf").join("build")
}

/// rustc's flags: without the first two the object has no BTF, which the kernel wants for
/// `bpf_spin_lock` and BTF-defined maps; by the third, LLVM writes zeros by single stores, where it
/// would call a function that writes them byte by byte (40 to 70 ns of each `connect()`); the last
/// tells aya-ebpf the layout of `pt_regs`.
fn flags(host_architecture: &str) -> Vec<String> {
    vec![
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        "-Clink-arg=--disable-expand-memcpy-in-order".into(),
        format!("--cfg=bpf_target_arch=\"{host_architecture}\""),
    ]
}

/// The clippy driver that belongs to `rustc`, if it is installed beside it.
pub(crate) fn clippy_driver(rustc: &Path) -> Option<PathBuf> {
    let driver = rustc.with_file_name("clippy-driver");
    process::is_executable(&driver).then_some(driver)
}
