//! A Kubernetes control plane for people: `cargo xtask cluster` builds and runs it.

use anyhow::Context;
use balancer_tests::cluster::{
    background::{Place, State},
    version::Version,
};
use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Runs etcd, kube-apiserver and kube-controller-manager on loopback.
#[derive(Parser)]
#[command(version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run it until Ctrl-C; prints the path of its kubeconfig.
    Run {
        #[command(flatten)]
        which: Which,
        /// Where it writes, instead of the user's own place.
        #[arg(long)]
        directory: Option<PathBuf>,
    },
    /// Start it in the background; prints the path of its kubeconfig.
    Start(Which),
    /// End the one in the background.
    Stop,
    /// Say whether one runs; exits with 1 if none does.
    Status,
}

#[derive(clap::Args)]
struct Which {
    /// The Kubernetes release.
    #[arg(long = "kubernetes", value_name = "VERSION", default_value_t = Version::NEWEST)]
    version: Version,
}

fn main() -> ExitCode {
    match run(Arguments::parse().action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(action: Action) -> anyhow::Result<ExitCode> {
    let place = Place::of_user();
    match action {
        Action::Run { which, directory } => {
            let place = directory.map_or(place, Place::new);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(place.run(which.version))?;
        }
        Action::Start(which) => {
            let own = std::env::current_exe().context("find the own binary")?;
            println!("{}", place.start(&own, which.version)?.display());
        }
        Action::Stop => eprintln!(
            "{}",
            match place.stop()? {
                State::Running { .. } => "stopped",
                State::Dead => "it was not running; removed what it had left",
                State::Absent => "it was not running",
            }
        ),
        Action::Status => return Ok(status(&place.state()?)),
    }
    Ok(ExitCode::SUCCESS)
}

fn status(state: &State) -> ExitCode {
    match state {
        State::Running { pid, kubeconfig: Some(path) } => {
            println!("{}", path.display());
            eprintln!("running (process {pid})");
            ExitCode::SUCCESS
        }
        State::Running { pid, kubeconfig: None } => {
            eprintln!("starting (process {pid})");
            ExitCode::SUCCESS
        }
        State::Dead => {
            eprintln!("killed; hint: cargo xtask cluster stop removes what it left");
            ExitCode::from(1)
        }
        State::Absent => {
            eprintln!("not running");
            ExitCode::from(1)
        }
    }
}
