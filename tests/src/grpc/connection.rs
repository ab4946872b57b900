//! A server's connections: accepted, counted while they live, each with its own request count.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tonic::{codegen::tokio_stream::Stream, transport::server::Connected};

/// What one server counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests received.
    pub requests: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    live: Mutex<BTreeMap<SocketAddr, Arc<ConnectionRecord>>>,
}

impl Counters {
    /// The clients of the live connections, and how many requests each has sent.
    pub fn live(&self) -> BTreeMap<SocketAddr, u64> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.iter().map(|(peer, record)| (*peer, record.requests.load(Ordering::Relaxed))).collect()
    }
}

/// What is counted for one connection.
#[derive(Debug, Default)]
pub struct ConnectionRecord {
    /// Requests received.
    pub requests: AtomicU64,
}

/// An accepted connection; counted as live until it is dropped.
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    record: Arc<ConnectionRecord>,
    counters: Arc<Counters>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.counters.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.peer);
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<ConnectionRecord>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.record)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(ctx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(ctx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(ctx)
    }

    /// Ends the server's side, then waits for the client's: a socket that is closed with bytes to read
    /// (window updates, say) resets the connection, and what the client has not got yet is lost.
    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(ctx))?;
        let mut rest = [0; 4_096];
        loop {
            let mut buffer = ReadBuf::new(&mut rest);
            let read = ready!(Pin::new(&mut self.stream).poll_read(ctx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(ctx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The connections that a listener accepts.
pub struct Incoming {
    listener: TcpListener,
    counters: Arc<Counters>,
}

impl Incoming {
    /// Accepts from `listener` and counts in `counters`.
    pub fn new(listener: TcpListener, counters: Arc<Counters>) -> Self {
        Self { listener, counters }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (stream, peer) = match ready!(self.listener.poll_accept(ctx)) {
            Ok(accepted) => accepted,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        if let Err(error) = stream.set_nodelay(true) {
            return Poll::Ready(Some(Err(error)));
        }
        let record = Arc::new(ConnectionRecord::default());
        let counters = Arc::clone(&self.counters);
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        let mut live = counters.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.insert(peer, Arc::clone(&record));
        drop(live);
        Poll::Ready(Some(Ok(Connection { stream, peer, record, counters })))
    }
}
