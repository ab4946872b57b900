//! The agent as its users run it: a process of its own, with a configuration file, signals, a log,
//! and the admin socket.

use crate::world::World;
use anyhow::{Context, bail, ensure};
use balancer_agent::admin::{Answer, Request, Status, client, socket_path};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use std::{
    ffi::OsString,
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Overrides where the agent's binary is.
pub const BINARY: &str = "BALANCER_AGENT_BIN";
/// Longest wait for the agent to start, to end, or to get where a test wants it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest wait for the next line of the log before the agent is asked anew.
const LOG_WAIT_MS: u16 = 100;

static LOGS: AtomicU32 = AtomicU32::new(0);

/// How an agent is to be started.
#[derive(Clone)]
pub struct Launch<'w> {
    world: &'w World,
    pin_root: PathBuf,
    runtime: PathBuf,
    cgroup: PathBuf,
    wrapper: Vec<OsString>,
}

/// A running agent. It is killed when this is dropped; while a test panics, its log is shown.
pub struct Agent<'w> {
    world: &'w World,
    child: Child,
    runtime: PathBuf,
    log: PathBuf,
}

/// How an agent ended that was expected to refuse to start.
#[derive(Debug)]
pub struct Refusal {
    /// Its exit code, if it was not killed.
    pub code: Option<i32>,
    /// What it wrote to its standard error.
    pub stderr: String,
}

// === impl Launch ===

impl<'w> Launch<'w> {
    /// With the world's own directories.
    pub fn new(world: &'w World) -> Self {
        Self {
            world,
            pin_root: world.pins().path().into(),
            runtime: world.runtime().into(),
            cgroup: world.cgroup().into(),
            wrapper: Vec::new(),
        }
    }

    /// With another pin directory.
    #[must_use]
    pub fn pin_root(mut self, path: impl Into<PathBuf>) -> Self {
        self.pin_root = path.into();
        self
    }

    /// With another runtime directory.
    #[must_use]
    pub fn runtime(mut self, path: impl Into<PathBuf>) -> Self {
        self.runtime = path.into();
        self
    }

    /// With another cgroup.
    #[must_use]
    pub fn cgroup(mut self, path: impl Into<PathBuf>) -> Self {
        self.cgroup = path.into();
        self
    }

    /// Through a program that starts what follows its own arguments.
    #[must_use]
    pub fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(OsString::from).collect();
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it ends instead, with all that it said.
    pub fn start(&self) -> anyhow::Result<Agent<'w>> {
        fs::create_dir_all(&self.runtime).context("create the runtime directory")?;
        let created = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        created.add_watch(&self.runtime, flags)?;
        let agent = self.spawn()?;
        let socket = socket_path(&self.runtime);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let output = agent.child.stdout.as_ref().context("the agent's output")?;
            let mut watched = [
                PollFd::new(created.as_fd(), PollFlags::POLLIN),
                PollFd::new(output.as_fd(), PollFlags::POLLIN),
            ];
            wait(&mut watched, timeout(deadline))?;
            let [events, ended] = watched.map(|it| it.any().unwrap_or(true));
            if events {
                let names = created.read_events()?;
                if names.iter().any(|event| event.name.as_deref() == socket.file_name()) {
                    return Ok(agent);
                }
            }
            if ended {
                break;
            }
        }
        bail!("the agent did not get ready: {}", agent.log())
    }

    /// Starts it and waits until it has ended.
    ///
    /// # Errors
    /// When it goes on running.
    pub fn refusal(&self) -> anyhow::Result<Refusal> {
        let mut agent = self.spawn()?;
        let code = agent.ended()?.code();
        let stderr = agent.log();
        Ok(Refusal { code, stderr })
    }

    fn spawn(&self) -> anyhow::Result<Agent<'w>> {
        let number = LOGS.fetch_add(1, Ordering::Relaxed);
        let log = self.world.runtime().join(format!("agent-{number}.log"));
        let stderr = File::create(&log).context("create the agent's log")?;
        let mut line = self.wrapper.clone();
        line.push(binary()?.into());
        let child = Command::new(&line[0])
            .args(&line[1..])
            .args(["run", "--log-filter", "info,balancer_agent=debug"])
            .arg("--config")
            .arg(config_path(self.world))
            .arg("--pin-root")
            .arg(&self.pin_root)
            .arg("--runtime-dir")
            .arg(&self.runtime)
            .arg("--cgroup")
            .arg(&self.cgroup)
            .stdin(Stdio::null())
            // Nothing is written to it; its end tells that the process has ended.
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("start {}", line[0].display()))?;
        Ok(Agent { world: self.world, child, runtime: self.runtime.clone(), log })
    }
}

// === impl Agent ===

impl<'w> Agent<'w> {
    /// Starts one with this configuration and the world's own directories.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub fn start(world: &'w World, config: &str) -> anyhow::Result<Self> {
        write_config(world, config)?;
        Launch::new(world).start()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.ended().map(drop)
    }

    /// Ends it by SIGTERM, which it obeys with exit code 0.
    ///
    /// # Errors
    /// When it does not end so.
    pub fn terminate(mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.ended()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).context("signal the agent")
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> anyhow::Result<Status> {
        match client::ask(&socket_path(&self.runtime), &Request::Status)? {
            Answer::Status(status) => Ok(*status),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// Has it read its configuration again, and waits until that is applied; tells whether it was
    /// new.
    ///
    /// # Errors
    /// When the configuration is refused.
    pub fn reload(&self) -> anyhow::Result<bool> {
        match client::ask(&socket_path(&self.runtime), &Request::Reload)? {
            Answer::Reloaded { changed } => Ok(changed),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// Writes a configuration in one step, and has it applied.
    ///
    /// # Errors
    /// When it is refused.
    pub fn configure(&self, config: &str) -> anyhow::Result<()> {
        write_config(self.world, config)?;
        self.reload().map(drop)
    }

    /// Waits until its status is as wanted. It is asked whenever it has logged something.
    ///
    /// # Errors
    /// When that takes too long, with the last status.
    pub fn until(&self, wanted: impl Fn(&Status) -> bool) -> anyhow::Result<Status> {
        let written = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        written.add_watch(&self.log, AddWatchFlags::IN_MODIFY)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status()?;
            if wanted(&status) {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "still not as wanted: {status:?}");
            let mut watched = [PollFd::new(written.as_fd(), PollFlags::POLLIN)];
            if wait(&mut watched, LOG_WAIT_MS)? > 0 {
                written.read_events()?;
            }
        }
    }

    /// Waits for its end.
    fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        let output = self.child.stdout.as_ref().context("the agent's output")?;
        let mut watched = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        while wait(&mut watched, timeout(deadline))? == 0 {
            ensure!(Instant::now() < deadline, "the agent goes on running: {}", self.log());
        }
        self.child.wait().context("wait for the agent")
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the log of the agent {}:\n{}", self.pid(), self.log());
        }
    }
}

/// As `poll(2)`, which a child that ends may interrupt (a runtime of this process asks for SIGCHLD):
/// nothing has happened then, and callers look again until their deadline.
fn wait(watched: &mut [PollFd<'_>], timeout: impl Into<PollTimeout>) -> nix::Result<i32> {
    match poll(watched, timeout.into()) {
        Err(Errno::EINTR) => Ok(0),
        result => result,
    }
}

fn timeout(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
}

/// Where the configuration of a world's agents is.
pub fn config_path(world: &World) -> PathBuf {
    world.runtime().join("config.yaml")
}

/// Replaces the configuration in one step.
///
/// # Errors
/// When it cannot be written.
pub fn write_config(world: &World, config: &str) -> anyhow::Result<()> {
    let draft = world.runtime().join("config.draft");
    fs::write(&draft, config).context("write the configuration")?;
    fs::rename(&draft, config_path(world)).context("put the configuration in place")
}

/// The agent's binary: named by the environment, or beside this one or one level up.
///
/// # Errors
/// Says how to build it.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY) {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("find the own binary")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory: &Path| directory.join("balancer-agent"))
        .find(|path| path.exists())
        .context(
            "no `balancer-agent` beside this binary; hint: `cargo build -p balancer-agent`, or \
             name one with BALANCER_AGENT_BIN",
        )
}
