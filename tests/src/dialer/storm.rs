//! Many connects at once, each with the moments around it, so that a test can tell what was allowed.

use super::protocol::{Connect, Outcome, Storm, Stormed};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, recv, setsockopt,
        socket, sockopt,
    },
    time::{ClockId, clock_gettime},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

/// Longest line of a server.
const LINE_BYTES_MAX: usize = 64;

/// `CLOCK_MONOTONIC`, which tests and kernel programs share.
pub fn now_ns() -> u64 {
    // The clock is always there and never negative.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
    })
}

/// Carries a storm out.
///
/// # Errors
/// When a socket cannot be made or a thread dies.
pub fn run(storm: &Storm) -> anyhow::Result<Stormed> {
    let mut stormed = Stormed::default();
    let mut indices = BTreeMap::new();
    let parts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..storm.threads).map(|thread| scope.spawn(move || connects(storm, thread))).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    for part in parts {
        let part = part.map_err(|_| anyhow::anyhow!("a thread of the storm panicked"))??;
        for (started_ns, ended_ns, reached) in part {
            let outcome = match reached {
                Ok(server) => {
                    let next = u32::try_from(indices.len())?;
                    let index = *indices.entry(server).or_insert(next);
                    if index == next {
                        stormed.servers.push(server);
                    }
                    Outcome::Server(index)
                }
                Err(errno) => Outcome::Failed(errno as i32),
            };
            stormed.connects.push(Connect { started_ns, ended_ns, outcome });
        }
    }
    Ok(stormed)
}

type Reached = (u64, u64, Result<SocketAddr, Errno>);

fn connects(storm: &Storm, thread: u32) -> nix::Result<Vec<Reached>> {
    let mut reached = Vec::with_capacity(storm.connects as usize);
    let targets = storm.to.iter().cycle().skip(thread as usize);
    for to in targets.take(storm.connects as usize) {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // Closing resets: no connection of thousands may wait for its old segments.
        setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
        let started_ns = now_ns();
        let connected = connect(fd.as_raw_fd(), &SockaddrStorage::from(*to));
        let ended_ns = now_ns();
        reached.push((started_ns, ended_ns, connected.and_then(|()| read_line(&fd))));
    }
    Ok(reached)
}

fn read_line(fd: &OwnedFd) -> Result<SocketAddr, Errno> {
    let mut line = [0; LINE_BYTES_MAX];
    let mut filled = 0;
    while filled < line.len() && !line[..filled].contains(&b'\n') {
        match recv(fd.as_raw_fd(), &mut line[filled..], MsgFlags::empty())? {
            0 => break,
            read => filled += read,
        }
    }
    let text = std::str::from_utf8(&line[..filled]).map_err(|_| Errno::EPROTO)?;
    text.trim_end().parse().map_err(|_| Errno::EPROTO)
}
