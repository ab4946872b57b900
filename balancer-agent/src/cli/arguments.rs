//! What can be typed.

use crate::{
    admin::RUNTIME_DIR,
    datapath::{
        bpffs::{PIN_ROOT, PinRoot},
        cgroup::{self, CgroupError},
    },
};
use balancer_common::reason::Reason;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

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
    /// Say whether all is well: agent, hooks, maps, configuration, DNS
    Status,
    /// List services as the kernel holds them
    Services {
        /// Only this one
        service: Option<String>,
    },
    /// List backends with their counters
    Backends {
        /// Only those of this service
        service: Option<String>,
    },
    /// List tracked connections, the oldest first
    Connections(Connections),
    /// List this node's pods: where they connect to, and which are left alone
    Pods {
        /// Only this one: NAMESPACE/NAME, its UID, a cgroup path, a cgroup id, or pid:NUMBER
        pod: Option<String>,
    },
    /// Say step by step which backend a pod's next connection would get, and why
    Explain(Explain),
    /// Print decisions as the kernel makes them
    Trace(Trace),
    /// Watch services live: shares, calls, moves and failures of their backends
    Top(Top),
    /// Take a backend out of service on this node: live connections move away
    Drain(Drain),
    /// Move live connections of a service until its backends have their shares
    Rebalance(Rebalance),
    /// Preflight: say what this machine offers and lacks
    Check,
    /// Print, check or locate configuration
    Config(ConfigAction),
    /// Make the agent read its configuration file again
    Reload,
    /// Mount bpffs where it is missing, as an init container does for its node
    Mount,
    /// Detach the programs and remove everything that was pinned
    Unload(Unload),
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
    #[arg(long, env = "BALANCER_LOG", value_name = "FILTER", default_value = "info")]
    pub log_filter: String,
    /// Attach to pods' interfaces by filters of clsact, as on kernels before 6.6, where tcx is there too
    #[arg(long, hide = true)]
    pub clsact: bool,
}

/// Flags of `top`.
#[derive(Clone, Debug, Args)]
pub struct Top {
    /// Only this service
    pub service: Option<String>,
    /// Time between two looks
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub interval: Duration,
    /// Print one look, as happens by itself where standard output is no terminal
    #[arg(long)]
    pub once: bool,
}

/// Flags of `drain`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Drain {
    /// Where it listens
    #[arg(value_name = "IP:PORT")]
    pub backend: SocketAddr,
    /// Take it back into service
    #[arg(long)]
    pub undo: bool,
    /// Drain it even if no other backend takes connections
    #[arg(long, conflicts_with = "undo")]
    pub force: bool,
}

/// Flags of `unload`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Unload {
    /// Break connections that were moved and are still open, and name them
    #[arg(long)]
    pub force: bool,
    /// Wait so long for such connections to end, and give up then [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "force")]
    pub timeout: Option<Duration>,
}

/// Flags of `rebalance`.
#[derive(Clone, Debug, Args)]
pub struct Rebalance {
    /// Its name
    pub service: String,
    /// Only print what would be moved
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of `connections`.
#[derive(Debug, Args)]
pub struct Connections {
    /// Only those to this service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only those to the backend with this address
    #[arg(long, value_name = "IP:PORT")]
    pub backend: Option<SocketAddr>,
    /// Only those of this pod: NAMESPACE/NAME, its UID, a cgroup path, a cgroup id, or pid:NUMBER
    #[arg(long, value_name = "POD")]
    pub pod: Option<String>,
    /// Print at most so many
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    pub limit: usize,
}

/// Flags of `explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The client: NAMESPACE/NAME, its UID, a cgroup path, a cgroup id, or pid:NUMBER
    pub pod: String,
    /// What it dials: a service's name, or a frontend as IP:PORT
    pub service: String,
    /// POD is the id of a process in the pod
    #[arg(long)]
    pub pid: bool,
}

/// Flags of `trace`.
#[derive(Debug, Args)]
pub struct Trace {
    /// Only decisions about this service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only decisions with this reason
    #[arg(long, value_name = "REASON", value_parser = reason)]
    pub reason: Option<Reason>,
    /// Only decisions about this pod: NAMESPACE/NAME, its UID, a cgroup path, a cgroup id, or
    /// pid:NUMBER
    #[arg(long, value_name = "POD")]
    pub pod: Option<String>,
    /// End after so many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time, such as 10s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// Flags of `config`; one of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ConfigAction {
    /// Print a complete, commented example
    #[arg(long)]
    pub example: bool,
    /// Say whether a file is valid, and if not, every mistake in it
    #[arg(long, value_name = "FILE")]
    pub check: Option<PathBuf>,
    /// Say which file the running agent uses, and what it holds
    #[arg(long)]
    pub show: bool,
}

/// Longest time that `trace` can be given.
const TRACE_S_MAX: u64 = 7 * 24 * 3_600;

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; hint: write a number with its unit, such as 10s"))?;
    if duration.is_zero() || duration.as_secs() > TRACE_S_MAX {
        return Err("out of range; hint: from 1ms to 7days".into());
    }
    Ok(duration)
}

fn reason(text: &str) -> Result<Reason, String> {
    let found = Reason::ALL.iter().find(|reason| reason.name() == text);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        format!("no such reason; hint: one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn values_are_validated() {
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert!(duration("5").unwrap_err().contains("hint"));
        assert!(duration("0s").unwrap_err().contains("range"));
        assert!(duration("8days").unwrap_err().contains("range"));
        assert_eq!(reason("no-backend"), Ok(Reason::NoBackend));
        assert!(reason("none").unwrap_err().contains("flow-table-full"));
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("balancer-agent config").is_err());
        assert!(parse("balancer-agent config --example --show").is_err());
        assert!(parse("balancer-agent trace --count 0").is_err());
        assert!(parse("balancer-agent connections --backend 10.0.0.1").is_err());
    }
}
