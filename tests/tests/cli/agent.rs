//! The agent's binary as a user runs it: the daemon, and commands with their exit codes.

use anyhow::{Context, bail};
use balancer_tests::{
    agent::{binary, config_path},
    world::World,
};
use serde_json::Value;
use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Output, Stdio},
};

/// What a command did.
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Standard output as JSON; nothing else may be on it.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}

impl TryFrom<Output> for Outcome {
    type Error = anyhow::Error;

    fn try_from(output: Output) -> anyhow::Result<Self> {
        Ok(Self {
            code: output.status.code().context("it was killed")?,
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }
}

/// Runs a command to its end.
pub(crate) fn run(world: &World, line: &str) -> Outcome {
    let output = command(world, line).output().unwrap();
    let outcome = Outcome::try_from(output).unwrap();
    println!(
        "$ balancer-agent {line}\n{}{}exit {}\n",
        outcome.stdout, outcome.stderr, outcome.code
    );
    outcome
}

/// A command in this world; blanks part its arguments.
pub(crate) fn command(world: &World, line: &str) -> Command {
    let mut command = Command::new(binary().unwrap());
    command.args(line.split_whitespace());
    for (flag, value) in [
        ("--pin-root", world.pins().path()),
        ("--runtime-dir", world.runtime()),
        ("--cgroup", world.cgroup()),
    ] {
        command.arg(flag).arg(value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A running daemon; killed when this is dropped.
pub(crate) struct Agent(Child);

impl Agent {
    /// Starts it with a configuration, and waits until it says that it is ready.
    pub(crate) fn start(world: &World, config: &str) -> anyhow::Result<Self> {
        fs::write(config_path(world), config).context("write the configuration")?;
        let mut run = OsString::from("run --config ");
        run.push(config_path(world));
        let line = run.to_str().context("the runtime directory's name")?;
        let mut agent = Self(command(world, line).stdout(Stdio::null()).spawn()?);
        let log = agent.0.stderr.take().context("the agent's log")?;
        let mut log = BufReader::new(log);
        let mut said = String::new();
        while !said.ends_with("ready self_test=true\n") {
            if log.read_line(&mut said)? == 0 {
                bail!("the agent ended: {said}");
            }
        }
        // Whatever else it says must not fill the pipe.
        std::thread::Builder::new().spawn(move || log.read_to_string(&mut String::new()))?;
        Ok(agent)
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}
