//! The demo of moves: clients with long connections, while backends come and go.
//!
//! It states what it proved in numbers, and leaves nothing behind, however it ends.

mod acts;
pub mod moves;
mod shares;

use super::{Outcome, claim::Claims, interruptible, play, screen::Screen, stage::Stage};
use anyhow::Context;

/// Plays all acts.
///
/// # Errors
/// Names the step that failed, which is then no claim's fault.
pub fn run() -> anyhow::Result<Outcome> {
    let subtitle = format!("{} clients with one long connection each", acts::CLIENTS);
    interruptible(play(&subtitle, Stage::with_networks, all_acts))
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
    Ok(claims.conclude(screen))
}
