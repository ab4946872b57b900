//! The agent under demonstration: its configuration file, its process, and what it says of itself.

use crate::world::World;
use anyhow::{Context, bail};
use balancer_agent::admin;
use notify::{RecursiveMode, Watcher};
use std::{
    ffi::OsString,
    fs::{self, File},
    net::{SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

/// Longest wait for the agent to come up or to answer.
const ANSWER_MS_MAX: u64 = 15_000;
/// Lines of its log that are shown when something went wrong.
const LOG_LINES: usize = 12;

/// The limit on backends in the configuration.
const BACKENDS_MAX: u32 = 64;
/// The name of the service in the configuration.
pub const SERVICE: &str = "echo";
/// The default.
const MOVE_PATIENCE: &str = "500ms";

/// Where everything of the agent is.
#[derive(Clone, Debug)]
pub struct AgentFiles {
    executable: PathBuf,
    config: PathBuf,
    log: PathBuf,
    runtime: PathBuf,
    flags: Vec<OsString>,
    /// What starts the agent, with its arguments; the agent's command follows. Empty for itself.
    pub through: Vec<OsString>,
    /// Attaches to pods' interfaces as on kernels before 6.6.
    pub clsact: bool,
    /// How long moves wait for a quiet moment, as the configuration says it.
    pub move_patience: &'static str,
    /// Where metrics are served, if they are.
    pub metrics: Option<SocketAddr>,
}

impl AgentFiles {
    /// Names the files in `world`. The agent's binary is looked for beside `executable`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn new(world: &World, executable: &Path) -> anyhow::Result<Self> {
        let agent = executable.with_file_name("balancer-agent");
        if !agent.exists() {
            bail!("no agent at {}; hint: `cargo xtask build` makes it", agent.display());
        }
        let runtime = world.runtime().join("run");
        fs::create_dir(&runtime).with_context(|| format!("create {}", runtime.display()))?;
        let mut flags = Vec::new();
        for (flag, path) in [
            ("--pin-root", world.pins().path()),
            ("--cgroup", world.cgroup()),
            ("--runtime-dir", &runtime),
        ] {
            flags.extend([flag.into(), path.into()]);
        }
        Ok(Self {
            executable: agent,
            config: world.runtime().join("balancer.yaml"),
            log: world.runtime().join("agent.log"),
            runtime,
            flags,
            through: Vec::new(),
            clsact: false,
            move_patience: MOVE_PATIENCE,
            metrics: None,
        })
    }

    /// Replaces the configuration file in one step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, vip: SocketAddrV4, backends: &[Member]) -> anyhow::Result<()> {
        self.write(&configuration(vip, backends, BACKENDS_MAX, self.move_patience))
    }

    /// The same with another limit on backends.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure_limited(
        &self,
        vip: SocketAddrV4,
        backends: &[Member],
        limit: u32,
    ) -> anyhow::Result<()> {
        self.write(&configuration(vip, backends, limit, self.move_patience))
    }

    /// The same without any service.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure_nothing(&self) -> anyhow::Result<()> {
        self.write(&format!("version: 1\nlimits: {{ services: 16, backends: {BACKENDS_MAX} }}\n"))
    }

    /// Writes a configuration by which Kubernetes says what to balance.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure_kubernetes(&self, node: &str, kubeconfig: &Path) -> anyhow::Result<()> {
        self.write(&configuration_for_kubernetes(node, kubeconfig))
    }

    fn write(&self, configuration: &str) -> anyhow::Result<()> {
        let http = self.metrics.map(|address| format!("http: {{ listen: \"{address}\" }}\n"));
        let configuration = configuration.to_owned() + &http.unwrap_or_default();
        let draft = self.config.with_extension("yaml.new");
        fs::write(&draft, configuration).context("write the configuration")?;
        fs::rename(&draft, &self.config).context("rename the configuration into place")
    }

    /// Starts the agent, and waits until it answers on its socket.
    ///
    /// # Errors
    /// When it ends instead, or takes too long.
    pub async fn start(&self) -> anyhow::Result<Agent> {
        let (event_sender, mut events) = mpsc::unbounded_channel();
        let mut watcher = notify::recommended_watcher(move |event| {
            // The receiver is gone when nobody waits any more.
            let _ = event_sender.send(event);
        })
        .context("watch the runtime directory")?;
        watcher
            .watch(&self.runtime, RecursiveMode::NonRecursive)
            .context("watch the runtime directory")?;
        let log = File::options().append(true).create(true).open(&self.log).context("open log")?;
        let mut words =
            self.through.iter().map(OsString::as_os_str).chain([self.executable.as_os_str()]);
        let program = words.next().unwrap_or(self.executable.as_os_str());
        let mut child = Command::new(program)
            .args(words)
            .args(&self.flags)
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .args(self.clsact.then_some("--clsact"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A group of its own, so that Ctrl-C in the terminal reaches the demo alone.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let socket = admin::socket_path(&self.runtime);
        let ready = async {
            // A killed agent leaves its socket behind, which refuses connections.
            while UnixStream::connect(&socket).await.is_err() {
                tokio::select! {
                    _ = events.recv() => {}
                    status = child.wait() => bail!("the agent ended with {}", status?),
                }
            }
            Ok(())
        };
        timeout(Duration::from_millis(ANSWER_MS_MAX), ready)
            .await
            .with_context(|| format!("the agent was not ready in {ANSWER_MS_MAX} ms"))??;
        Ok(Agent { child })
    }

    /// Runs one of the agent's commands; says whether it exited with 0, and all that it wrote.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub async fn ask(&self, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
        let command = Command::new(&self.executable)
            .args(&self.flags)
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(Duration::from_millis(ANSWER_MS_MAX), command)
            .await
            .with_context(|| format!("`balancer-agent {}` hangs", arguments.join(" ")))?
            .with_context(|| format!("run `balancer-agent {}`", arguments.join(" ")))?;
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        ))
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let first = lines.len().saturating_sub(LOG_LINES);
        lines[first..].iter().map(|line| (*line).to_owned()).collect()
    }
}

/// A running agent. It is killed when it is dropped.
pub struct Agent {
    child: Child,
}

impl Agent {
    /// Its process, while it has not been waited for.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills it, without any chance to tidy up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill the agent")
    }
}

/// A backend as it stands in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it takes no new connections.
    pub draining: bool,
}

fn configuration(vip: SocketAddrV4, backends: &[Member], limit: u32, patience: &str) -> String {
    let head = format!(
        "version: 1\nlimits:\n  services: 16\n  backends: {limit}\nservices:\n  - name: {SERVICE}\n    \
         policy: least-connection\n    move-patience: {patience}\n    frontends: [\"{vip}\"]\n    backends:"
    );
    let lines = backends.iter().map(|Member { address, draining }| {
        let state = if *draining { "draining" } else { "active" };
        format!("      - {{ address: \"{address}\", state: {state} }}")
    });
    let lines: Vec<String> = std::iter::once(head).chain(lines).collect();
    format!("{}\n", lines.join("\n"))
}

fn configuration_for_kubernetes(node: &str, kubeconfig: &Path) -> String {
    format!(
        "version: 1\nlimits:\n  services: 16\n  backends: 256\nkubernetes:\n  enabled: true\n  \
         node-name: {node}\n  kubeconfig: {}\n",
        kubeconfig.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_agent::config::Config;

    #[test]
    fn the_agent_understands_the_configuration() {
        let member = |text: &str, draining| Member { address: text.parse().unwrap(), draining };
        let members = [member("10.1.0.1:50051", false), member("10.1.0.2:50051", true)];
        let text = configuration("10.96.0.10:50051".parse().unwrap(), &members, 64, MOVE_PATIENCE);
        let config = Config::parse(&text, "balancer.yaml").unwrap();
        assert_eq!(config.services.len(), 1);
        assert_eq!(config.services[0].backends.len(), 2);
        let text = configuration_for_kubernetes("node-a", Path::new("/run/kubeconfig"));
        let config = Config::parse(&text, "balancer.yaml").unwrap();
        assert_eq!(config.kubernetes.node_name.as_deref(), Some("node-a"));
    }
}
