//! What all benchmarks share: their command line, child roles, statistics and the table of figures.

pub mod agent;
pub mod api_server;
pub mod beside;
pub mod cluster;
pub mod figure;
pub mod proxy;
pub mod statistics;
pub mod timed;

use crate::grpc::pod::{self, PodCommand};
use anyhow::Context;
use balancer_agent::core::write::Limits;
use clap::{Parser, Subcommand, ValueEnum};
use figure::{Figure, Report};
use nix::unistd::Uid;
use std::{fs, path::PathBuf, process::ExitCode};

/// The sizes that an agent without a `limits` section has, so that caches are as cold as in use.
pub const LIMITS: Limits = Limits {
    services: 16_384,
    backends: 131_072,
    frontends: 65_536,
    chunks: 65_536,
    flows: 16_384,
    pod_services: 65_536,
};

#[derive(Parser)]
struct Arguments {
    /// Rounds of each comparison.
    #[arg(long)]
    rounds: Option<usize>,
    /// How to print the figures.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Also writes the figures, as JSON, to this file.
    #[arg(long)]
    save: Option<PathBuf>,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

/// What a benchmark's own binary is as a child of itself.
#[derive(Subcommand)]
enum Role {
    /// Time `connect()` as standard input asks.
    #[command(hide = true)]
    TimedDialer,
    #[command(flatten)]
    Pod(PodCommand),
}

/// What the caller of a benchmark decides.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    rounds: Option<usize>,
}

impl Settings {
    /// Rounds of a comparison: the caller's, or the benchmark's own.
    pub fn rounds(self, own: usize) -> usize {
        self.rounds.unwrap_or(own).max(1)
    }
}

/// The `main` of every benchmark: runs it, or the child role that the command line names.
///
/// A missed bar is printed and is no failure: whether a machine was quiet enough to judge by is for
/// the reader to say.
pub fn main(name: &str, run: fn(Settings) -> anyhow::Result<Vec<Figure>>) -> ExitCode {
    match try_main(name, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: benchmark {name}: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn try_main(name: &str, run: fn(Settings) -> anyhow::Result<Vec<Figure>>) -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::TimedDialer) => return timed::serve(),
        Some(Role::Pod(command)) => return pod::run(&command),
        None => {}
    }
    anyhow::ensure!(
        Uid::effective().is_root(),
        "loading eBPF needs root; hint: `cargo xtask bench` asks for it"
    );
    let rounds = arguments.rounds;
    let figures = run(Settings { rounds })?;
    let report = Report::new(name, figures);
    if let Some(path) = arguments.save {
        let json = serde_json::to_vec_pretty(&report)?;
        fs::write(&path, json).with_context(|| format!("write {}", path.display()))?;
    }
    match arguments.output {
        Output::Table => println!("{report}"),
        Output::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(())
}
