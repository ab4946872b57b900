//! `cargo xtask test`: everything, compiled as the user, run as root where eBPF is loaded.

mod outcome;

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::outcome::{Outcome, Summary};
use crate::{
    artifacts::{self, Executable},
    build, cluster, interop, privilege, process, system,
    system::Need,
    workspace,
};

/// What the tests and the demo call.
pub(crate) const NEEDS: [Need; 6] = [
    Need { program: "cc", package: "gcc" },
    Need { program: "ip", package: "iproute2" },
    Need { program: "nsenter", package: "util-linux" },
    Need { program: "mount", package: "mount" },
    Need { program: "sysctl", package: "procps" },
    Need { program: "nft", package: "nftables" },
];

/// Names the root file system of an image that is to be tested instead of the agent that is compiled here.
const IMAGE_ROOT: &str = "BALANCER_IMAGE_ROOT";

/// Run all tests, as root where the real kernel is under test.
///
/// Everything is compiled as the calling user. The tests of the package in tests/ load eBPF and
/// run as root (through sudo if need be); the others run as the calling user. A test that this
/// machine cannot run says so on a line that starts with SKIP; with CI=true a skip is a failure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only tests whose name contains one of these.
    filters: Vec<String>,
    /// Passed on to each test program, such as --nocapture.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    system::require(&NEEDS, "run the tests")?;
    build::object()?;
    // Builds the agent and the other programs as well, which the tests start.
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-run"]);
    let executables = artifacts::build(&mut cargo)?;
    let prepared = [cluster::prepare_tests(), interop::prepare_tests()];
    let mut summary = Summary::default();
    for executable in executables.iter().filter(|executable| executable.is_harness) {
        let outcome = run_one(executable, options, &prepared)
            .with_context(|| format!("run the tests of {}", label(executable)))?;
        summary.add(&label(executable), outcome);
    }
    summary.add("documentation examples", run_examples(options)?);
    println!("\n{}", summary.render(started.elapsed()));
    if summary.failed() {
        bail!("some tests failed; they are listed above");
    }
    Ok(())
}

fn label(executable: &Executable) -> String {
    format!("{}/{}", executable.package, executable.target)
}

/// Passed to every test program: nothing may be skipped in CI.
fn variables(
    executable: &Executable,
    prepared: &[(&'static str, String)],
) -> Vec<(&'static str, String)> {
    let directory = executable.directory.display().to_string();
    let mut variables = vec![workspace::agent_variable("debug"), ("CARGO_MANIFEST_DIR", directory)];
    variables.extend(prepared.iter().cloned());
    // What `cargo xtask image` has laid out, for the test of the agent in a container.
    variables.extend(std::env::var(IMAGE_ROOT).ok().map(|root| (IMAGE_ROOT, root)));
    if workspace::is_ci() {
        variables.push(("BALANCER_REQUIRE", "all".into()));
    }
    // sudo keeps no others.
    if let Ok(accepted) = std::env::var("UPDATE_GOLDEN") {
        variables.push(("UPDATE_GOLDEN", accepted));
    }
    variables
}

fn run_one(
    executable: &Executable,
    options: &Options,
    prepared: &[(&'static str, String)],
) -> Result<Outcome> {
    println!("\n=== {}", label(executable));
    let arguments: Vec<String> =
        options.filters.iter().chain(&options.arguments).cloned().collect();
    let variables = variables(executable, prepared);
    let mut command = if executable.package == workspace::TESTS_PACKAGE {
        privilege::as_root(&executable.path, &arguments, &variables, "load the kernel programs")?
    } else {
        let mut command = std::process::Command::new(&executable.path);
        command.args(&arguments).envs(variables);
        command
    };
    command.current_dir(&executable.directory);
    follow(&mut command)
}

fn run_examples(options: &Options) -> Result<Outcome> {
    println!("\n=== documentation examples");
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--quiet", "--doc", "--"]).args(&options.filters);
    follow(&mut cargo)
}

/// Runs a test program, shows what it prints as it comes, and reads the results from it.
fn follow(command: &mut std::process::Command) -> Result<Outcome> {
    let shown = process::shown(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start `{shown}`"))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let stderr = child.stderr.take().context("stderr is piped")?;
    let mut outcome = Outcome::default();
    let (sender, lines) = mpsc::sync_channel(1024);
    thread::scope(|scope| {
        let other = sender.clone();
        scope.spawn(move || forward(stdout, &sender));
        scope.spawn(move || forward(stderr, &other));
        for line in lines {
            outcome.read(&line);
            // A reader that has gone away must not stop the tests.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    });
    let status = child.wait().with_context(|| format!("wait for `{shown}`"))?;
    outcome.finish(status);
    Ok(outcome)
}

fn forward(stream: impl Read, lines: &mpsc::SyncSender<String>) {
    for line in BufReader::new(stream).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line).into_owned();
        if lines.send(line).is_err() {
            return;
        }
    }
}
