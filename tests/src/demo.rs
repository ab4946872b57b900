//! The demo: real gRPC clients and servers on one machine, without and with the balancer.
//!
//! It states what it proved in numbers, and leaves nothing behind, however it ends.

pub mod acts;
pub mod agent;
pub mod claim;
pub mod kernel;
pub mod kube_proxy;
pub mod kubernetes;
pub mod scale_up;
pub mod screen;
pub mod spread;
pub mod stage;
pub mod table;

use self::{
    claim::Claims,
    screen::{Screen, Style},
    stage::{Stage, VIP},
};
use anyhow::Context;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// How the demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every claim held.
    Proved,
    /// At least one did not.
    Refuted,
    /// A signal ended it.
    Interrupted,
}

/// Plays all acts.
///
/// # Errors
/// Names the step that failed, which is then no claim's fault.
pub fn run() -> anyhow::Result<Outcome> {
    let subtitle = format!("{} gRPC backends, {} clients", acts::BACKENDS, acts::CLIENTS);
    interruptible(play(&subtitle, Stage::new, all_acts))
}

/// Plays on a runtime of its own until the end, or until a signal.
fn interruptible(play: impl Future<Output = anyhow::Result<Outcome>>) -> anyhow::Result<Outcome> {
    // One thread: the network namespace belongs to the thread that makes it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
        tokio::select! {
            outcome = play => outcome,
            _ = interrupt.recv() => Ok(Outcome::Interrupted),
            _ = terminate.recv() => Ok(Outcome::Interrupted),
            _ = hangup.recv() => Ok(Outcome::Interrupted),
        }
    })
}

/// Plays acts on a stage of theirs: what is said before and behind them, and what is left where one fails.
async fn play(
    subtitle: &str,
    stage: impl FnOnce() -> anyhow::Result<Stage>,
    acts: impl AsyncFnOnce(&mut Stage, &mut Screen) -> anyhow::Result<Outcome>,
) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let mut screen = Screen::new();
    let title = screen.paint(Style::Bold, "balancer demo");
    screen.print(&[format!("\n  {title}  {subtitle}, one address: {VIP}")]);
    let mut stage = stage()?;
    let outcome = acts(&mut stage, &mut screen).await;
    if outcome.is_err() {
        screen.print(&stage.logs());
    }
    drop(stage);
    let outcome = outcome?;
    screen.say(&format!("Took {:.0} s; nothing is left behind.", started.elapsed().as_secs_f64()));
    Ok(outcome)
}

async fn all_acts(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<Outcome> {
    let mut claims = Claims::default();
    for _ in 0..acts::BACKENDS {
        stage.add_server().await?;
    }
    let without = acts::without(stage, screen).await.context("act 1")?;
    acts::with(stage, screen, &mut claims, without).await.context("act 2")?;
    acts::scale_up(stage, screen, &mut claims).await.context("act 3")?;
    acts::drain(stage, screen, &mut claims).await.context("act 4")?;
    acts::kill_and_restart(stage, screen, &mut claims).await.context("act 5")?;
    acts::finish(stage, screen, &mut claims).await.context("the end")?;
    Ok(claims.conclude(screen))
}
