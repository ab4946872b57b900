//! One boot in QEMU's emulator: bounded in time, ended by its own process handle.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// What to boot.
#[derive(Debug)]
pub(super) struct Guest<'run> {
    /// The kernel.
    pub(super) image: &'run Path,
    /// Its file system.
    pub(super) initramfs: &'run Path,
    /// Where the console goes.
    pub(super) log: PathBuf,
    /// How long it may take.
    pub(super) time_limit: Duration,
}

/// What the console showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Console {
    /// Whether init was reached.
    pub(super) booted: bool,
    /// The program's result, or why its line could not be read.
    pub(super) result: Option<Result<Smoke, String>>,
    /// The program's exit code.
    pub(super) exit_code: Option<i32>,
    /// Whether the time limit ended it.
    pub(super) timed_out: bool,
    /// How long it took.
    pub(super) elapsed: Duration,
}

/// The line `RESULT {…}` of the program in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Smoke {
    /// Every program passed the verifier.
    pub(super) loads: bool,
    /// Every program was attached.
    pub(super) attaches: bool,
    /// Connections were spread as they should be.
    pub(super) balanced: bool,
    /// A followed connection moved, with real packets; nothing where none can be followed.
    #[serde(default)]
    pub(super) moved: Option<bool>,
    /// What this kernel lacks, and so works in a lesser way.
    #[serde(default)]
    pub(super) degraded: Vec<String>,
    /// The compiler of the kernel programs.
    #[serde(default)]
    pub(super) toolchain: String,
    /// Instructions that the verifier went through, by program.
    #[serde(default)]
    pub(super) verified: BTreeMap<String, u32>,
    /// What went wrong.
    #[serde(default)]
    pub(super) error: Option<String>,
}

impl Guest<'_> {
    /// Boots, reads the console until the guest is off or the time is up.
    pub(super) fn run(&self) -> Result<Console> {
        let mut log = fs::File::create(&self.log)
            .with_context(|| format!("create {}", self.log.display()))?;
        let started = Instant::now();
        let mut child = self.command().spawn().context("start qemu-system-x86_64")?;
        let stdout = child.stdout.take().context("the console is piped")?;
        let console = self.follow(stdout, &mut log, started);
        // Only needed if the time is up; otherwise QEMU has closed its console and is ending.
        end(&mut child, console.as_ref().is_ok_and(|console| !console.timed_out))?;
        console
    }

    fn command(&self) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-M", "q35,usb=off", "-accel", "tcg,tb-size=256", "-cpu", "max"])
            .args(["-m", "1024", "-smp", "1", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-append", "console=ttyS0 panic=-1 quiet"])
            .arg("-kernel")
            .arg(self.image)
            .arg("-initrd")
            .arg(self.initramfs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        command
    }

    fn follow(&self, stdout: ChildStdout, log: &mut fs::File, started: Instant) -> Result<Console> {
        let (sender, lines) = mpsc::channel();
        // Ends when QEMU closes its console, which `end` sees to.
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut console = Console::default();
        let deadline = started + self.time_limit;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let line = String::from_utf8_lossy(&line);
                    writeln!(log, "{}", line.trim_end()).context("write the console's log")?;
                    console.read(line.trim_end());
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    console.timed_out = true;
                    break;
                }
            }
        }
        console.elapsed = started.elapsed();
        Ok(console)
    }
}

fn end(child: &mut Child, is_ending: bool) -> Result<()> {
    if !is_ending {
        child.kill().context("end QEMU")?;
    }
    child.wait().context("wait for QEMU")?;
    Ok(())
}

impl Console {
    fn read(&mut self, line: &str) {
        // A message of the kernel or firmware may stand before it on the same line.
        if line.contains("BOOTED ") {
            self.booted = true;
        } else if let Some((_, json)) = line.split_once("RESULT ") {
            let parsed = serde_json::from_str(json);
            self.result = Some(parsed.map_err(|error| format!("read `{json}`: {error}")));
        } else if let Some(code) = line.strip_prefix("EXIT ") {
            self.exit_code = code.trim().parse().ok();
        }
    }
}

/// The last lines of a console, for the report of a failure.
pub(super) fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(count)..];
    shown.iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Console {
        let mut console = Console::default();
        text.lines().for_each(|line| console.read(line));
        console
    }

    #[test]
    fn the_console_is_read() {
        let console = read(
            "SeaBIOS\nBOOTED 6.1.0\n[    2.1] noise RESULT {\"loads\":true,\"attaches\":true,\
             \"balanced\":false,\"degraded\":[\"tcx\"]}\nEXIT 1",
        );
        assert!(console.booted);
        assert_eq!(console.exit_code, Some(1));
        let smoke = console.result.expect("a result").expect("valid");
        assert!(smoke.loads && smoke.attaches && !smoke.balanced);
        assert_eq!(smoke.degraded, ["tcx"]);
    }

    #[test]
    fn a_result_that_cannot_be_read_says_why() {
        let error = read("RESULT {\"loads\":1}").result.expect("a result").expect_err("not valid");
        assert!(error.contains("loads"), "{error}");
        assert_eq!(read("Kernel panic").result, None);
    }
}
