//! A gRPC client that resolved its names once: what it dials never changes again.
//!
//! It does what gRPC's specifications ask of every client, so that what fails here fails there:
//! `pick_first` tries the addresses in order and fails a call when none of them answers, and a call
//! that no server has seen is made once more (gRFC A6, transparent retries).

use super::{
    kubelet::Place,
    workload::{self, Inside},
};
use crate::grpc::{client::EchoClient, load::Tally};
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    error::Error,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, TryRecvError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::Status;

/// Longest wait for one address before the next one is tried: a pod that is gone answers nothing.
const DIAL: Duration = Duration::from_secs(1);
/// Longest wait for a report: many calls that wait for a connection.
const PATIENCE: Duration = Duration::from_mins(2);

/// How a client uses connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// A connection for each call.
    Each,
    /// One connection, until it is lost.
    Long,
}

/// What a caller process is told to do.
#[derive(Clone, Debug, clap::Args)]
pub struct CallPlan {
    /// The addresses that its name had.
    #[arg(long = "target", required = true)]
    pub targets: Vec<SocketAddr>,
    /// How it uses connections.
    #[arg(long)]
    pub style: Style,
    /// Pause between the beginnings of two calls.
    #[arg(long, default_value_t = 10)]
    pub pause_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Said {
    /// The name of the server that replied; none for a call that failed.
    Called(Option<String>),
    Done(Tally),
}

/// A running caller; it is killed when this is dropped, and ends by itself when the test does.
pub struct Caller {
    child: Child,
    input: Option<ChildStdin>,
    said: mpsc::Receiver<Said>,
}

/// The client's side.
struct Calls {
    plan: CallPlan,
    client: Option<EchoClient>,
    tally: Tally,
}

// === impl Caller ===

impl Caller {
    /// Starts one in a pod.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(place: &Place, plan: &CallPlan) -> anyhow::Result<Self> {
        let program = workload::binary()?;
        let style = match plan.style {
            Style::Each => "each",
            Style::Long => "long",
        };
        let mut child = Command::new(&program)
            .arg("call")
            .args(place.inside.arguments())
            .args(plan.targets.iter().map(|target| format!("--target={target}")))
            .arg(format!("--style={style}"))
            .arg(format!("--pause-ms={}", plan.pause_ms))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("the caller's output")?);
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // What is not understood ends the channel, which the test is told.
                let Ok(said) = serde_json::from_str(&line) else { return };
                if sender.send(said).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, input, said })
    }

    /// Waits until this many calls, successful or not, have begun and ended after this call.
    ///
    /// # Errors
    /// When the caller is gone.
    pub fn goes_on(&self, calls: u64) -> anyhow::Result<()> {
        while let Ok(said) = self.said.try_recv() {
            ensure!(matches!(said, Said::Called(_)), "the caller has ended");
        }
        // One more: the call under way began before.
        for _ in 0..=calls {
            ensure!(matches!(self.next()?, Said::Called(_)), "the caller has ended");
        }
        Ok(())
    }

    /// Waits as [`Self::goes_on`] does; who replied to the last of these calls, or nobody.
    ///
    /// # Errors
    /// When the caller is gone.
    pub fn answerer(&self, calls: u64) -> anyhow::Result<Option<String>> {
        self.goes_on(calls)?;
        match self.next()? {
            Said::Called(server) => Ok(server),
            Said::Done(_) => bail!("the caller has ended"),
        }
    }

    /// The calls that have ended since they were last asked for: who replied, or nobody.
    ///
    /// # Errors
    /// When the caller is gone.
    pub fn calls(&self) -> anyhow::Result<Vec<Option<String>>> {
        let mut calls = Vec::new();
        loop {
            match self.said.try_recv() {
                Ok(Said::Called(server)) => calls.push(server),
                Err(TryRecvError::Empty) => return Ok(calls),
                Ok(Said::Done(_)) | Err(TryRecvError::Disconnected) => bail!("a caller has ended"),
            }
        }
    }

    /// Ends it, and takes its tally.
    ///
    /// # Errors
    /// When it is gone.
    pub fn stop(mut self) -> anyhow::Result<Tally> {
        drop(self.input.take());
        loop {
            if let Said::Done(tally) = self.next()? {
                return Ok(tally);
            }
        }
    }

    fn next(&self) -> anyhow::Result<Said> {
        self.said.recv_timeout(PATIENCE).context("the caller says nothing")
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Calls ===

impl Calls {
    async fn call(&mut self) -> Result<String, String> {
        let mut is_retry = false;
        loop {
            let mut client = match self.client.take() {
                Some(client) => client,
                None => self.dial().await?,
            };
            match client.echo(Vec::new()).await {
                Ok(reply) => {
                    self.client = Some(client).filter(|_| self.plan.style == Style::Long);
                    return Ok(reply.backend);
                }
                Err(status) if !is_retry && is_unseen(&status) => is_retry = true,
                Err(status) => return Err(format!("{:?}: {}", status.code(), status.message())),
            }
        }
    }

    async fn dial(&self) -> Result<EchoClient, String> {
        let mut last = String::new();
        for target in &self.plan.targets {
            match timeout(DIAL, EchoClient::connect(*target)).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(error)) => last = innermost(&error),
                Err(_) => last = "no answer".into(),
            }
        }
        Err(format!("no address answers: {last}"))
    }
}

/// Whether no server has seen the call: it never left, or the server's GOAWAY was below it
/// (RFC 9113, section 6.8).
fn is_unseen(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_go_away()
                && error.is_remote()
                && error.reason() == Some(h2::Reason::NO_ERROR)
                || error.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        // A connection that was to replace a lost one.
        if error.downcast_ref::<std::io::Error>().is_some_and(is_refusal) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn is_refusal(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    [ConnectionRefused, HostUnreachable, NetworkUnreachable].contains(&error.kind())
}

fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Calls until standard input ends.
///
/// # Errors
/// When standard output is gone.
pub async fn call(inside: &Inside, plan: CallPlan) -> anyhow::Result<()> {
    if plan.targets.is_empty() {
        bail!("nothing to call from {}", inside.cgroup.display());
    }
    let (sender, mut ended) = watch::channel(false);
    std::thread::spawn(move || {
        // Nothing is written to it; its end is what counts.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        sender.send_replace(true);
    });
    let mut ticks = interval(Duration::from_millis(plan.pause_ms.max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calls = Calls { plan, client: None, tally: Tally::default() };
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = ended.changed() => break,
        }
        let server = match calls.call().await {
            Ok(server) => {
                *calls.tally.replies.entry(server.clone()).or_default() += 1;
                Some(server)
            }
            Err(error) => {
                *calls.tally.failures.entry(error).or_default() += 1;
                None
            }
        };
        say(&Said::Called(server))?;
    }
    say(&Said::Done(calls.tally))
}

fn say(said: &Said) -> anyhow::Result<()> {
    let line = serde_json::to_string(said).context("write a report")?;
    writeln!(std::io::stdout(), "{line}").context("write to standard output")
}
