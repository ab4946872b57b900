//! A server on every address of the namespace at once, for tests with many backends and connections.

use anyhow::Context;
use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

/// Answers each connection with the address that it came to and a newline, then closes it.
pub struct Greeter {
    port: u16,
    stopping: Arc<AtomicBool>,
    acceptors: Vec<JoinHandle<()>>,
}

impl Greeter {
    /// Listens on all IPv4 addresses, 127.0.0.0/8 among them, with this many threads.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn start(threads: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("listen")?;
        let port = listener.local_addr()?.port();
        let stopping = Arc::new(AtomicBool::new(false));
        let mut acceptors = Vec::new();
        for _ in 0..threads {
            let (listener, stopping) = (listener.try_clone()?, Arc::clone(&stopping));
            acceptors.push(std::thread::spawn(move || greet(&listener, &stopping)));
        }
        Ok(Self { port, stopping, acceptors })
    }

    /// The address of a backend, told by a number: 127.1.0.0 plus that.
    pub fn backend(&self, number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(127, 1, high, low), self.port))
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        for acceptor in self.acceptors.drain(..) {
            // A connection of our own wakes one acceptor up, not necessarily this one.
            while !acceptor.is_finished() {
                let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
            }
            let _ = acceptor.join();
        }
    }
}

fn greet(listener: &TcpListener, stopping: &AtomicBool) {
    while !stopping.load(Ordering::SeqCst) {
        let Ok((mut stream, _)) = listener.accept() else {
            continue;
        };
        if let Ok(address) = stream.local_addr() {
            let _ = stream.write_all(format!("{address}\n").as_bytes());
        }
    }
}
