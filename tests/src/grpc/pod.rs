//! The client's side of a pod: a process that enters its cgroup, dials on command, and reports.
//!
//! It speaks JSON lines on standard output and takes single words on standard input. When that
//! closes, the parent is gone or wants no more, and the process ends by itself.

use super::{
    calls::{CallPlan, Calls},
    client::EchoClient,
    load::{Load, LoadPlan, Tally},
};
use anyhow::Context;
use nix::{
    sched::{CloneFlags, setns},
    sys::resource::{UsageWho, getrusage},
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{BufRead, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
};
use tokio::sync::watch;

/// The word that makes a waiting client dial.
pub const DIAL: &str = "dial";

/// What a client process is told to be.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum PodCommand {
    /// Keep connections open and make calls on them.
    #[command(hide = true)]
    Client {
        /// The cgroup to enter.
        #[arg(long)]
        pod: Option<PathBuf>,
        /// The network namespace to enter.
        #[arg(long)]
        netns: Option<PathBuf>,
        /// What to do in it.
        #[command(flatten)]
        plan: LoadPlan,
    },
    /// Make calls of every kind on one connection, and keep it open.
    #[command(hide = true)]
    Calls {
        /// The cgroup to enter.
        #[arg(long)]
        pod: Option<PathBuf>,
        /// What to call.
        #[command(flatten)]
        plan: CallPlan,
    },
    /// Make one connection after the other until one reaches a given backend.
    #[command(hide = true)]
    Probe {
        /// The cgroup to enter.
        #[arg(long)]
        pod: Option<PathBuf>,
        /// What to dial.
        #[arg(long)]
        target: SocketAddr,
        /// The backend to reach.
        #[arg(long)]
        until: String,
        /// Connections before giving up.
        #[arg(long, default_value_t = 100_000)]
        dials_max: u64,
    },
}

/// What a client process tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Report {
    /// It is in its cgroup, and waits for the command to dial.
    Ready,
    /// All of its connections stand.
    Connected {
        /// The backend that each reached.
        backends: Vec<String>,
    },
    /// A probe has reached its backend.
    Reached {
        /// Connections that it took.
        dials: u64,
    },
    /// It cannot go on.
    Failed {
        /// Why.
        error: String,
    },
    /// It has stopped.
    Done {
        /// What it did.
        tally: Tally,
    },
}

/// Runs a client process to its end.
///
/// # Errors
/// When standard output is gone or the runtime cannot be made; everything else is reported.
pub fn run(command: &PodCommand) -> anyhow::Result<()> {
    let (PodCommand::Client { pod, .. }
    | PodCommand::Calls { pod, .. }
    | PodCommand::Probe { pod, .. }) = command;
    if let Some(pod) = pod {
        enter(pod)?;
    }
    if let PodCommand::Client { netns: Some(netns), .. } = command {
        // Before there are threads, which would stay outside.
        let namespace = fs::File::open(netns)
            .with_context(|| format!("open network namespace {}", netns.display()))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let last = runtime.block_on(async {
        let mut input = input();
        report(&Report::Ready)?;
        if input.wait_for(|input| *input != Input::Wait).await.is_err() {
            return Ok(Report::Done { tally: Tally::default() });
        }
        let done = match command {
            PodCommand::Client { plan, .. } => client(plan, input).await,
            PodCommand::Calls { plan, .. } => calls(plan, input).await,
            PodCommand::Probe { target, until, dials_max, .. } => {
                probe(*target, until, *dials_max).await
            }
        };
        Ok::<_, anyhow::Error>(
            done.unwrap_or_else(|error| Report::Failed { error: format!("{error:#}") }),
        )
    })?;
    report(&last)
}

pub(crate) fn enter(pod: &Path) -> anyhow::Result<()> {
    let members = pod.join("cgroup.procs");
    fs::write(&members, std::process::id().to_string())
        .with_context(|| format!("enter cgroup {}", pod.display()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    Wait,
    Dial,
    End,
}

/// Follows standard input on a thread of its own, which may block until the process ends.
pub(crate) fn input() -> watch::Receiver<Input> {
    let (sender, receiver) = watch::channel(Input::Wait);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if line == DIAL {
                sender.send_replace(Input::Dial);
            }
        }
        sender.send_replace(Input::End);
    });
    receiver
}

pub(crate) fn report(report: &Report) -> anyhow::Result<()> {
    let line = serde_json::to_string(report).context("write a report")?;
    writeln!(std::io::stdout(), "{line}").context("write to standard output")
}

async fn client(plan: &LoadPlan, mut input: watch::Receiver<Input>) -> anyhow::Result<Report> {
    let load = Load::dial(plan).await?;
    report(&Report::Connected { backends: load.backends.clone() })?;
    let before_us = cpu_us()?;
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { load.run(&stopped).await });
    // A sender that is gone has said End before.
    let _ = input.wait_for(|input| *input == Input::End).await;
    stop.send_replace(true);
    let mut tally = running.await.context("join the load")??;
    tally.cpu_us = cpu_us()?.saturating_sub(before_us);
    Ok(Report::Done { tally })
}

async fn calls(plan: &CallPlan, mut input: watch::Receiver<Input>) -> anyhow::Result<Report> {
    let calls = Calls::make(plan).await?;
    report(&Report::Connected { backends: vec![calls.backend.clone()] })?;
    // A sender that is gone has said End before.
    let _ = input.wait_for(|input| *input == Input::End).await;
    Ok(Report::Done { tally: Tally::default() })
}

async fn probe(target: SocketAddr, until: &str, dials_max: u64) -> anyhow::Result<Report> {
    for dials in 1..=dials_max {
        let mut client =
            EchoClient::connect(target).await.with_context(|| format!("dial {target}"))?;
        if client.echo(Vec::new()).await.context("make the first call")?.backend == until {
            return Ok(Report::Reached { dials });
        }
    }
    anyhow::bail!("{dials_max} connections to {target} did not reach {until}")
}

/// Processor time of this process so far.
fn cpu_us() -> anyhow::Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("read the processor time")?;
    let (user, system) = (usage.user_time(), usage.system_time());
    let us = (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec();
    Ok(u64::try_from(us).unwrap_or(0))
}
