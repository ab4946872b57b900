//! One gRPC backend: the echo service on one address, with what it has counted.

use super::{
    connection::{Counters, Incoming},
    echo::EchoService,
};
use anyhow::Context;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::transport::Server;

/// A running backend. It stops at once when it is dropped.
pub struct EchoServer {
    name: String,
    address: SocketAddr,
    counters: Arc<Counters>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl EchoServer {
    /// Listens on `address` and serves on the current runtime; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is not there or taken.
    pub async fn start(name: &str, address: SocketAddr) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        let address = listener.local_addr().context("ask for the listening address")?;
        let counters = Arc::new(Counters::default());
        let incoming = Incoming::new(listener, Arc::clone(&counters));
        let service = EchoService::new(name, Arc::clone(&counters));
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Server::builder().add_service(service);
        let task = tokio::spawn(router.serve_with_incoming_shutdown(incoming, async {
            // A server that was dropped instead of stopped ends by its task's abortion.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Ok(Self { name: name.to_owned(), address, counters, stop: Some(stop), task })
    }

    /// The name that its replies carry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests it has received.
    pub fn requests(&self) -> u64 {
        self.counters.requests.load(Ordering::Relaxed)
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> u64 {
        self.counters.accepted.load(Ordering::Relaxed)
    }

    /// The clients of its live connections, and how many requests each has sent.
    pub fn live(&self) -> BTreeMap<SocketAddr, u64> {
        self.counters.live()
    }

    /// Takes no new connections, sends GOAWAY on the live ones, and returns when their calls have
    /// ended.
    ///
    /// # Errors
    /// What tonic reports.
    pub async fn drain(mut self) -> anyhow::Result<()> {
        if let Some(stop) = self.stop.take() {
            // A receiver that is gone means that the server has ended by itself; joining tells why.
            let _ = stop.send(());
        }
        let ended = (&mut self.task).await.context("join the server's task")?;
        ended.with_context(|| format!("serve {}", self.name))
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::EchoClient;
    use super::*;

    #[tokio::test]
    async fn counts_requests_per_connection_and_drains() {
        let server = EchoServer::start("b1", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut first = EchoClient::connect(server.address()).await.unwrap();
        let mut second = EchoClient::connect(server.address()).await.unwrap();
        assert_eq!(first.echo(b"abc".to_vec()).await.unwrap().payload, b"abc");
        assert_eq!(first.echo(Vec::new()).await.unwrap().backend, "b1");
        assert_eq!(second.watch(b"x".to_vec(), 3).await.unwrap().len(), 3);
        let mut counts: Vec<u64> = server.live().into_values().collect();
        counts.sort_unstable();
        assert_eq!((counts, server.requests(), server.accepted()), (vec![1, 2], 3, 2));
        let address = server.address();
        server.drain().await.unwrap();
        assert!(EchoClient::connect(address).await.is_err(), "a drained server must not accept");
    }
}
