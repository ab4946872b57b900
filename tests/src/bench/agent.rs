//! A running agent with a configuration of many services, and what it takes of the machine.

use crate::{agent::binary, world::World};
use anyhow::{Context, bail};
use balancer_agent::{
    admin::{self, Answer, Request, Status, client},
    datapath::{maps::Maps, sys},
};
use nix::{
    poll::ppoll,
    sys::{
        signal::{Signal, kill},
        time::{TimeSpec, TimeValLike},
    },
    unistd::Pid,
};
use std::{
    fmt::Write as _,
    fs::{self, File},
    os::fd::AsRawFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for anything of the agent.
const WAIT_S_MAX: u64 = 120;
/// How often the kernel's maps and the socket are looked at.
const LOOK_US: i64 = 200;
/// Backends of each service.
pub const BACKENDS: usize = 10;

/// A configuration of `services` services with [`BACKENDS`] backends each. In the last service, the
/// last backend's port tells `version`s apart.
pub fn configuration(services: usize, version: u16) -> String {
    let mut text = String::from("version: 1\nservices:\n");
    for service in 0..services {
        let (high, low) = (service / 250, service % 250 + 1);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "  - name: shop-{service}\n    frontends: [\"10.96.{high}.{low}:80\"]\n    backends:"
        );
        for backend in 0..BACKENDS {
            let is_last = service + 1 == services && backend + 1 == BACKENDS;
            let port = if is_last { 50_000 + version } else { 50_000 };
            let _ = writeln!(text, "      - \"10.{}.{high}.{low}:{port}\"", backend + 1);
        }
    }
    text
}

/// An agent. It is killed when this is dropped.
pub struct Agent {
    child: Child,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts the agent in `world`, and waits until it answers.
    ///
    /// # Errors
    /// When it ends instead; the end of its log is part of the error.
    pub fn start(world: &World, configuration: &str) -> anyhow::Result<Self> {
        let binary = binary()?;
        let runtime = world.runtime().join("run");
        fs::create_dir_all(&runtime).with_context(|| format!("create {}", runtime.display()))?;
        let config = world.runtime().join("balancer.yaml");
        let log = world.runtime().join("agent.log");
        fs::write(&config, configuration).context("write the configuration")?;
        let child = Command::new(&binary)
            .arg("--pin-root")
            .arg(world.pins().path())
            .arg("--cgroup")
            .arg(world.cgroup())
            .arg("--runtime-dir")
            .arg(&runtime)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).context("create the agent's log")?)
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        let mut agent = Self { child, config, socket: admin::socket_path(&runtime), log };
        let started = wait_for("the agent to answer", || {
            if let Some(status) = agent.child.try_wait()? {
                bail!("the agent ended with {status}");
            }
            Ok(std::os::unix::net::UnixStream::connect(&agent.socket).ok())
        });
        if let Err(error) = started {
            let log = fs::read_to_string(&agent.log).unwrap_or_default();
            return Err(error.context(log));
        }
        Ok(agent)
    }

    /// Replaces the configuration in one step; returns the moment just before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, configuration: &str) -> anyhow::Result<Instant> {
        let draft = self.config.with_extension("yaml.new");
        fs::write(&draft, configuration).context("write the configuration")?;
        let before = Instant::now();
        fs::rename(&draft, &self.config).context("rename the configuration into place")?;
        Ok(before)
    }

    /// The agent's own view.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> anyhow::Result<Status> {
        match client::ask(&self.socket, &Request::Status)? {
            Answer::Status(status) => Ok(*status),
            other => bail!("the agent answered {other:?}"),
        }
    }

    /// The CPU time that it has used so far, in seconds.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn cpu_s(&self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/task", self.child.id());
        let tasks = fs::read_dir(&path).with_context(|| format!("list {path}"))?;
        let mut nanos = 0_u64;
        for task in tasks.flatten() {
            // Nanoseconds on the CPU come first. A thread that has just ended counts nothing.
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let first = text.split_whitespace().next().and_then(|first| first.parse().ok());
            nanos += first.unwrap_or(0_u64);
        }
        Ok(Duration::from_nanos(nanos).as_secs_f64())
    }

    /// Its resident memory, in bytes.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Ok(field(&status, "VmRSS:").with_context(|| format!("no VmRSS in {path}"))? * 1024)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// The memory that the kernel charges for all pinned maps, in bytes.
///
/// # Errors
/// When one cannot be opened.
pub fn map_bytes(world: &World) -> anyhow::Result<u64> {
    let mut bytes = 0;
    let pins = world.pins();
    let layouts = pins.layouts().into_iter().map(|layout| pins.maps(&layout));
    // What follows HTTP/2 connections is apart from the others.
    for directory in layouts.chain([pins.http2_maps()]) {
        for pin in fs::read_dir(&directory)?.flatten() {
            let map = sys::open_pinned(&pin.path())
                .with_context(|| format!("open {}", pin.path().display()))?;
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
            bytes += field(&info, "memlock:").unwrap_or(0);
        }
    }
    Ok(bytes)
}

/// The id of a service by its name.
///
/// # Errors
/// When the kernel knows none.
pub fn service_id(maps: &Maps, name: &str) -> anyhow::Result<u32> {
    let ids = maps.service_names.iter().filter_map(Result::ok);
    let mut found = ids.filter(|(_, record)| record.0.to_string() == name);
    let (id, _) = found.next().with_context(|| format!("the kernel knows no service `{name}`"))?;
    Ok(id.0)
}

/// Looks again and again until there is something to return.
///
/// # Errors
/// What `look` fails with, and when it takes too long.
pub fn wait_for<T>(
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + Duration::from_secs(WAIT_S_MAX);
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("waited {WAIT_S_MAX} s for {what}");
        }
        // A map has no event to wait for; spinning would take the agent's CPU.
        let _ = ppoll(&mut [], Some(TimeSpec::microseconds(LOOK_US)), None);
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_agent::config::Config;

    #[test]
    fn versions_differ_in_one_backend() {
        let (first, second) = (configuration(300, 1), configuration(300, 2));
        let differing = first.lines().zip(second.lines()).filter(|(a, b)| a != b);
        assert_eq!(differing.count(), 1);
        let config = Config::parse(&first, "balancer.yaml").unwrap();
        assert_eq!(config.services.len(), 300);
        let backends = config.services.iter().map(|service| service.backends.len());
        assert!(backends.into_iter().all(|backends| backends == BACKENDS));
    }

    #[test]
    fn fields_are_found_by_their_name() {
        assert_eq!(field("VmHWM:\t 9 kB\nVmRSS:\t 12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(field("VmHWM: 9 kB\n", "VmRSS:"), None);
    }
}
