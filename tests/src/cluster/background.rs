//! A cluster for people: in the foreground until Ctrl-C, or in the background until it is stopped.

use super::{control_plane::ControlPlane, version::Version};
use anyhow::{Context, bail, ensure};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// Longest wait for a cluster in the background to end.
const STOP_S_MAX: u64 = 30;

/// Where the cluster in the background writes: one per user.
pub struct Place {
    directory: PathBuf,
}

/// What is there.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// A cluster runs, or is about to.
    Running {
        /// The process that runs it.
        pid: i32,
        /// Its kubeconfig, once it is ready.
        kubeconfig: Option<PathBuf>,
    },
    /// One has been killed, and its files are left.
    Dead,
    /// Nothing.
    Absent,
}

impl Place {
    /// The calling user's place.
    pub fn of_user() -> Self {
        Self::new(std::env::temp_dir().join(format!("balancer-cluster-{}", Uid::effective())))
    }

    /// A place at this directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// What is there. A cluster holds a lock on the file with its process id while it lives, so
    /// that a process that got the same id later is not taken for it.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn state(&self) -> anyhow::Result<State> {
        let file = match File::open(self.pid_file()) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(if self.directory.exists() { State::Dead } else { State::Absent });
            }
            Err(error) => return Err(error).context("open the file of the process id"),
        };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(State::Dead),
            Err((_, Errno::EWOULDBLOCK)) => {
                let text = fs::read_to_string(self.pid_file()).context("read the process id")?;
                let pid = text.trim().parse().with_context(|| format!("`{text}` is no id"))?;
                let kubeconfig = Some(self.directory.join("control-plane/kubeconfig"));
                let ready = self.directory.join("ready").exists();
                Ok(State::Running { pid, kubeconfig: kubeconfig.filter(|_| ready) })
            }
            Err((_, error)) => Err(error).context("ask for the lock of the process id"),
        }
    }

    /// Starts a cluster in the background by `program`, which calls [`Self::run`], and returns its
    /// kubeconfig.
    ///
    /// # Errors
    /// When one runs already, or this one does not get ready, with what it said.
    pub fn start(&self, program: &Path, version: Version) -> anyhow::Result<PathBuf> {
        if let State::Running { pid, .. } = self.state()? {
            bail!("a cluster runs already (process {pid}); hint: cargo xtask cluster stop");
        }
        self.remove()?;
        let log = self.directory.with_extension("log");
        let errors = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut child = Command::new(program)
            .arg("run")
            .arg(format!("--kubernetes={version}"))
            .arg("--directory")
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            // Ctrl-C in this terminal is not meant for it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let output = child.stdout.take().context("the cluster's output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("read the path of the kubeconfig")?;
        let said = fs::read_to_string(&log).unwrap_or_default();
        fs::remove_file(&log).with_context(|| format!("remove {}", log.display()))?;
        if line.is_empty() {
            let status = child.wait().context("wait for the cluster")?;
            bail!("the cluster did not start ({status}): {}", said.trim());
        }
        Ok(line.trim().into())
    }

    /// Runs a cluster until the process is told to end, and prints the path of its kubeconfig.
    ///
    /// # Errors
    /// When there is one already, or a server ends.
    pub async fn run(&self, version: Version) -> anyhow::Result<()> {
        let mut ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(signal)
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .context("wait for signals")?;
        let created = fs::DirBuilder::new().mode(0o700).create(&self.directory);
        created.with_context(|| {
            let path = self.directory.display();
            format!("create {path}; hint: `cargo xtask cluster status` says what is there")
        })?;
        let result = self.run_inside(version, &mut ends).await;
        self.remove()?;
        result
    }

    async fn run_inside(
        &self,
        version: Version,
        ends: &mut [tokio::signal::unix::Signal],
    ) -> anyhow::Result<()> {
        let file = File::create(self.pid_file()).context("create the file of the process id")?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let mut file = locked.map_err(|(_, error)| error).context("lock the process id")?;
        writeln!(file, "{}", std::process::id()).context("write the process id")?;
        let asked = futures_util::future::select_all(ends.iter_mut().map(|it| Box::pin(it.recv())));
        tokio::pin!(asked);
        let directory = self.directory.join("control-plane");
        let control_plane = tokio::select! {
            started = ControlPlane::start(version, &directory) => started?,
            _ = &mut asked => return Ok(()),
        };
        fs::write(self.directory.join("ready"), "").context("say that it is ready")?;
        let said = writeln!(std::io::stdout(), "{}", control_plane.kubeconfig().display());
        said.context("print the path of the kubeconfig")?;
        asked.await;
        Ok(())
    }

    /// Ends the cluster in the background, if there is one, and removes what it wrote.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self) -> anyhow::Result<State> {
        let state = self.state()?;
        if let State::Running { pid, .. } = state {
            match kill(Pid::from_raw(pid), Signal::SIGTERM) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("end process {pid}")),
            }
            self.ended().with_context(|| format!("wait for process {pid}"))?;
        }
        self.remove()?;
        Ok(state)
    }

    /// Waits for the lock, which the kernel lets go of when the cluster's process ends.
    fn ended(&self) -> anyhow::Result<()> {
        let Ok(file) = File::open(self.pid_file()) else { return Ok(()) };
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let locked = Flock::lock(file, FlockArg::LockShared);
            // The receiver is gone after the time limit, and nobody wants to know.
            let _ = sender.send(locked.map(drop).map_err(|(_, error)| error));
        });
        let waited = receiver.recv_timeout(Duration::from_secs(STOP_S_MAX));
        ensure!(waited.is_ok(), "it goes on after {STOP_S_MAX} s");
        waited?.context("wait for its lock")
    }

    fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.directory.display()))
            }
            _ => Ok(()),
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.join("pid")
    }
}
