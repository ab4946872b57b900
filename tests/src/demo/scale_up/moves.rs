//! What the agent tells of HTTP/2 connections and of their moves.

use super::super::stage::Stage;
use anyhow::{Context, bail};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Longest wait for the agent to know its pods.
const FOLLOWED_MAX: Duration = Duration::from_secs(10);

/// Moves since the agent started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moves {
    /// Those that the kernel was asked for.
    pub begun: u64,
    /// Those that were made.
    pub made: u64,
}

/// Waits until packets of so many clients are seen.
///
/// # Errors
/// When that takes too long.
pub async fn until_followed(stage: &Stage, clients: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + FOLLOWED_MAX;
    let mut look = tokio::time::interval(Duration::from_millis(50));
    loop {
        look.tick().await;
        let status = status(stage).await?;
        if status["clients"].as_u64() == Some(clients) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the agent does not see the packets of all {clients} clients: {status}");
        }
    }
}

/// The moves of the agent that runs.
///
/// # Errors
/// When it does not answer.
pub async fn moves(stage: &Stage) -> anyhow::Result<Moves> {
    let status = status(stage).await?;
    let begun = status["begun"].as_object().context("read the moves")?;
    let begun = begun.values().filter_map(Value::as_u64).sum();
    Ok(Moves { begun, made: status["made"].as_u64().context("read the moves")? })
}

/// What `status` tells of HTTP/2.
///
/// # Errors
/// When the agent does not answer.
pub async fn status(stage: &Stage) -> anyhow::Result<Value> {
    let (_, text) = stage.files.ask(&["status", "--output", "json"]).await?;
    let status: Value = serde_json::from_str(&text).context("read the status")?;
    Ok(status["agent"]["http2"].clone())
}
