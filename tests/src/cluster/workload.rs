//! What runs in the containers of pods: processes of `balancer-pod`, in the pod's namespace and
//! cgroup.

use crate::grpc::server::EchoServer;
use anyhow::Context;
use nix::sched::{CloneFlags, setns};
use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};
use tokio::signal::unix::{SignalKind, signal};

/// The image of a container that is a gRPC echo server on its first port.
pub const ECHO_IMAGE: &str = "balancer.test/echo";
/// The image of a container in which the test starts processes by itself.
pub const IDLE_IMAGE: &str = "balancer.test/idle";
/// What a server says when it listens.
pub const LISTENING: &str = "listening";

/// Where a process shall be.
#[derive(Clone, Debug, clap::Args)]
pub struct Inside {
    /// The network namespace to enter.
    #[arg(long)]
    pub namespace: PathBuf,
    /// The cgroup to enter.
    #[arg(long)]
    pub cgroup: PathBuf,
}

impl Inside {
    /// Moves the calling process, which must not have other threads yet.
    ///
    /// # Errors
    /// Names what cannot be entered.
    pub fn enter(&self) -> anyhow::Result<()> {
        enter_cgroup(&self.cgroup)?;
        let namespace = File::open(&self.namespace)
            .with_context(|| format!("open {}", self.namespace.display()))?;
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter {}", self.namespace.display()))
    }

    /// The arguments that make this again.
    pub fn arguments(&self) -> [String; 4] {
        let text = |path: &Path| path.display().to_string();
        ["--namespace".into(), text(&self.namespace), "--cgroup".into(), text(&self.cgroup)]
    }
}

fn enter_cgroup(cgroup: &Path) -> anyhow::Result<()> {
    let members = cgroup.join("cgroup.procs");
    fs::write(&members, std::process::id().to_string())
        .with_context(|| format!("enter cgroup {}", cgroup.display()))
}

/// Serves until SIGTERM, then as gracefully as gRPC has it: no new connections, GOAWAY on the live
/// ones, and an end when their calls have ended.
///
/// # Errors
/// When the port is taken, or serving fails.
pub async fn serve(name: &str, port: u16) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let server = EchoServer::start(name, everywhere).await?;
    writeln!(std::io::stdout(), "{LISTENING}").context("say that it listens")?;
    std::thread::spawn(|| {
        // Nothing is written to it. When it ends the kubelet is gone, and nobody else would end us.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    terminated.recv().await;
    server.drain().await
}

/// Waits for the end of standard input, after it has said that it does.
///
/// # Errors
/// When nobody listens.
pub fn pause() -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{LISTENING}").context("say that it is there")?;
    // An error means that the kubelet is gone as well.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    Ok(())
}

/// The program of the pods lies beside the programs that use it, or one level up from tests.
///
/// # Errors
/// Says how to build it.
pub fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find the own binary")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("balancer-pod"))
        .find(|path| path.exists())
        .context("no `balancer-pod` beside this binary; hint: `cargo build -p balancer-tests`")
}
