//! Servers that misbehave: one that never answers a SYN, one that resets what it accepted, and one
//! whose segments get lost when a test wants it.

use anyhow::Context;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, connect, getsockname, listen,
    setsockopt, socket, sockopt,
};
use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    sync::mpsc::{self, Receiver},
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
            let _ = (&stream).write_all(format!("{address}\n").as_bytes());
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
        let _ = TcpStream::connect(self.address);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// A server that accepts one connection, greets it and sends back what it gets; what arrives for it
/// can be made to get lost.
pub struct Losing {
    address: SocketAddr,
    accepted: Receiver<TcpStream>,
    stream: Option<TcpStream>,
    server: Option<JoinHandle<()>>,
}

impl Losing {
    /// Listens on 127.0.0.1; nothing gets lost yet.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let address = listener.local_addr()?;
        let (sender, accepted) = mpsc::channel();
        let server = std::thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let Ok(shared) = stream.try_clone() else { return };
            if sender.send(shared).is_err() || writeln!(stream, "{address}").is_err() {
                return;
            }
            let mut byte = [0];
            while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
        });
        Ok(Self { address, accepted, stream: None, server: Some(server) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on every segment of the client gets lost, before TCP has seen it.
    ///
    /// # Errors
    /// When no client was accepted, or the kernel refuses it.
    pub fn lose(&mut self) -> anyhow::Result<()> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.accepted.recv().context("nobody has connected")?,
        };
        // `BPF_RET | BPF_K` of linux/filter.h: keep no byte of any packet.
        let mut keep_nothing = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 };
        let program = libc::sock_fprog { len: 1, filter: &raw mut keep_nothing };
        let set = set_option(&stream, libc::SO_ATTACH_FILTER, &program);
        self.stream = Some(stream);
        set.context("attach a filter to the server's socket")
    }

    /// Nothing gets lost any more.
    ///
    /// # Errors
    /// When nothing got lost so far.
    pub fn lose_no_more(&self) -> anyhow::Result<()> {
        let stream = self.stream.as_ref().context("nothing gets lost")?;
        set_option(stream, libc::SO_DETACH_FILTER, &0_i32).context("detach the filter")
    }
}

impl Drop for Losing {
    fn drop(&mut self) {
        if let Ok(stream) = self.stream.take().map_or_else(|| self.accepted.try_recv(), Ok) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes it up if it has never accepted anybody.
        let _ = TcpStream::connect(self.address);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Sets an option of `SOL_SOCKET` that nix does not have.
fn set_option<T>(socket: &TcpStream, option: i32, value: &T) -> io::Result<()> {
    let bytes = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: `value` is alive and of the size that is told, and callers keep alive what it points to;
    // the kernel only reads it.
    let rc = unsafe {
        let value = std::ptr::from_ref(value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, bytes)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
