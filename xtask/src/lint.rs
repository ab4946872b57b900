//! `cargo xtask lint`: every check that needs no kernel, each run even if one before it failed.

use std::{
    env,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    build, process, toolchain,
    toolchain::{Choice, Selection},
    workspace,
};

/// The release of typos that is installed if there is none.
const TYPOS: &str = "typos==1.52.0";

/// What came of one check.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// A check by itself.
type Check = fn() -> Outcome;

/// One check and how long it took.
struct Line {
    name: &'static str,
    outcome: Outcome,
    elapsed: Duration,
}

/// Runs the command.
pub(crate) fn run() -> Result<()> {
    // The agent embeds the kernel object: nothing can be checked without it.
    build::object()?;
    let checks: [(_, Check); 7] = [
        ("format", format),
        ("clippy", clippy),
        ("clippy, kernel programs", clippy_kernel),
        ("house rules", house_rules),
        ("documentation", documentation),
        ("licences and bans", licences),
        ("spelling", spelling),
    ];
    let mut lines = Vec::new();
    for (name, check) in checks {
        process::say(format!("lint: {name}"));
        let started = Instant::now();
        let outcome = check();
        lines.push(Line { name, outcome, elapsed: started.elapsed() });
    }
    conclude(&lines)
}

fn conclude(lines: &[Line]) -> Result<()> {
    let (mut failed, mut skipped) = (0_usize, 0_usize);
    println!();
    for Line { name, outcome, elapsed } in lines {
        let verdict = match outcome {
            Outcome::Passed => "ok".to_owned(),
            Outcome::Failed(cause) => {
                failed += 1;
                format!("FAILED: {cause}")
            }
            Outcome::Skipped(reason) => {
                skipped += 1;
                format!("skipped: {reason}")
            }
        };
        println!("lint {name} ... {verdict} ({:.1} s)", elapsed.as_secs_f64());
    }
    println!(
        "lint result: {}. {} passed; {failed} failed; {skipped} skipped",
        if failed == 0 { "ok" } else { "FAILED" },
        lines.len() - failed - skipped,
    );
    anyhow::ensure!(failed == 0, "{failed} checks failed; their findings are above");
    Ok(())
}

fn outcome(command: &mut Command) -> Outcome {
    match process::run(command) {
        Ok(()) => Outcome::Passed,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn format() -> Outcome {
    outcome(workspace::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Outcome {
    outcome(
        workspace::cargo()
            .args(["clippy", "--workspace", "--exclude", "balancer-ebpf", "--all-targets"])
            .args(["--", "-D", "warnings"]),
    )
}

/// The kernel programs compile with a toolchain of their own, whose clippy may not be installed.
fn clippy_kernel() -> Outcome {
    let choice = match toolchain::find() {
        Ok(Selection::Ready(choice)) => choice,
        Ok(Selection::Missing(_)) => return Outcome::Failed("the eBPF toolchain is gone".into()),
        Err(error) => return Outcome::Failed(format!("{error:#}")),
    };
    let Some(driver) = toolchain::clippy_driver(&choice.rustc) else {
        return Outcome::Skipped(format!("no clippy-driver beside {}", choice.rustc.display()));
    };
    outcome(&mut clippy_kernel_command(&choice, driver))
}

fn clippy_kernel_command(choice: &Choice, driver: PathBuf) -> Command {
    let mut command = choice.cargo("check");
    command
        .args(["--package", "balancer-ebpf"])
        .env("RUSTC_WORKSPACE_WRAPPER", driver)
        // What `cargo clippy -- -D warnings` sets; it would look for the driver of its own toolchain.
        .env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
    command
}

fn house_rules() -> Outcome {
    outcome(workspace::cargo().args(["test", "--quiet", "--package", "xtask", "tidy"]))
}

fn documentation() -> Outcome {
    outcome(workspace::cargo().env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--no-deps"]))
}

fn licences() -> Outcome {
    let Some(deny) = tool("cargo-deny") else {
        return not_installed("cargo-deny", "cargo-deny");
    };
    // Without advisories, whose database has to be fetched: a lint must not depend on a network.
    outcome(
        Command::new(deny)
            .current_dir(workspace::root())
            .args(["check", "bans", "licenses", "sources"]),
    )
}

fn spelling() -> Outcome {
    let Some(typos) = tool("typos").or_else(install_typos) else {
        return not_installed("typos", "typos-cli");
    };
    outcome(Command::new(typos).current_dir(workspace::root()))
}

/// A release of typos from Python's package index: compiling it would take minutes.
fn install_typos() -> Option<PathBuf> {
    let directory = workspace::tools().join("python");
    let typos = directory.join("bin").join("typos");
    if process::is_executable(&typos) {
        return Some(typos);
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
    pip.arg(&directory).arg(TYPOS);
    match process::output(&mut pip) {
        Ok(_) => process::is_executable(&typos).then_some(typos),
        Err(error) => {
            process::say(format!("typos could not be installed: {error:#}"));
            None
        }
    }
}

fn not_installed(program: &str, package: &str) -> Outcome {
    Outcome::Skipped(format!("{program} is not installed (cargo install --locked {package})"))
}

fn tool(name: &str) -> Option<PathBuf> {
    let own = workspace::tools().join("bin").join(name);
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let beside_cargo = cargo_home.map(|home| home.join("bin").join(name));
    process::find_in_path(name).or_else(|| {
        [Some(own), beside_cargo].into_iter().flatten().find(|path| process::is_executable(path))
    })
}
