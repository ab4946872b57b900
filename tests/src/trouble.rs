//! Servers that misbehave: one that never answers a SYN, and one that resets what it accepted.

use anyhow::Context;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, connect, getsockname, listen,
    setsockopt, socket, sockopt,
};
use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::{AsRawFd, OwnedFd},
    thread::JoinHandle,
};

/// A listening socket whose backlog is full: the kernel drops further SYNs.
pub struct Deaf {
    address: SocketAddr,
    // Held open: the listener and the connections that fill its backlog.
    _sockets: Vec<OwnedFd>,
}

impl Deaf {
    /// Listens on 127.0.0.1 and fills the backlog.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn start() -> anyhow::Result<Self> {
        let stream = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            socket(AddressFamily::Inet, SockType::Stream, flags, None)
        };
        let listener = stream()?;
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).context("bind")?;
        listen(&listener, Backlog::new(0)?).context("listen")?;
        let own: SockaddrIn = getsockname(listener.as_raw_fd())?;
        let mut sockets = vec![listener];
        // A backlog of 0 holds one connection (`sk_acceptq_is_full()`); the second may wait for its
        // handshake to end. What comes later is not answered.
        for _ in 0..4 {
            let filler = stream()?;
            // In progress, for ever.
            let _ = connect(filler.as_raw_fd(), &own);
            sockets.push(filler);
        }
        let address = SocketAddr::new(IpAddr::V4(own.ip()), own.port());
        Ok(Self { address, _sockets: sockets })
    }

    /// Where it does not answer.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A server that accepts one connection, greets it, and resets it.
pub struct Resetting {
    address: SocketAddr,
    server: Option<JoinHandle<()>>,
}

impl Resetting {
    /// Listens on 127.0.0.1.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let address = listener.local_addr()?;
        let server = std::thread::spawn(move || {
            let Ok((stream, _)) = listener.accept() else {
                return;
            };
            let _ = std::io::Write::write_all(&mut &stream, format!("{address}\n").as_bytes());
            let _ = setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
        });
        Ok(Self { address, server: Some(server) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Resetting {
    fn drop(&mut self) {
        let _ = std::net::TcpStream::connect(self.address);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}
