//! `cargo xtask build`: the kernel object, then the agent that embeds it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{process, toolchain, workspace};

/// Compile the kernel programs and the agent that embeds them.
///
/// The kernel object goes to target/bpf/balancer.o; it is always optimised, as the kernel's
/// verifier wants it. The agent goes to target/debug/balancer-agent or target/release. After one
/// build, plain cargo commands and editors work too.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Compile the agent optimised.
    #[arg(long)]
    release: bool,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    object()?;
    agent(options.release)
}

/// Compiles the kernel programs and puts the object where `balancer-agent/build.rs` looks.
pub(crate) fn object() -> Result<()> {
    let choice = toolchain::find_or_install()?;
    process::run(choice.cargo("build").args(["--package", "balancer-ebpf", "--bin", "balancer"]))
        .context("the kernel programs do not compile")?;
    let built =
        toolchain::build_directory().join(toolchain::TARGET).join("release").join("balancer");
    if replace_if_different(&built, &workspace::object())? {
        process::say(format!("kernel object: {}", workspace::object().display()));
    }
    Ok(())
}

/// Compiles the agent.
pub(crate) fn agent(release: bool) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["build", "--package", "balancer-agent"]);
    if release {
        command.arg("--release");
    }
    process::run(&mut command)
}

/// Copies `from` over `to` unless they hold the same: a new timestamp would recompile the agent.
fn replace_if_different(from: &Path, to: &Path) -> Result<bool> {
    let new =
        fs::read(from).with_context(|| format!("read the kernel object {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    // Renamed into place, so that a build running at the same time never sees half of it.
    let partial = to.with_extension(format!("o.{}", std::process::id()));
    fs::write(&partial, &new).with_context(|| format!("write {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("write {}", to.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_is_left_alone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (from, to) = (directory.path().join("built"), directory.path().join("bpf/object.o"));
        fs::write(&from, b"one").expect("writable");
        assert!(replace_if_different(&from, &to).expect("copied"));
        assert!(!replace_if_different(&from, &to).expect("compared"));
        fs::write(&from, b"two").expect("writable");
        assert!(replace_if_different(&from, &to).expect("copied"));
        assert_eq!(fs::read(&to).expect("readable"), b"two");
    }
}
