//! A child process that times its own `connect()`, in whichever cgroup it is told to be.
//!
//! Both sides of a comparison are measured by this one process on one CPU, dialling its own
//! listeners: over loopback the whole handshake then happens inside `connect()`. A socket belongs to
//! the cgroup that its process was in when it was made.

use crate::world::run as run_program;
use anyhow::{Context, bail};
use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getpeername, setsockopt,
        socket, sockopt,
    },
    unistd::{Pid, gettid},
};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// The ends of the veth pair: addresses that only the namespaces of the benchmark know.
const CLIENT_SIDE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const SERVER_SIDE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

const RESET: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

/// Connects to make and to time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Batch {
    /// The cgroup to be in.
    pub cgroup: PathBuf,
    /// What to dial; by the family of the address.
    pub to: SocketAddr,
    /// How often.
    pub connects: usize,
    /// Whether to ask for the peer's name on each connection, untimed.
    pub asks_peer: bool,
    /// Which listener it leads to in the end.
    pub at: Listener,
    /// How to connect.
    pub by: Client,
}

/// How the child connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Client {
    /// A `connect()` that blocks, alone.
    Blocking,
    /// As a gRPC client does: from making the socket through a non-blocking `connect()` to the
    /// event that it is connected (tokio).
    Tokio,
}

/// A listener of the child's, by what stands between it and the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listener {
    /// [`Listening::v4`] or [`Listening::v6`], by the family of the address.
    Own,
    /// [`Listening::served`].
    Served,
    /// [`Listening::behind_veth`].
    BehindVeth,
}

/// Where the child listens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Listening {
    /// On IPv4; the same port of every other address of 127.0.0.0/8 leads here too.
    pub v4: SocketAddr,
    /// On IPv6.
    pub v6: SocketAddr,
    /// On IPv4, with a thread on another CPU that waits in `accept()`, as that of a server does:
    /// `connect()` then includes waking it up. The other listeners are accepted from after each
    /// `connect()`, by the thread that called it.
    pub served: SocketAddr,
    /// On IPv4 in a network namespace of its own, behind a veth pair, as another pod is.
    pub behind_veth: SocketAddr,
}

/// The child, from its parent's side.
pub struct TimedDialer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Where it listens.
    pub listening: Listening,
}

impl TimedDialer {
    /// Starts it in the calling thread's network namespace.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("find the own binary")?;
        let mut child = Command::new(own)
            .arg("timed-dialer")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the timed dialer")?;
        let requests = child.stdin.take().context("the dialer's input")?;
        let mut answers = BufReader::new(child.stdout.take().context("the dialer's output")?);
        let listening = read(&mut answers)?;
        Ok(Self { child, requests, answers, listening })
    }

    /// Makes connects, and returns how long each took, in nanoseconds.
    ///
    /// # Errors
    /// When one failed.
    pub fn time(&mut self, batch: &Batch) -> anyhow::Result<Vec<f64>> {
        let line = serde_json::to_string(batch)?;
        writeln!(self.requests, "{line}").context("ask the timed dialer")?;
        read(&mut self.answers)
    }
}

impl Drop for TimedDialer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read<T: for<'a> Deserialize<'a>>(answers: &mut impl BufRead) -> anyhow::Result<T> {
    let mut line = String::new();
    let read = answers.read_line(&mut line);
    if read.context("read from the timed dialer")? == 0 {
        bail!("the timed dialer ended; its own message says why");
    }
    serde_json::from_str(&line).context("understand the timed dialer")
}

/// The child itself: carries out batches until its standard input ends.
///
/// # Errors
/// When a connect fails.
pub fn serve() -> anyhow::Result<()> {
    let served = TcpListener::bind("127.0.0.1:0").context("listen on 127.0.0.1")?;
    let served_at = served.local_addr()?;
    std::thread::spawn(move || {
        pin(1);
        // Dropping closes: every client has hung up by then or soon will.
        served.incoming().for_each(drop);
    });
    let behind_veth = listen_behind_veth()?;
    prefer_this_process();
    // All of 127.0.0.0/8, so that one listener can stand for many backends.
    let v4 = TcpListener::bind("0.0.0.0:0").context("listen on 0.0.0.0")?;
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).context("listen on ::1")?;
    let listening = Listening {
        v4: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), v4.local_addr()?.port()),
        v6: v6.local_addr()?,
        served: served_at,
        behind_veth: behind_veth.local_addr()?,
    };
    answer(&listening)?;
    for line in std::io::stdin().lock().lines() {
        let batch: Batch = serde_json::from_str(&line?).context("read a batch")?;
        enter(&batch.cgroup)?;
        let mapped = |ip: Ipv6Addr| ip.to_ipv4_mapped().is_some();
        let is_v6 = matches!(batch.to, SocketAddr::V6(to) if !mapped(*to.ip()));
        let accepting = match batch.at {
            Listener::Own if is_v6 => Some(&v6),
            Listener::Own => Some(&v4),
            Listener::Served => None,
            Listener::BehindVeth => Some(&behind_veth),
        };
        let times = time(&batch, accepting).with_context(|| format!("connect to {}", batch.to))?;
        answer(&times)?;
    }
    Ok(())
}

/// Listens in a new network namespace that a veth pair joins to this thread's. Both vanish with
/// the listener.
fn listen_behind_veth() -> anyhow::Result<TcpListener> {
    let (inside, outside) = (CLIENT_SIDE, SERVER_SIDE);
    let (told, namespace) = mpsc::channel();
    let (joined, is_joined) = mpsc::channel::<()>();
    let server = std::thread::spawn(move || -> anyhow::Result<TcpListener> {
        unshare(CloneFlags::CLONE_NEWNET).context("unshare the server's network namespace")?;
        told.send(gettid()).context("tell the namespace")?;
        is_joined.recv().context("the veth pair was not made")?;
        run_program("ip", &["address", "add", &format!("{outside}/24"), "dev", "server"])?;
        run_program("ip", &["link", "set", "server", "up"])?;
        TcpListener::bind((outside, 0)).context("listen behind the veth pair")
    });
    if let Ok(thread) = namespace.recv() {
        let thread = thread.to_string();
        let peer = ["peer", "name", "server", "netns", &thread];
        run_program("ip", &[["link", "add", "client", "type", "veth"].as_slice(), &peer].concat())?;
        run_program("ip", &["address", "add", &format!("{inside}/24"), "dev", "client"])?;
        run_program("ip", &["link", "set", "client", "up"])?;
        let _ = joined.send(());
    }
    server.join().map_err(|_| anyhow::anyhow!("the thread behind the veth pair panicked"))?
}

fn answer(answer: &impl Serialize) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{}", serde_json::to_string(answer)?).context("answer the parent")
}

fn enter(cgroup: &Path) -> anyhow::Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("enter cgroup {}", cgroup.display()))
}

/// One CPU, and before ordinary processes: what else the machine does is not what is measured.
/// Without the permission or the tool for it the figures are only noisier.
fn prefer_this_process() {
    pin(0);
    let pid = std::process::id().to_string();
    let _ = run_program("chrt", &["--all-tasks", "--fifo", "--pid", "1", &pid]);
}

/// Keeps the calling thread on one CPU, if there is such a one.
fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    if cpus.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
    }
}

fn time(batch: &Batch, listener: Option<&TcpListener>) -> anyhow::Result<Vec<f64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut times = Vec::with_capacity(batch.connects);
    for _ in 0..batch.connects {
        let elapsed = match batch.by {
            Client::Blocking => blocking(batch)?,
            Client::Tokio => runtime.block_on(awaiting(batch))?,
        };
        if let Some(listener) = listener {
            drop(listener.accept()?);
        }
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds far below 2^52")]
        times.push(elapsed.as_nanos() as f64);
    }
    Ok(times)
}

/// One connection. Closing it resets: none of thousands may stay in TIME_WAIT.
fn blocking(batch: &Batch) -> anyhow::Result<Duration> {
    let family = if batch.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let client = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&client, sockopt::Linger, &RESET)?;
    let to = SockaddrStorage::from(batch.to);
    let started = Instant::now();
    connect(client.as_raw_fd(), &to)?;
    let elapsed = started.elapsed();
    if batch.asks_peer {
        getpeername::<SockaddrStorage>(client.as_raw_fd())?;
    }
    Ok(elapsed)
}

async fn awaiting(batch: &Batch) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let client = tokio::net::TcpStream::connect(batch.to).await?;
    let elapsed = started.elapsed();
    setsockopt(&client, sockopt::Linger, &RESET)?;
    Ok(elapsed)
}
