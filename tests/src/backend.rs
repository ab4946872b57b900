//! A TCP server that tells every client which backend it reached.

use anyhow::Context;
use nix::sys::socket::{Shutdown, shutdown};
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

/// A server that answers each connection with its own address and a newline, and ends it when the
/// client sends anything or closes.
pub struct Backend {
    address: SocketAddr,
    listener: TcpListener,
    accepted: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Backend {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is not there or taken.
    pub fn start(address: SocketAddr) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        let address = listener.local_addr().context("ask for the listening address")?;
        let accepted = Arc::new(AtomicU64::new(0));
        let stopping = Arc::new(AtomicBool::new(false));
        let own = listener.try_clone().context("share the listening socket")?;
        let acceptor = std::thread::Builder::new().spawn({
            let (accepted, stopping) = (Arc::clone(&accepted), Arc::clone(&stopping));
            move || accept(&listener, address, &accepted, &stopping)
        })?;
        Ok(Self { address, listener: own, accepted, stopping, acceptor: Some(acceptor) })
    }

    /// Several servers on free ports of one address.
    ///
    /// # Errors
    /// When the address is not there.
    pub fn start_many(ip: IpAddr, count: usize) -> anyhow::Result<Vec<Self>> {
        (0..count).map(|_| Self::start(SocketAddr::new(ip, 0))).collect()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor up, also where no connection of our own would get through.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(
    listener: &TcpListener,
    address: SocketAddr,
    accepted: &AtomicU64,
    stopping: &AtomicBool,
) {
    for stream in listener.incoming() {
        if stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(mut stream) = stream else { continue };
        accepted.fetch_add(1, Ordering::SeqCst);
        let served = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            if writeln!(stream, "{address}").is_ok() {
                let _ = stream.read(&mut [0; 64]);
            }
        });
        drop(served);
    }
}
