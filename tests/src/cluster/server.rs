//! One server process of a control plane: started with a log, ended by its own process id.

use anyhow::{Context, bail};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// How much of a log an error shows.
const LOG_LINES: usize = 15;

/// A running server. It is killed when this is dropped, and by the kernel when the thread that
/// started it ends without that.
pub struct Server {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Server {
    /// Starts `program` in `directory`; what it says is appended to a log there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, arguments: &[String], directory: &Path) -> anyhow::Result<Self> {
        let name = program.file_name().context("a program has a name")?;
        let name = name.to_string_lossy().into_owned();
        let log = directory.join(format!("{name}.log"));
        let output = File::options().append(true).create(true).open(&log);
        let output = output.with_context(|| format!("open {}", log.display()))?;
        // setpriv becomes the server. PR_SET_PDEATHSIG is the only thing that ends the server when
        // a test is killed: etcd and the API server would go on for ever.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {} through setpriv", program.display()))?;
        Ok(Self { name, log, child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended, with the last that it said.
    ///
    /// # Errors
    /// As said.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().with_context(|| format!("look after {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.last_words()),
        }
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("wait for {}", self.name)).map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
