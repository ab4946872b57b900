//! `cargo xtask image`: the agent as a container image of one static executable.

mod archive;
mod engine;

use std::{
    env,
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{artifacts, build, process, workspace};

/// Where the image's root file system has the agent.
const AGENT: &str = "usr/local/bin/balancer-agent";
/// Where volumes are mounted: the root file system is read-only.
const MOUNT_POINTS: [&str; 4] = ["etc/balancer", "host/cgroup", "run/balancer", "sys/fs/bpf"];

/// Build the agent's container image.
///
/// Compiles the agent as one static executable, lays the image's root file system out in
/// target/image/root, and writes target/image/balancer-agent.tar, an OCI archive. Where podman,
/// buildah or docker is installed and works, the image is built there too.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The image's name.
    #[arg(long, value_name = "NAME", default_value = concat!(
        "balancer-dev/balancer-agent:", env!("CARGO_PKG_VERSION")
    ))]
    tag: String,
    /// Write the archive only, whatever engine is installed.
    #[arg(long)]
    no_engine: bool,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    build::object()?;
    let agent = static_agent()?;
    let directory = workspace::target().join("image");
    let root = directory.join("root");
    lay_out(&agent, &root)?;
    let archive = directory.join("balancer-agent.tar");
    archive::write(&root, &directory, &archive, &options.tag)?;
    process::say(format!("image: {}", archive.display()));
    if !options.no_engine {
        engine::build(&root, &options.tag)?;
    }
    Ok(())
}

/// Compiles the agent with the C library inside. With a target named, build scripts and procedural
/// macros, which are loaded by rustc, stay as they are.
fn static_agent() -> Result<PathBuf> {
    let host = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut command = workspace::cargo();
    command
        .args(["build", "--release", "--package", "balancer-agent", "--target", &host])
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\u{1f}-Cstrip=symbols")
        .env_remove("RUSTFLAGS");
    let executables = artifacts::build(&mut command).context("the agent does not compile")?;
    let agent = executables.into_iter().find(|found| found.target == "balancer-agent");
    Ok(agent.context("cargo did not say where the agent is")?.path)
}

/// Makes the root file system anew.
fn lay_out(agent: &Path, root: &Path) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root).with_context(|| format!("remove {}", root.display()))?;
    }
    let target = root.join(AGENT);
    let bin = target.parent().context("the agent has a directory")?;
    let directories = MOUNT_POINTS.iter().map(|place| root.join(place));
    for directory in directories.chain([bin.to_path_buf()]) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
    }
    fs::copy(agent, &target)
        .with_context(|| format!("copy {} to {}", agent.display(), target.display()))?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("set the mode of {}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_file_system_holds_the_agent_and_its_mount_points_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (agent, root) = (directory.path().join("agent"), directory.path().join("root"));
        fs::write(&agent, b"agent").expect("writable");
        fs::create_dir(&root).expect("writable");
        fs::write(root.join("old"), b"old").expect("writable");
        lay_out(&agent, &root).expect("laid out");
        assert!(!root.join("old").exists());
        let mode = fs::metadata(root.join(AGENT)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert!(MOUNT_POINTS.iter().all(|place| root.join(place).is_dir()));
    }

    #[test]
    fn the_containerfile_starts_the_agent_as_the_archive_does() {
        let text = fs::read_to_string(workspace::root().join("deploy/Containerfile"))
            .expect("the Containerfile");
        for line in [
            format!("ENTRYPOINT [\"/{AGENT}\"]"),
            format!("ENV {}", archive::PATH_VARIABLE),
            "FROM scratch".to_owned(),
            "COPY . /".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
    }
}
