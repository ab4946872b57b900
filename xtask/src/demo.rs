//! `cargo xtask demo`: real gRPC clients and servers, without and with the balancer.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{artifacts, build, cluster, privilege, process, system, test, workspace};

/// Run the demo: gRPC clients and servers without and with the balancer.
///
/// It builds everything, then runs the demo as root (through sudo if need be) in network
/// namespaces and cgroups of its own, and takes about a minute. It cleans up after itself, also on
/// Ctrl-C, and fails if a claim did not hold.
///
/// With --kubernetes it plays on a cluster: etcd, kube-apiserver and kube-controller-manager are
/// real (compiled with Go the first time, which takes minutes), nodes and kubelets are played. A
/// Deployment of gRPC pods is scaled and rolled under clients that resolved its headless name once,
/// first without and then with the agent.
///
/// With --scale-up it shows live connections: 32 clients keep theirs while backends are added and one
/// terminates, and their calls follow without one that fails.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Play on a real Kubernetes control plane.
    #[arg(long)]
    kubernetes: bool,
    /// Show how live connections follow backends that come and go.
    #[arg(long, conflicts_with = "kubernetes")]
    scale_up: bool,
    /// Passed on to the demo; `cargo xtask demo -- --help` lists what it takes.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    system::require(&test::NEEDS, "run the demo")?;
    let mut variables = vec![workspace::agent_variable("debug")];
    let mut arguments = options.arguments.clone();
    if options.kubernetes {
        variables.push(cluster::prepare_demo()?);
        arguments.insert(0, "--kubernetes".into());
    }
    if options.scale_up {
        arguments.insert(0, "--scale-up".into());
    }
    build::object()?;
    // Without --release and --package, so that it shares what the tests have compiled.
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--bin", "balancer-agent", "--bin", "balancer-demo"]);
    // What runs in the pods.
    cargo.args(["--bin", "balancer-pod"]);
    let executables = artifacts::build(&mut cargo)?;
    let demo = executables
        .iter()
        .find(|executable| executable.target == "balancer-demo")
        .context("cargo built no executable called balancer-demo")?;
    let mut command = privilege::as_root(&demo.path, &arguments, &variables, "run the demo")?;
    // Replaced by the demo, which gets Ctrl-C itself and decides the exit code.
    let error = command.exec();
    Err(error).with_context(|| format!("start `{}`", process::shown(&command)))
}
