//! The demo of moves: clients with long connections, while backends come and go.
//!
//! It states what it proved in numbers, and leaves nothing behind, however it ends.

mod acts;
pub mod moves;
mod shares;

use super::{
    Outcome,
    claim::Claims,
    interruptible,
    screen::{Screen, Style},
    stage::{Stage, VIP},
};
use anyhow::Context;
use std::time::Instant;

/// Plays all acts.
///
/// # Errors
/// Names the step that failed, which is then no claim's fault.
pub fn run() -> anyhow::Result<Outcome> {
    interruptible(play())
}

async fn play() -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let mut screen = Screen::new();
    let title = screen.paint(Style::Bold, "balancer demo");
    screen.print(&[format!(
        "\n  {title}  {} clients with one long connection each, one address: {VIP}",
        acts::CLIENTS
    )]);
    let mut stage = Stage::with_networks()?;
    let outcome = all_acts(&mut stage, &mut screen).await;
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
    acts::settle(stage, screen, &mut claims).await.context("act 1")?;
    acts::scale_up(stage, screen, &mut claims).await.context("act 2")?;
    acts::terminate(stage, screen, &mut claims).await.context("act 3")?;
    acts::finish(stage, screen, &mut claims).await.context("the end")?;
    screen.heading("What was shown");
    claims.summarise(screen);
    Ok(if claims.hold() { Outcome::Proved } else { Outcome::Refuted })
}
