//! The dialer process: carries out requests from standard input until that ends.

use super::{
    protocol::{Dialled, Request, Response, Socket, SocketOptions},
    storm,
};
use anyhow::Context;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getpeername, getsockname,
            setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::exit,
    sync::mpsc,
};

/// Joins the cgroup, then answers every request.
///
/// # Errors
/// When the cgroup cannot be joined or an answer cannot be written.
pub fn run(cgroup: &Path) -> anyhow::Result<()> {
    let procs = cgroup.join("cgroup.procs");
    std::fs::write(&procs, std::process::id().to_string())
        .with_context(|| format!("join {}", cgroup.display()))?;
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
        // The test is gone: whatever is under way is of no use to anybody.
        exit(0);
    });
    answer(&Response::Done)?;
    let mut sockets = Sockets::default();
    for line in requests {
        let response = match serde_json::from_str(&line) {
            Ok(request) => sockets
                .carry_out(request)
                .unwrap_or_else(|error| Response::Failed(format!("{error:#}"))),
            Err(error) => Response::Failed(format!("read `{line}`: {error}")),
        };
        answer(&response)?;
    }
    Ok(())
}

fn answer(response: &Response) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    let mut output = std::io::stdout().lock();
    output.write_all(&line)?;
    output.flush().context("answer the test")
}

#[derive(Default)]
struct Sockets {
    open: BTreeMap<u64, OwnedFd>,
    last: u64,
}

impl Sockets {
    fn carry_out(&mut self, request: Request) -> anyhow::Result<Response> {
        Ok(match request {
            Request::Dial { to, socket, wait_ms, again } => {
                let (handle, fd) = match again {
                    Some(handle) => (handle, self.take(handle)?),
                    None => (self.next(), open(socket)?),
                };
                set_wait(&fd, wait_ms)?;
                let dialled = dial(&fd, handle, to, socket)?;
                self.open.insert(handle, fd);
                Response::Dialled(dialled)
            }
            Request::Abandon { to, socket } => {
                let fd = open(socket)?;
                fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                let errno = connect_to(&fd, to, socket);
                Response::Dialled(Dialled { errno, ..Dialled::default() })
            }
            Request::Close { handle, reset } => {
                let fd = self.take(handle)?;
                if reset {
                    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                    setsockopt(&fd, sockopt::Linger, &linger)?;
                }
                Response::Done
            }
            Request::Send { handle } => {
                let fd = self.open.get(&handle).context("no such socket")?.try_clone()?;
                TcpStream::from(fd).write_all(b"x").context("send")?;
                Response::Done
            }
            Request::Exchange { handle, times } => {
                let fd = self.open.get(&handle).context("no such socket")?.try_clone()?;
                let mut stream = TcpStream::from(fd);
                for _ in 0..times {
                    stream.write_all(b"x").context("send")?;
                    stream.read_exact(&mut [0]).context("read what comes back")?;
                }
                Response::Done
            }
            Request::Receive { handle } => {
                let fd = self.open.get(&handle).context("no such socket")?.try_clone()?;
                TcpStream::from(fd).read_exact(&mut [0]).context("read what comes back")?;
                Response::Done
            }
            Request::Shut { handle } => {
                let fd = self.open.get(&handle).context("no such socket")?.try_clone()?;
                TcpStream::from(fd).shutdown(Shutdown::Write).context("shut")?;
                Response::Done
            }
            Request::AwaitEnd { handle } => {
                let fd = self.open.get(&handle).context("no such socket")?.try_clone()?;
                // The end is an end of file or an error; what the peer still sends is of no matter.
                let ended = TcpStream::from(fd).read_to_end(&mut Vec::new());
                Response::Ended(ended.err().and_then(|error| error.raw_os_error()).unwrap_or(0))
            }
            Request::Options { handle } => {
                Response::Options(options(self.open.get(&handle).context("no such socket")?)?)
            }
            Request::Storm(storm) => Response::Stormed(storm::run(&storm)?),
        })
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn take(&mut self, handle: u64) -> anyhow::Result<OwnedFd> {
        self.open.remove(&handle).context("no such socket")
    }
}

fn open(kind: Socket) -> nix::Result<OwnedFd> {
    let (family, kind) = match kind {
        Socket::V4 => (AddressFamily::Inet, SockType::Stream),
        Socket::V6 => (AddressFamily::Inet6, SockType::Stream),
        Socket::UdpV4 => (AddressFamily::Inet, SockType::Datagram),
        Socket::UdpV6 => (AddressFamily::Inet6, SockType::Datagram),
    };
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None)
}

fn set_wait(fd: &OwnedFd, wait_ms: u32) -> nix::Result<()> {
    let wait = TimeVal::milliseconds(i64::from(wait_ms));
    setsockopt(fd, sockopt::SendTimeout, &wait)?;
    setsockopt(fd, sockopt::ReceiveTimeout, &wait)
}

fn connect_to(fd: &OwnedFd, to: SocketAddr, kind: Socket) -> i32 {
    let to = match (to.ip(), kind) {
        (IpAddr::V4(ip), Socket::V6 | Socket::UdpV6) => {
            SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), to.port())
        }
        _ => to,
    };
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => 0,
        Err(errno) => errno as i32,
    }
}

fn dial(fd: &OwnedFd, handle: u64, to: SocketAddr, kind: Socket) -> anyhow::Result<Dialled> {
    let errno = connect_to(fd, to, kind);
    let mut dialled = Dialled { handle, errno, ..Dialled::default() };
    if errno == 0 {
        dialled.peer = getpeername(fd.as_raw_fd()).ok().as_ref().and_then(address);
        dialled.local = getsockname(fd.as_raw_fd()).ok().as_ref().and_then(address);
        if matches!(kind, Socket::V4 | Socket::V6) {
            let mut line = String::new();
            let stream = TcpStream::from(fd.try_clone()?);
            if BufReader::new(stream).read_line(&mut line).is_ok() {
                dialled.reached = line.trim_end().parse().ok();
            }
        }
    }
    Ok(dialled)
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
    }
    let v6 = storage.as_sockaddr_in6()?;
    let ip: Ipv6Addr = v6.ip();
    Some(SocketAddr::new(IpAddr::V6(ip), v6.port()))
}

fn options(fd: &OwnedFd) -> Result<SocketOptions, Errno> {
    use nix::sys::socket::getsockopt;
    Ok(SocketOptions {
        user_timeout_ms: getsockopt(fd, sockopt::TcpUserTimeout)?,
        keepalive: getsockopt(fd, sockopt::KeepAlive)?,
        keepalive_idle_s: getsockopt(fd, sockopt::TcpKeepIdle)?,
        keepalive_interval_s: getsockopt(fd, sockopt::TcpKeepInterval)?,
        keepalive_probes: getsockopt(fd, sockopt::TcpKeepCount)?,
    })
}
