//! The parent's side of a pod: starts a client process, tells it to dial, and reads its reports.

use super::{
    calls::CallPlan,
    load::{LoadPlan, Tally},
    pod::{DIAL, PodCommand, Report},
};
use anyhow::{Context, bail};
use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// Longest wait for a report; a client that takes longer hangs.
const REPORT_MS_MAX: u64 = 60_000;

/// A client process. It is killed when it is dropped.
pub struct PodProcess {
    name: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl PodProcess {
    /// Starts `executable`, a binary that has [`PodCommand`] as subcommands, and waits until it is
    /// in its cgroup. What it has to say besides reports is appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started, or does not come up.
    pub async fn start(
        name: &str,
        executable: &Path,
        command: &PodCommand,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let mut process = Command::new(executable);
        process.args(arguments(command));
        Self::spawn(name, process, log).await
    }

    /// The same with a program of any kind that speaks as [`super::pod`] tells.
    ///
    /// # Errors
    /// When it cannot be started, or does not come up.
    pub async fn spawn(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let log = File::options()
            .append(true)
            .create(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // A group of its own, so that Ctrl-C in the terminal reaches the parent alone, which
            // then ends it in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!("start {name} from {}", command.as_std().get_program().display())
            })?;
        let input = child.stdin.take().context("take the client's standard input")?;
        let output = child.stdout.take().context("take the client's standard output")?;
        let output = BufReader::new(output).lines();
        let mut process = Self { name: name.to_owned(), child, input, output };
        match process.next().await? {
            Report::Ready => Ok(process),
            other => bail!("{name}: {other:?} instead of being ready"),
        }
    }

    /// The client's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells it to dial.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn dial(&mut self) -> anyhow::Result<()> {
        let command = format!("{DIAL}\n");
        let written = self.input.write_all(command.as_bytes()).await;
        written.with_context(|| format!("tell client {} to dial", self.name))
    }

    /// Waits until its connections stand, and says which backends they reached.
    ///
    /// # Errors
    /// When it failed, with its reason.
    pub async fn connected(&mut self) -> anyhow::Result<Vec<String>> {
        match self.next().await? {
            Report::Connected { backends } => Ok(backends),
            other => bail!("client {}: {other:?} instead of being connected", self.name),
        }
    }

    /// Waits until a probe has reached its backend, and says how many connections it took.
    ///
    /// # Errors
    /// When it failed, with its reason.
    pub async fn reached(&mut self) -> anyhow::Result<u64> {
        match self.next().await? {
            Report::Reached { dials } => Ok(dials),
            other => bail!("probe {}: {other:?} instead of reaching its backend", self.name),
        }
    }

    /// Lets it end its calls, and takes its tally.
    ///
    /// # Errors
    /// When it failed, with its reason.
    pub async fn stop(self) -> anyhow::Result<Tally> {
        let Self { name, mut child, input, mut output } = self;
        drop(input);
        let tally = match next(&name, &mut output).await? {
            Report::Done { tally } => tally,
            other => bail!("client {name}: {other:?} instead of its tally"),
        };
        let status = timeout(Duration::from_millis(REPORT_MS_MAX), child.wait())
            .await
            .with_context(|| format!("client {name} did not end"))?
            .with_context(|| format!("wait for client {name}"))?;
        if !status.success() {
            bail!("client {name} ended with {status}");
        }
        Ok(tally)
    }

    async fn next(&mut self) -> anyhow::Result<Report> {
        next(&self.name, &mut self.output).await
    }
}

async fn next(name: &str, output: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<Report> {
    let line = timeout(Duration::from_millis(REPORT_MS_MAX), output.next_line())
        .await
        .with_context(|| format!("client {name} told nothing for {REPORT_MS_MAX} ms"))?
        .with_context(|| format!("read from client {name}"))?
        .with_context(|| format!("client {name} ended without a report"))?;
    let report = serde_json::from_str(&line)
        .with_context(|| format!("understand `{line}` from client {name}"))?;
    match report {
        Report::Failed { error } => bail!("client {name}: {error}"),
        report => Ok(report),
    }
}

/// The command line that makes the same [`PodCommand`] again.
fn arguments(command: &PodCommand) -> Vec<OsString> {
    match command {
        PodCommand::Client { pod, netns, plan } => {
            let mut arguments = with_pod("client", pod.as_ref());
            arguments.extend(netns.iter().flat_map(|netns| ["--netns".into(), netns.into()]));
            arguments.extend(plan_arguments(plan));
            arguments
        }
        PodCommand::Calls { pod, plan } => {
            let CallPlan { target, unary, streams, cancelled, refused, held } = plan;
            let mut arguments = with_pod("calls", pod.as_ref());
            arguments.extend([
                format!("--target={target}").into(),
                format!("--unary={unary}").into(),
                format!("--streams={streams}").into(),
                format!("--cancelled={cancelled}").into(),
                format!("--refused={refused}").into(),
                format!("--held={held}").into(),
            ]);
            arguments
        }
        PodCommand::Probe { pod, target, until, dials_max } => {
            let mut arguments = with_pod("probe", pod.as_ref());
            arguments.extend([
                format!("--target={target}").into(),
                format!("--until={until}").into(),
                format!("--dials-max={dials_max}").into(),
            ]);
            arguments
        }
    }
}

fn with_pod(subcommand: &str, pod: Option<&PathBuf>) -> Vec<OsString> {
    let mut arguments = vec![OsString::from(subcommand)];
    if let Some(pod) = pod {
        arguments.extend(["--pod".into(), pod.into()]);
    }
    arguments
}

fn plan_arguments(plan: &LoadPlan) -> Vec<OsString> {
    let LoadPlan { target, connections, streams, rate, payload_bytes, held } = plan;
    let mut arguments = vec![
        format!("--target={target}").into(),
        format!("--connections={connections}").into(),
        format!("--streams={streams}").into(),
        format!("--payload-bytes={payload_bytes}").into(),
        format!("--held={held}").into(),
    ];
    arguments.extend(rate.map(|rate| format!("--rate={rate}").into()));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Binary {
        #[command(subcommand)]
        command: PodCommand,
    }

    #[test]
    fn commands_survive_the_command_line() {
        let plan = LoadPlan {
            target: "[fd00::1]:443".parse().unwrap(),
            connections: 8,
            streams: 16,
            rate: Some(50),
            payload_bytes: 100,
            held: 2,
        };
        let client = PodCommand::Client {
            pod: Some("/a b/c".into()),
            netns: Some("/proc/1/ns/net".into()),
            plan,
        };
        let probe = PodCommand::Probe {
            pod: None,
            target: "10.96.0.10:50051".parse().unwrap(),
            until: "b5".into(),
            dials_max: 7,
        };
        let plan = CallPlan {
            target: "10.96.0.10:50051".parse().unwrap(),
            unary: 1,
            streams: 2,
            cancelled: 3,
            refused: 4,
            held: 5,
        };
        let calls = PodCommand::Calls { pod: Some("/a".into()), plan };
        for command in [client, calls, probe] {
            let words = std::iter::once("binary".into()).chain(arguments(&command));
            let parsed = Binary::try_parse_from(words).unwrap().command;
            assert_eq!(format!("{parsed:?}"), format!("{command:?}"));
        }
    }
}
