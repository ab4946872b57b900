//! tonic's side as a client: unary calls at a rate, and long streams of each kind.

use super::message::{
    CHAT, DOWNLOAD, MESSAGE_BYTES_MAX, RawCodec, UNARY, UPLOAD, numbered, seal, unseal,
};
use crate::grpc::load::Tally;
use anyhow::Context;
use futures_util::{Stream, StreamExt as _, stream};
use prost::bytes::Bytes;
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use ring::digest::{Context as Digest, SHA256};
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{self, Instant},
};
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

const UNARY_S_MAX: u64 = 20;
const STREAM_S_MAX: u64 = 60;
const FAILURE_PAUSE_MS: u64 = 20;
const POOL_BYTES: usize = 4 << 20;
/// Messages of a stream, the pause between two, and their greatest size.
const STREAM_MESSAGES: u32 = 40;
const STREAM_PAUSE_MS: u32 = 50;
const STREAM_BYTES_MAX: usize = 32 << 10;

/// What calls to make.
#[derive(Clone, Debug, clap::Args)]
pub struct BytesPlan {
    /// What to dial.
    #[arg(long)]
    pub target: SocketAddr,
    /// Unary calls at a time.
    #[arg(long, default_value_t = 8)]
    pub unary: u32,
    /// Streams of each kind at a time.
    #[arg(long, default_value_t = 1)]
    pub streams: u32,
    /// Unary calls a second.
    #[arg(long, default_value_t = 100)]
    pub rate: u32,
    /// Greatest payload of a unary call.
    #[arg(long, default_value_t = 200 << 10)]
    pub bytes_max: usize,
    /// Of sizes and bytes.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Calls after which a worker dials anew; 0 shares one connection.
    #[arg(long, default_value_t = 0)]
    pub renew: u64,
}

/// A client whose connection stands.
#[derive(Clone)]
pub struct BytesClient {
    /// None where each worker has a connection of its own: one that idles never moves.
    grpc: Option<Grpc<Channel>>,
    plan: BytesPlan,
    pool: Arc<[u8]>,
}

impl BytesClient {
    /// Dials.
    ///
    /// # Errors
    /// When the connection cannot be made.
    pub async fn connect(plan: &BytesPlan) -> anyhow::Result<Self> {
        let mut pool = vec![0; POOL_BYTES];
        StdRng::seed_from_u64(plan.seed).fill_bytes(&mut pool);
        let mut grpc = None;
        if plan.renew == 0 {
            let dialled = dial(plan.target).await;
            grpc = Some(dialled.with_context(|| format!("dial {}", plan.target))?);
        }
        Ok(Self { grpc, plan: plan.clone(), pool: pool.into() })
    }

    /// Makes calls until `stop` turns true; calls under way are ended, never cut.
    ///
    /// # Errors
    /// When a task of ours panicked.
    pub async fn run(self, stop: &watch::Receiver<bool>) -> anyhow::Result<Tally> {
        let mut workers = JoinSet::new();
        for number in 0..self.plan.unary {
            workers.spawn(self.clone().unary_worker(number.into(), stop.clone()));
        }
        for kind in ["download", "upload", "chat"] {
            for number in 0..self.plan.streams {
                workers.spawn(self.clone().stream_worker(kind, number.into(), stop.clone()));
            }
        }
        let mut tally = Tally::default();
        while let Some(ended) = workers.join_next().await {
            tally.add(ended.context("join a worker")?);
        }
        Ok(tally)
    }

    async fn unary_worker(mut self, number: u64, mut stop: watch::Receiver<bool>) -> Tally {
        let mut rng = StdRng::seed_from_u64(self.plan.seed * 1_000 + number);
        let mut tally = Tally::default();
        let period = Duration::from_secs(1) * self.plan.unary / self.plan.rate.max(1);
        let mut due = Instant::now() + period.mul_f64(rng.random());
        for calls in 0_u64.. {
            tokio::select! {
                biased;
                // A sender that is gone wants nothing any more.
                _ = stop.wait_for(|stop| *stop) => break,
                () = time::sleep_until(due) => {}
            }
            // A fixed pace would keep in step with connections' ages, and so with GOAWAYs.
            due += period.mul_f64(rng.random_range(0.0..2.0));
            if self.plan.renew > 0 && calls % self.plan.renew == 0 {
                match dial(self.plan.target).await {
                    Ok(grpc) => self.grpc = Some(grpc),
                    Err(error) => count(&mut tally.failures, format!("dial: {error}")),
                }
            }
            let outcome = self.unary(&mut rng).await;
            note(&mut tally, "unary", outcome).await;
        }
        tally
    }

    async fn unary(&mut self, rng: &mut StdRng) -> Result<(), Status> {
        let request = seal(chunk(&self.pool, rng, self.plan.bytes_max));
        let grpc = self.ready().await?;
        let path = PathAndQuery::from_static(UNARY);
        let call = grpc.unary(Request::new(request.clone()), path, RawCodec);
        let reply = within(UNARY_S_MAX, call).await?.into_inner();
        equal(&reply, &request)
    }

    async fn stream_worker(
        mut self,
        kind: &'static str,
        number: u64,
        stop: watch::Receiver<bool>,
    ) -> Tally {
        let mut rng = StdRng::seed_from_u64(self.plan.seed * 2_000 + number);
        let mut tally = Tally::default();
        while !*stop.borrow() {
            let outcome = within(STREAM_S_MAX, async {
                match kind {
                    "download" => self.download(&mut rng).await,
                    "upload" => self.upload(&mut rng).await,
                    _ => self.chat(&mut rng).await,
                }
            });
            note(&mut tally, kind, outcome.await).await;
        }
        tally
    }

    async fn download(&mut self, rng: &mut StdRng) -> Result<(), Status> {
        let chunk = chunk(&self.pool, rng, STREAM_BYTES_MAX).to_vec();
        let pause_us = STREAM_PAUSE_MS * 1_000;
        let request = seal(&numbered(STREAM_MESSAGES, &numbered(pause_us, &chunk)));
        let grpc = self.ready().await?;
        let path = PathAndQuery::from_static(DOWNLOAD);
        let call = grpc.server_streaming(Request::new(request), path, RawCodec);
        let mut replies = call.await?.into_inner();
        let mut index = 0;
        while let Some(reply) = replies.message().await? {
            equal(&unseal(&reply).unwrap_or_default(), &numbered(index, &chunk))?;
            index += 1;
        }
        equal(&index.to_be_bytes(), &STREAM_MESSAGES.to_be_bytes())
    }

    async fn upload(&mut self, rng: &mut StdRng) -> Result<(), Status> {
        let payloads: Vec<_> = (0..STREAM_MESSAGES)
            .map(|index| numbered(index, chunk(&self.pool, rng, STREAM_BYTES_MAX)))
            .collect();
        let mut digest = Digest::new(&SHA256);
        for payload in &payloads {
            digest.update(payload);
        }
        let messages = paced(payloads.into_iter().map(|payload| seal(&payload)));
        let grpc = self.ready().await?;
        let path = PathAndQuery::from_static(UPLOAD);
        let call = grpc.client_streaming(Request::new(messages), path, RawCodec);
        let reply = call.await?.into_inner();
        let expected = numbered(STREAM_MESSAGES, digest.finish().as_ref());
        equal(&unseal(&reply).unwrap_or_default(), &expected)
    }

    async fn chat(&mut self, rng: &mut StdRng) -> Result<(), Status> {
        let mut sent: VecDeque<Bytes> = (0..STREAM_MESSAGES)
            .map(|index| seal(&numbered(index, chunk(&self.pool, rng, STREAM_BYTES_MAX))))
            .collect();
        let messages = paced(sent.clone().into_iter());
        let grpc = self.ready().await?;
        let path = PathAndQuery::from_static(CHAT);
        let call = grpc.streaming(Request::new(messages), path, RawCodec);
        let mut replies = call.await?.into_inner();
        while let Some(reply) = replies.message().await? {
            equal(&reply, &sent.pop_front().unwrap_or_default())?;
        }
        if sent.is_empty() { Ok(()) } else { Err(mismatch(0, sent.len())) }
    }

    async fn ready(&mut self) -> Result<&mut Grpc<Channel>, Status> {
        let grpc = self.grpc.as_mut().ok_or_else(|| Status::unavailable("not connected"))?;
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }
}

async fn dial(target: SocketAddr) -> Result<Grpc<Channel>, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{target}"))?
        .connect_timeout(Duration::from_secs(UNARY_S_MAX));
    let grpc = Grpc::new(endpoint.connect().await?);
    Ok(grpc.max_decoding_message_size(MESSAGE_BYTES_MAX))
}

async fn within<T>(
    seconds: u64,
    act: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded(format!("took more than {seconds} s"));
    time::timeout(Duration::from_secs(seconds), act).await.map_err(late)?
}

fn paced(
    messages: impl Iterator<Item = Bytes> + Send + 'static,
) -> impl Stream<Item = Bytes> + Send {
    stream::iter(messages).then(|message| async {
        time::sleep(Duration::from_millis(STREAM_PAUSE_MS.into())).await;
        message
    })
}

async fn note(tally: &mut Tally, kind: &str, outcome: Result<(), Status>) {
    match outcome {
        Ok(()) => count(&mut tally.replies, kind.into()),
        Err(status) => {
            let text = format!("{kind}: {:?}: {}", status.code(), status.message());
            count(&mut tally.failures, text);
            time::sleep(Duration::from_millis(FAILURE_PAUSE_MS)).await;
        }
    }
}

fn count(counts: &mut BTreeMap<String, u64>, what: String) {
    *counts.entry(what).or_default() += 1;
}

/// Fails as a call does, so that both are counted alike.
fn equal(got: &[u8], expected: &[u8]) -> Result<(), Status> {
    if got == expected { Ok(()) } else { Err(mismatch(got.len(), expected.len())) }
}

fn mismatch(got: usize, expected: usize) -> Status {
    Status::data_loss(format!("mismatch: {got} bytes came, {expected} were expected"))
}

/// Some bytes: now and then none or all, else small ones more often than large ones.
fn chunk<'pool>(pool: &'pool [u8], rng: &mut StdRng, bytes_max: usize) -> &'pool [u8] {
    let at = rng.random_range(0..pool.len() - bytes_max);
    let bits = rng.random_range(0..=bytes_max.max(1).ilog2());
    let size = match rng.random_range(0..10) {
        0 => 0,
        1 => bytes_max,
        _ => rng.random_range(0..=bytes_max.min(2 << bits)),
    };
    &pool[at..at + size]
}
