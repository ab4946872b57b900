//! `cargo xtask cluster`: a real Kubernetes control plane, built from source and run on loopback.

pub(crate) mod binaries;
pub(crate) mod go;

use std::{os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use self::binaries::{NEWEST, RELEASES, Release};
use crate::{artifacts, build, process, system, system::Need, workspace};

/// Ends the servers when the process that started them is gone.
const NEEDS: [Need; 1] = [Need { program: "setpriv", package: "util-linux" }];

/// Build and run a real Kubernetes control plane.
///
/// etcd, kube-apiserver and kube-controller-manager are compiled from their published modules with
/// Go, which takes minutes the first time, and kept in the user's cache directory
/// (balancer/control-plane in `XDG_CACHE_HOME`). They listen on 127.0.0.1 only, RBAC is on, and
/// everything they write is in one directory that goes away with them. No root is needed. There is
/// no kubelet and no scheduler: tests play those.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Compile the control plane, unless it was before.
    Build {
        /// The Kubernetes releases to build; all that the tests use by default.
        #[arg(long = "kubernetes", value_name = "VERSION", value_parser = names())]
        releases: Vec<String>,
    },
    /// Run it until Ctrl-C; prints the path of its kubeconfig.
    Run(Which),
    /// Start it in the background; prints the path of its kubeconfig.
    Start(Which),
    /// End the one in the background, and remove all that it wrote.
    Stop,
    /// Say whether one runs in the background.
    Status,
}

#[derive(Debug, Args)]
struct Which {
    /// The Kubernetes release.
    #[arg(long = "kubernetes", value_name = "VERSION", default_value = NEWEST, value_parser = names())]
    release: String,
}

/// The minor versions, as a user names them.
fn names() -> [&'static str; RELEASES.len()] {
    RELEASES.map(|release| release.minor)
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.action {
        Action::Build { releases } => {
            for release in RELEASES.iter().filter(|release| is_wanted(release, releases)) {
                let directory = binaries::ensure(release)?;
                println!("{}", directory.display());
            }
            Ok(())
        }
        Action::Run(which) => hand_over("run", Some(&which.release)),
        Action::Start(which) => hand_over("start", Some(&which.release)),
        Action::Stop => hand_over("stop", None),
        Action::Status => hand_over("status", None),
    }
}

fn is_wanted(release: &Release, names: &[String]) -> bool {
    names.is_empty() || names.iter().any(|name| name == release.minor)
}

/// Builds what is missing for the tests. A machine without Go skips the tests that need it, and
/// they say so; in CI they fail.
pub(crate) fn prepare_tests() -> (&'static str, String) {
    for release in &RELEASES {
        if let Err(error) = binaries::ensure(release) {
            process::say(format!("no control plane of Kubernetes {}: {error:#}", release.minor));
        }
    }
    variable()
}

/// Builds the newest control plane for the demo, unless it was before.
pub(crate) fn prepare_demo() -> Result<(&'static str, String)> {
    system::require(&NEEDS, "run a control plane")?;
    let newest = RELEASES.iter().find(|release| release.minor == NEWEST);
    binaries::ensure(newest.context("the newest release is one of them")?)?;
    Ok(variable())
}

/// Tells the tests where the control planes are.
fn variable() -> (&'static str, String) {
    ("BALANCER_CONTROL_PLANE", binaries::cache().display().to_string())
}

/// Becomes the program that runs a cluster, which gets Ctrl-C itself and decides the exit code.
fn hand_over(action: &str, minor: Option<&str>) -> Result<()> {
    let mut arguments = vec![action.to_owned()];
    if let Some(minor) = minor {
        system::require(&NEEDS, "run a control plane")?;
        let release = RELEASES.iter().find(|release| release.minor == minor);
        binaries::ensure(release.context("the argument parser lets only known releases pass")?)?;
        arguments.push(format!("--kubernetes={minor}"));
    }
    let mut command = Command::new(runner()?);
    command.args(arguments).envs([variable()]);
    let error = command.exec();
    Err(error).with_context(|| format!("start `{}`", process::shown(&command)))
}

fn runner() -> Result<PathBuf> {
    // The package of the runner embeds the kernel object through the agent.
    build::object()?;
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--bin", "balancer-cluster"]);
    let executables = artifacts::build(&mut cargo)?;
    let runner = executables.into_iter().find(|executable| executable.target == "balancer-cluster");
    Ok(runner.context("cargo built no executable called balancer-cluster")?.path)
}
