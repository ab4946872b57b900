//! Load: connections with concurrent streams, at a rate or as fast as replies come, and its tally.

use super::{
    client::EchoClient,
    echo::{EchoReply, MESSAGES_MAX},
};
use anyhow::Context;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Interval, MissedTickBehavior},
};
use tonic::Streaming;

/// Largest latency that is told apart from larger ones.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Size of a message of a stream that is kept open: a few of them fill HTTP/2's window.
const HELD_BYTES: usize = 16_384;
/// Pause after a failed call, so that a dead backend is not hammered.
const FAILURE_PAUSE_MS: u64 = 20;

/// What load to make.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadPlan {
    /// What to dial.
    #[arg(long)]
    pub target: SocketAddr,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    pub connections: u32,
    /// Calls at a time on each connection.
    #[arg(long, default_value_t = 1)]
    pub streams: u32,
    /// Calls per second and connection; without it, each call follows the reply of the last one.
    #[arg(long)]
    pub rate: Option<u32>,
    /// Size of each payload.
    #[arg(long, default_value_t = 32)]
    pub payload_bytes: usize,
    /// Server streams that each connection keeps open besides, of which nothing is read.
    #[arg(long, default_value_t = 0)]
    pub held: u32,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Replies by backend.
    pub replies: BTreeMap<String, u64>,
    /// Failed calls by status.
    pub failures: BTreeMap<String, u64>,
    /// Latencies in nanoseconds, each with how often it was seen, to three digits.
    pub latencies_ns: Vec<(u64, u64)>,
    /// Processor time that the client's process took for it, in microseconds.
    pub cpu_us: u64,
}

impl Tally {
    /// All replies.
    pub fn replied(&self) -> u64 {
        self.replies.values().sum()
    }

    /// All failures.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Adds another tally.
    pub fn add(&mut self, other: Self) {
        for (backend, count) in other.replies {
            *self.replies.entry(backend).or_default() += count;
        }
        for (status, count) in other.failures {
            *self.failures.entry(status).or_default() += count;
        }
        let mut latencies: BTreeMap<u64, u64> = self.latencies_ns.drain(..).collect();
        for (latency, count) in other.latencies_ns {
            *latencies.entry(latency).or_default() += count;
        }
        self.latencies_ns = latencies.into_iter().collect();
        self.cpu_us += other.cpu_us;
    }

    /// The latency below which `share` of all calls ended, in nanoseconds; zero without calls.
    pub fn quantile_ns(&self, share: f64) -> u64 {
        let total: u64 = self.latencies_ns.iter().map(|(_, count)| count).sum();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank among counts far below 2^52"
        )]
        let rank = (total as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
        let mut seen = 0;
        for (latency, count) in &self.latencies_ns {
            seen += count;
            if seen >= rank {
                return *latency;
            }
        }
        0
    }
}

/// Connections that stand, ready to carry load.
pub struct Load {
    clients: Vec<EchoClient>,
    plan: LoadPlan,
    held: Vec<Streaming<EchoReply>>,
    /// The backend that each connection reached.
    pub backends: Vec<String>,
}

impl Load {
    /// Dials all connections of the plan at once, and makes one call on each.
    ///
    /// # Errors
    /// When a connection cannot be made, or its first call fails.
    pub async fn dial(plan: &LoadPlan) -> anyhow::Result<Self> {
        let mut dials = JoinSet::new();
        for _ in 0..plan.connections {
            let target = plan.target;
            dials.spawn(async move {
                let mut client =
                    EchoClient::connect(target).await.with_context(|| format!("dial {target}"))?;
                let reply = client.echo(Vec::new()).await.context("make the first call")?;
                Ok::<_, anyhow::Error>((client, reply.backend))
            });
        }
        let mut load = Self {
            clients: Vec::new(),
            plan: plan.clone(),
            held: Vec::new(),
            backends: Vec::new(),
        };
        while let Some(dialled) = dials.join_next().await {
            let (mut client, backend) = dialled.context("join a dial")??;
            for _ in 0..plan.held {
                let stream = client.open(vec![0; HELD_BYTES], MESSAGES_MAX).await;
                load.held.push(stream.context("open a stream")?);
            }
            load.clients.push(client);
            load.backends.push(backend);
        }
        Ok(load)
    }

    /// Makes calls until `stop` turns true; calls under way are ended, never cut.
    ///
    /// # Errors
    /// When a task of ours panicked.
    pub async fn run(self, stop: &watch::Receiver<bool>) -> anyhow::Result<Tally> {
        let mut streams = JoinSet::new();
        for client in &self.clients {
            for _ in 0..self.plan.streams {
                streams.spawn(call(client.clone(), self.plan.clone(), stop.clone()));
            }
        }
        let mut tally = Tally::default();
        while let Some(ended) = streams.join_next().await {
            tally.add(ended.context("join a stream of calls")??);
        }
        drop(self.held);
        Ok(tally)
    }
}

/// One call after the other.
async fn call(
    mut client: EchoClient,
    plan: LoadPlan,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<Tally> {
    let mut latencies = Histogram::<u64>::new_with_bounds(1, LATENCY_NS_MAX, 3)?;
    let mut tally = Tally::default();
    let mut pace = pace(&plan);
    loop {
        tokio::select! {
            biased;
            // A sender that is gone wants nothing any more.
            _ = stop.wait_for(|stop| *stop) => break,
            () = next(&mut pace) => {}
        }
        let started = Instant::now();
        match client.echo(vec![0; plan.payload_bytes]).await {
            Ok(reply) => {
                let latency_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
                latencies.saturating_record(latency_ns);
                *tally.replies.entry(reply.backend).or_default() += 1;
            }
            Err(status) => {
                let text = format!("{:?}: {}", status.code(), status.message());
                *tally.failures.entry(text).or_default() += 1;
                tokio::time::sleep(Duration::from_millis(FAILURE_PAUSE_MS)).await;
            }
        }
    }
    tally.latencies_ns = latencies
        .iter_recorded()
        .map(|step| (step.value_iterated_to(), step.count_at_value()))
        .collect();
    Ok(tally)
}

/// The rate of one stream. A late tick is made up for, so that all clients send equally much.
fn pace(plan: &LoadPlan) -> Option<Interval> {
    let rate = plan.rate?.max(1);
    let period = Duration::from_secs(1) * plan.streams.max(1) / rate;
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Burst);
    Some(interval)
}

async fn next(pace: &mut Option<Interval>) {
    if let Some(interval) = pace {
        interval.tick().await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::server::EchoServer;
    use super::*;

    #[test]
    fn quantiles_of_added_tallies() {
        let mut tally = Tally { latencies_ns: vec![(10, 1), (30, 1)], ..Tally::default() };
        tally.add(Tally { latencies_ns: vec![(10, 7), (20, 1)], ..Tally::default() });
        assert_eq!(tally.latencies_ns, [(10, 8), (20, 1), (30, 1)]);
        assert_eq!(tally.quantile_ns(0.5), 10);
        assert_eq!(tally.quantile_ns(0.9), 20);
        assert_eq!(tally.quantile_ns(1.0), 30);
        assert_eq!(Tally::default().quantile_ns(0.5), 0);
    }

    #[tokio::test]
    async fn every_call_is_tallied_as_the_server_counts_it() {
        let server = EchoServer::start("b1", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let target = server.address();
        let plan =
            LoadPlan { target, connections: 2, streams: 3, rate: None, payload_bytes: 8, held: 0 };
        let load = Load::dial(&plan).await.unwrap();
        assert_eq!(load.backends, ["b1", "b1"]);
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(async move { load.run(&stopped).await });
        while server.requests() < 100 {
            tokio::task::yield_now().await;
        }
        stop.send(true).unwrap();
        let tally = running.await.unwrap().unwrap();
        assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
        let dials = 2;
        assert_eq!(tally.replied() + dials, server.requests());
    }
}
