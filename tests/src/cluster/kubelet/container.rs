//! The process of a pod's container.

use crate::cluster::workload::{Inside, LISTENING, binary};
use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

/// Longest wait until a server listens.
const START_S_MAX: u64 = 30;

/// A running process; it is killed when this is dropped, and ends by itself when the test does.
pub(super) struct Container {
    child: Child,
    // Its end ends the process. The child must not have it: to wait for a child closes it.
    _input: ChildStdin,
}

impl Container {
    /// Starts an echo server, and waits until it listens.
    pub(super) async fn echo(name: &str, port: u16, inside: &Inside) -> anyhow::Result<Self> {
        let program = binary()?;
        let mut child = Command::new(&program)
            .arg("serve")
            .args(inside.arguments())
            .arg(format!("--name={name}"))
            .arg(format!("--port={port}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let input = child.stdin.take().context("the server's input")?;
        let output = child.stdout.take().context("the server's output")?;
        let mut lines = BufReader::new(output).lines();
        let line = timeout(Duration::from_secs(START_S_MAX), lines.next_line()).await;
        let line = line.context("the server does not listen")?.context("read what it says")?;
        ensure!(line.as_deref() == Some(LISTENING), "the server ended at once");
        Ok(Self { child, _input: input })
    }

    /// Waits for its end, and returns its exit code; 137 if it was killed, as runtimes say it.
    pub(super) async fn ended(&mut self) -> anyhow::Result<i32> {
        let status = self.child.wait().await.context("wait for a container")?;
        Ok(status.code().unwrap_or(128 + Signal::SIGKILL as i32))
    }

    /// Does not ask.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill a container")
    }

    /// Asks it to end, and after the grace period does not ask.
    pub(super) async fn stop(&mut self, grace: Duration) -> anyhow::Result<i32> {
        if let Some(pid) = self.child.id() {
            let pid = Pid::from_raw(i32::try_from(pid)?);
            kill(pid, Signal::SIGTERM).context("send SIGTERM to a container")?;
        }
        if timeout(grace, self.child.wait()).await.is_err() {
            self.child.start_kill().context("kill a container")?;
        }
        self.ended().await
    }
}
