//! A client process in a pod's cgroup: the only way to connect as a pod, since kernel programs tell
//! pods by the cgroup that a socket is made in.

pub mod protocol;
pub mod serve;
pub mod storm;

use anyhow::{Context, bail};
use protocol::{Dialled, Request, Response, Socket, SocketOptions, Storm, Stormed};
use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// Longest wait for a connection, unless a test says otherwise.
pub const WAIT_MS: u32 = 5_000;

/// A running dialer. It ends when this is dropped, and when the process that made it ends.
pub struct Dialer {
    child: Child,
    pipes: RefCell<Pipes>,
}

struct Pipes {
    requests: Option<ChildStdin>,
    responses: BufReader<ChildStdout>,
}

impl Dialer {
    /// Starts a dialer in `cgroup` and in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the binary is missing or cannot join the cgroup.
    pub fn start(cgroup: &Path) -> anyhow::Result<Self> {
        let binary = binary()?;
        let mut child = Command::new(&binary)
            .arg(cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        let requests = child.stdin.take();
        let responses = BufReader::new(child.stdout.take().context("the dialer's output")?);
        let dialer = Self { child, pipes: RefCell::new(Pipes { requests, responses }) };
        match dialer.receive()? {
            Response::Done => Ok(dialer),
            other => bail!("the dialer did not start: {other:?}"),
        }
    }

    /// Connects with a socket of the address's own family; the connection stays open.
    ///
    /// # Errors
    /// When the dialer is gone; a failed `connect()` is an answer.
    pub fn dial(&self, to: SocketAddr) -> anyhow::Result<Dialled> {
        self.dial_with(to, if to.is_ipv4() { Socket::V4 } else { Socket::V6 })
    }

    /// Connects with a socket of the given kind; the connection stays open.
    ///
    /// # Errors
    /// As [`Self::dial`].
    pub fn dial_with(&self, to: SocketAddr, socket: Socket) -> anyhow::Result<Dialled> {
        self.dialled(&Request::Dial { to, socket, wait_ms: WAIT_MS, again: None })
    }

    /// Connects once more with a socket that has failed to.
    ///
    /// # Errors
    /// As [`Self::dial`].
    pub fn dial_again(&self, handle: u64, to: SocketAddr) -> anyhow::Result<Dialled> {
        let socket = if to.is_ipv4() { Socket::V4 } else { Socket::V6 };
        self.dialled(&Request::Dial { to, socket, wait_ms: WAIT_MS, again: Some(handle) })
    }

    /// Starts to connect and closes the socket before an answer came.
    ///
    /// # Errors
    /// As [`Self::dial`].
    pub fn abandon(&self, to: SocketAddr) -> anyhow::Result<Dialled> {
        let socket = if to.is_ipv4() { Socket::V4 } else { Socket::V6 };
        self.dialled(&Request::Abandon { to, socket })
    }

    fn dialled(&self, request: &Request) -> anyhow::Result<Dialled> {
        match self.ask(request)? {
            Response::Dialled(dialled) => Ok(dialled),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// Closes a connection, by a FIN or by a reset.
    ///
    /// # Errors
    /// When there is no such connection.
    pub fn close(&self, handle: u64, reset: bool) -> anyhow::Result<()> {
        self.done(&Request::Close { handle, reset })
    }

    /// Sends one byte, upon which a [`crate::backend::Backend`] ends the connection.
    ///
    /// # Errors
    /// When there is no such connection, or it is over.
    pub fn send(&self, handle: u64) -> anyhow::Result<()> {
        self.done(&Request::Send { handle })
    }

    /// Sends a byte and awaits it back, as often as asked; for a [`crate::trouble::Losing`].
    ///
    /// # Errors
    /// When there is no such connection, or it is over.
    pub fn exchange(&self, handle: u64, times: u32) -> anyhow::Result<()> {
        self.done(&Request::Exchange { handle, times })
    }

    /// Awaits the byte that [`Self::send`] has sent to a [`crate::trouble::Losing`].
    ///
    /// # Errors
    /// When there is no such connection, or it is over.
    pub fn receive_back(&self, handle: u64) -> anyhow::Result<()> {
        self.done(&Request::Receive { handle })
    }

    /// Says that nothing more will be sent, as clients do that wait for the server's own end.
    ///
    /// # Errors
    /// When there is no such connection, or it is over.
    pub fn shut(&self, handle: u64) -> anyhow::Result<()> {
        self.done(&Request::Shut { handle })
    }

    /// Waits until a connection is over; returns the error number that the client reads, or zero when
    /// the peer has ended it.
    ///
    /// # Errors
    /// When there is no such connection.
    pub fn await_end(&self, handle: u64) -> anyhow::Result<i32> {
        match self.ask(&Request::AwaitEnd { handle })? {
            Response::Ended(errno) => Ok(errno),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    fn done(&self, request: &Request) -> anyhow::Result<()> {
        match self.ask(request)? {
            Response::Done => Ok(()),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// Reads the options of a connection's socket.
    ///
    /// # Errors
    /// When there is no such connection.
    pub fn options(&self, handle: u64) -> anyhow::Result<SocketOptions> {
        match self.ask(&Request::Options { handle })? {
            Response::Options(options) => Ok(options),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// Connects many times, from several threads; returns when all are through.
    ///
    /// # Errors
    /// When the dialer is gone; failed connects are part of the answer.
    pub fn storm(&self, storm: Storm) -> anyhow::Result<Stormed> {
        match self.ask(&Request::Storm(storm))? {
            Response::Stormed(stormed) => Ok(stormed),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    fn ask(&self, request: &Request) -> anyhow::Result<Response> {
        let line = serde_json::to_string(request)?;
        if let Some(requests) = self.pipes.borrow_mut().requests.as_mut() {
            writeln!(requests, "{line}").context("write to the dialer")?;
        }
        match self.receive()? {
            Response::Failed(cause) => bail!("the dialer: {cause}"),
            response => Ok(response),
        }
    }

    fn receive(&self) -> anyhow::Result<Response> {
        let mut line = String::new();
        self.pipes.borrow_mut().responses.read_line(&mut line).context("read from the dialer")?;
        serde_json::from_str(&line).with_context(|| format!("the dialer answered `{line}`"))
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The dialer lies beside the programs that use it, or one level up from tests.
fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find the own binary")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("balancer-dialer"))
        .find(|path| path.exists())
        .context("no `balancer-dialer` beside this binary; hint: `cargo build -p balancer-tests`")
}
