//! Calls of every kind and a known number on one connection, which then stays open.

use super::{
    client::EchoClient,
    echo::{EchoReply, MESSAGES_MAX},
};
use anyhow::{Context, bail};
use std::net::SocketAddr;
use tonic::{Code, Streaming};

/// Messages of a stream that is read to its end.
const MESSAGES: u32 = 5;
/// Payload of each message.
const PAYLOAD_BYTES: usize = 1_000;

/// How many calls of each kind to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct CallPlan {
    /// What to dial.
    #[arg(long)]
    pub target: SocketAddr,
    /// Unary calls; one more tells which backend was reached.
    #[arg(long)]
    pub unary: u32,
    /// Server streams that are read to their end.
    #[arg(long)]
    pub streams: u32,
    /// Server streams that the client cancels.
    #[arg(long)]
    pub cancelled: u32,
    /// Calls of a method that the server does not have.
    #[arg(long)]
    pub refused: u32,
    /// Server streams that stay open.
    #[arg(long)]
    pub held: u32,
}

impl CallPlan {
    /// Calls in all.
    pub const fn calls(&self) -> u32 {
        self.unary + 1 + self.streams + self.cancelled + self.refused + self.held
    }
}

/// A connection on which all calls were made.
pub struct Calls {
    _client: EchoClient,
    _held: Vec<Streaming<EchoReply>>,
    /// The backend that it reached.
    pub backend: String,
}

impl Calls {
    /// Makes the calls of a plan.
    ///
    /// # Errors
    /// When a call does not end as it should.
    pub async fn make(plan: &CallPlan) -> anyhow::Result<Self> {
        let target = plan.target;
        let mut client =
            EchoClient::connect(target).await.with_context(|| format!("dial {target}"))?;
        let payload = || vec![1; PAYLOAD_BYTES];
        for _ in 0..plan.cancelled {
            let stream = client.open(payload(), MESSAGES_MAX).await;
            drop(stream.context("open a stream to cancel")?);
        }
        for _ in 0..plan.streams {
            client.watch(payload(), MESSAGES).await.context("read a stream")?;
        }
        for _ in 0..plan.refused {
            match client.refused().await {
                Err(status) if status.code() == Code::Unimplemented => {}
                other => bail!("a method that is not there: {other:?}"),
            }
        }
        for _ in 0..plan.unary {
            client.echo(payload()).await.context("make a unary call")?;
        }
        let backend = client.echo(Vec::new()).await.context("ask for the backend")?.backend;
        // At last, since what nobody reads fills the connection's window.
        let mut held = Vec::new();
        for _ in 0..plan.held {
            held.push(client.open(payload(), MESSAGES_MAX).await.context("open a stream")?);
        }
        Ok(Self { _client: client, _held: held, backend })
    }
}
