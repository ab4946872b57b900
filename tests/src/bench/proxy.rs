//! A proxy to compare with: haproxy with HTTP/2 on both sides, as a sidecar or a node's proxy balances calls.

use crate::world::World;
use anyhow::{Context, bail};
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::park_timeout,
    time::{Duration, Instant},
};

/// Longest wait for it to listen.
const PATIENCE: Duration = Duration::from_secs(5);
/// The port that it listens on, on the server's address.
const PORT: u16 = 50_061;

/// A proxy that runs. It is killed when it is dropped.
pub struct Proxy {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Proxy {
    /// Starts one in front of a server, in the calling thread's network namespace, on the server's address.
    ///
    /// # Errors
    /// When there is no haproxy, or it does not listen.
    pub fn start(world: &World, server: SocketAddr) -> anyhow::Result<Self> {
        let address = SocketAddr::new(server.ip(), PORT);
        let file: PathBuf = world.runtime().join("haproxy.cfg");
        let configuration = format!(
            "global\n  maxconn 1000\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
             frontend calls\n  bind {address} proto h2\n  default_backend servers\n\
             backend servers\n  balance leastconn\n  server one {server} proto h2\n"
        );
        fs::write(&file, configuration).context("write the proxy's configuration")?;
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start haproxy; hint: `cargo xtask bench` installs it")?;
        let proxy = Self { child, address };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline {
                bail!("haproxy does not listen on {address}");
            }
            park_timeout(Duration::from_millis(10));
        }
        Ok(proxy)
    }

    /// Processor time that it has taken so far, in microseconds.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_us(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        // proc_pid_stat(5): utime and stime are fields 14 and 15; the name, field 2, ends with the last `)`.
        let (_, fields) = stat.rsplit_once(')').context("read the proxy's processor time")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|it| it.parse::<u64>().ok())
            .sum();
        // USER_HZ is 100 on every architecture that Linux has today.
        Ok(ticks * 10_000)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
