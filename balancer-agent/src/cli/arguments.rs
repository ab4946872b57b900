//! What can be typed.

use crate::{
    admin::RUNTIME_DIR,
    datapath::{
        bpffs::{PIN_ROOT, PinRoot},
        cgroup::{self, CgroupError},
    },
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf};

/// Where the configuration file is unless the user says otherwise.
pub const CONFIG_PATH: &str = "/etc/balancer/config.yaml";

/// Balances gRPC connections of this node in the kernel: the daemon, and commands to look into it.
#[derive(Debug, Parser)]
#[command(name = "balancer-agent", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 unhealthy, 2 failure, 64 usage.")]
pub struct Arguments {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Directory on bpffs where programs and maps are pinned
    #[arg(long, global = true, value_name = "DIR", default_value = PIN_ROOT)]
    pub pin_root: PathBuf,
    /// Directory of the admin socket
    #[arg(long, global = true, value_name = "DIR", default_value = RUNTIME_DIR)]
    pub runtime_dir: PathBuf,
    /// Cgroup whose connections are balanced [default: the root of cgroup v2]
    #[arg(long, global = true, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// How to print results
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub output: Output,
}

impl Global {
    /// The pin directory.
    pub fn pins(&self) -> PinRoot {
        PinRoot::new(&self.pin_root)
    }

    /// The cgroup that is meant.
    ///
    /// # Errors
    /// On hosts without cgroup v2.
    pub fn cgroup(&self) -> Result<PathBuf, CgroupError> {
        self.cgroup.clone().map_or_else(cgroup::root, Ok)
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// How the daemon writes its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground
    Run(Run),
    /// Detach the programs and remove everything that was pinned
    Unload,
    /// Enter a cgroup and dial: the self-test's child
    #[command(hide = true)]
    SelfTestDial {
        /// The cgroup.
        cgroup: PathBuf,
        /// What to dial.
        frontend: SocketAddr,
    },
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Configuration file (YAML); see `balancer-agent config --example`
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_PATH)]
    pub config: PathBuf,
    /// How to write the log, to standard error
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What to log: a level, or tracing filter directives such as `info,balancer_agent=debug`
    #[arg(
        long,
        env = "BALANCER_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log_filter: String,
}
