//! A network namespace without uplink, a cgroup with pods below it, and a pin directory.
//!
//! The namespace belongs to the thread that made the world: sockets, threads and processes that
//! this thread starts from then on are inside it. It vanishes with the last of them.

use anyhow::{Context, bail};
use balancer_agent::datapath::{bpffs::PinRoot, cgroup};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Longest wait for the kernel to let go of what a world held.
const RELEASE_MS_MAX: u64 = 5_000;

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// A place of its own for one test, demo or benchmark.
pub struct World {
    name: String,
    cgroup: PathBuf,
    pins: PinRoot,
    runtime: PathBuf,
}

impl World {
    /// Moves the calling thread into a new network namespace whose only interface is `lo`, and
    /// makes a cgroup for clients.
    ///
    /// # Errors
    /// Names the step that failed; needs root.
    pub fn new(purpose: &str) -> anyhow::Result<Self> {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let name = format!("balancer-{purpose}-{}-{number}", std::process::id());
        unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace")?;
        run("ip", &["link", "set", "lo", "up"])?;
        let cgroup = cgroup::root()?.join(&name);
        fs::create_dir(&cgroup).with_context(|| format!("create cgroup {}", cgroup.display()))?;
        let runtime = std::env::temp_dir().join(&name);
        let pins = PinRoot::new(Path::new("/sys/fs/bpf").join(&name));
        let world = Self { name, cgroup, pins, runtime };
        fs::create_dir(&world.runtime).context("create the runtime directory")?;
        Ok(world)
    }

    /// The world's name, unique on this machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cgroup that programs are attached to.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Where programs and maps are pinned.
    pub fn pins(&self) -> &PinRoot {
        &self.pins
    }

    /// A directory for sockets and configuration files.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// Makes a cgroup for one client pod below [`Self::cgroup`].
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn pod(&self, name: &str) -> anyhow::Result<PathBuf> {
        let pod = self.cgroup.join(name);
        fs::create_dir_all(&pod).with_context(|| format!("create cgroup {}", pod.display()))?;
        Ok(pod)
    }

    /// Gives the namespace an address. All of 127.0.0.0/8 and `::1` are there already.
    ///
    /// # Errors
    /// When `ip` refuses it.
    pub fn add_address(&self, address: IpAddr) -> anyhow::Result<()> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let address = format!("{address}/{prefix}");
        let mut arguments = vec!["address", "add", &address, "dev", "lo"];
        if prefix == 128 {
            // Without duplicate address detection, which would delay the first use.
            arguments.push("nodad");
        }
        run("ip", &arguments)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.pins.remove() {
            eprintln!("{}: {error}", self.name);
        }
        // What a test has put there, which an agent would leave alone.
        let _ = fs::remove_dir_all(self.pins.path());
        if let Err(error) = remove_cgroup(&self.cgroup) {
            eprintln!("{}: {error:#}", self.name);
        }
        let _ = fs::remove_dir_all(&self.runtime);
    }
}

/// Runs a command to its end, quietly.
///
/// # Errors
/// Names the command, and what it wrote to its standard error.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run `{program}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}`: {}", arguments.join(" "), stderr.trim());
    }
    Ok(())
}

/// Ends every process in a cgroup and below, then removes it.
fn remove_cgroup(cgroup: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_millis(RELEASE_MS_MAX);
    for entry in fs::read_dir(cgroup).context("list the cgroup")?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    loop {
        let processes = fs::read_to_string(cgroup.join("cgroup.procs"))?;
        for pid in processes.lines().filter_map(|line| line.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        match fs::remove_dir(cgroup) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("remove {}", cgroup.display()));
            }
            // A killed process leaves its cgroup when its parent or init has reaped it.
            Err(_) => std::thread::yield_now(),
        }
    }
}
