//! `cargo xtask bench`: the benchmarks, compiled as the user and run as root.

mod docs;

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    artifacts::{self, Executable},
    build, privilege, process,
    system::{self, Need},
    test, workspace,
};

/// What `rpc` compares with.
const PROXY: Need = Need { program: "haproxy", package: "haproxy" };

/// Run the benchmarks, all or those named.
///
/// Each is compiled optimised as the calling user and run as root (through sudo if need be), one
/// after the other. Results are ratios within one run, with rounds and spread. Run them on a quiet
/// machine.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The benchmarks to run; all if none is named.
    names: Vec<String>,
    /// Rounds of each comparison; each benchmark has a number of its own.
    #[arg(long)]
    rounds: Option<usize>,
    /// How to print the figures.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Replaces the tables of the benchmarks that ran in docs/performance.md.
    #[arg(long)]
    write_docs: bool,
    /// Passed on to each benchmark.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// How figures are printed.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Output {
    /// A table for people.
    #[default]
    Table,
    /// One JSON document for each benchmark, a line each.
    Json,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    system::require(&test::NEEDS, "run the benchmarks")?;
    if options.names.is_empty() || options.names.iter().any(|name| name == "rpc") {
        system::require(&[PROXY], "compare with a proxy")?;
    }
    build::object()?;
    build::agent(true)?;
    let benches = select(artifacts::build(&mut cargo(&options.names))?, &options.names)?;
    // Made as the calling user, who can then remove what root writes there.
    let saved = workspace::target().join("bench");
    fs::create_dir_all(&saved).with_context(|| format!("create {}", saved.display()))?;
    let mut failed = Vec::new();
    for bench in &benches {
        process::say(format!("benchmark {}", bench.target));
        let saved = saved.join(format!("{}.json", bench.target));
        let mut arguments = vec!["--bench".to_owned()];
        arguments.extend(options.rounds.map(|rounds| format!("--rounds={rounds}")));
        arguments.push(match options.output {
            Output::Table => "--output=table".to_owned(),
            Output::Json => "--output=json".to_owned(),
        });
        arguments.push(format!("--save={}", saved.display()));
        arguments.extend(options.arguments.iter().cloned());
        let variables = [workspace::agent_variable("release")];
        let mut command =
            privilege::as_root(&bench.path, &arguments, &variables, "load the kernel programs")?;
        command.current_dir(workspace::root());
        let status =
            command.status().with_context(|| format!("start `{}`", process::shown(&command)))?;
        if !status.success() {
            failed.push(format!("{} ({status})", bench.target));
        } else if options.write_docs {
            docs::write(&workspace::root().join("docs/performance.md"), &saved)?;
        }
    }
    if !failed.is_empty() {
        bail!("{} of {} benchmarks failed: {}", failed.len(), benches.len(), failed.join(", "));
    }
    Ok(())
}

fn cargo(names: &[String]) -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["bench", "--no-run", "--package", workspace::TESTS_PACKAGE]);
    if names.is_empty() {
        cargo.arg("--benches");
    }
    for name in names {
        cargo.args(["--bench", name]);
    }
    cargo
}

fn select(executables: Vec<Executable>, names: &[String]) -> Result<Vec<Executable>> {
    // `--benches` also compiles the library and binaries of the package as harnesses.
    let is_bench = |executable: &Executable| {
        let source = executable.directory.join("benches");
        source.join(format!("{}.rs", executable.target)).exists()
            || source.join(&executable.target).join("main.rs").exists()
    };
    let benches: Vec<Executable> =
        executables.into_iter().filter(|one| one.is_harness && is_bench(one)).collect();
    if benches.is_empty() {
        bail!(
            "{} has no benchmark{}",
            workspace::TESTS_PACKAGE,
            if names.is_empty() { String::new() } else { format!(" called {}", names.join(", ")) }
        );
    }
    Ok(benches)
}
