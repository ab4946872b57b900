//! `cargo xtask fuzz`: the fuzz targets for as long as one likes, guided by coverage. A stable compiler is enough.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{artifacts, build, process, system, system::Need, workspace};

/// libFuzzer is C++, compiled from the sources in the crate libfuzzer-sys.
const NEEDS: [Need; 1] = [Need { program: "c++", package: "g++" }];
const PACKAGE: &str = "balancer-fuzz";

/// What libFuzzer is told by: an LLVM pass that counts how often each edge is taken, and which values are compared.
/// `-Zsanitizer` is not among them, so that no nightly compiler is needed: our code has hardly any `unsafe`, and
/// panics and overflows show by themselves.
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Run fuzz targets for long, guided by coverage.
///
/// Each target takes any bytes and states a property; `cargo xtask test` runs all of them for a moment. Inputs
/// that reach something new are kept in target/fuzz, and the next run goes on from there. One that fails is
/// kept there too: put it into tests/fuzz/corpus, so that every test run tries it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The target; all of them, one after the other, unless one is named.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Where random numbers begin; another place each time unless one is named.
    #[arg(long)]
    seed: Option<u32>,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    system::require(&NEEDS, "compile libFuzzer")?;
    let corpus = workspace::root().join("tests/fuzz/corpus");
    let names = targets(&corpus)?;
    let chosen: Vec<&String> = match &options.target {
        Some(name) => names.iter().filter(|known| *known == name).collect(),
        None => names.iter().collect(),
    };
    if chosen.is_empty() {
        let wanted = options.target.as_deref().unwrap_or_default();
        bail!("no fuzz target `{wanted}`\nhint: choose one of {}", names.join(", "));
    }
    build::object()?;
    let directory = workspace::target().join("fuzz");
    let program = compile(&directory)?;
    let mut failed = Vec::new();
    for target in chosen {
        process::say(format!("fuzz {target}: {} s", options.seconds));
        let status =
            fuzz(&program, &directory.join(target), &corpus.join(target), target, options)?;
        if !status {
            failed.push(target.as_str());
        }
    }
    if !failed.is_empty() {
        bail!(
            "inputs that fail were found: {}; they are in {}",
            failed.join(", "),
            directory.display()
        );
    }
    Ok(())
}

/// Each target has a corpus, as a test of the package asserts.
fn targets(corpus: &Path) -> Result<Vec<String>> {
    let entries = corpus.read_dir().with_context(|| format!("read {}", corpus.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", corpus.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Compiles libFuzzer and the targets; only our own crates are made to tell where they are.
fn compile(directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let wrapper = directory.join("rustc.sh");
    fs::write(&wrapper, wrapper_text())
        .and_then(|()| fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", wrapper.display()))?;
    let mut cargo = workspace::cargo();
    cargo.env("RUSTC_WORKSPACE_WRAPPER", &wrapper).args([
        "build",
        "--package",
        PACKAGE,
        "--features",
        "libfuzzer",
        "--bin",
        PACKAGE,
    ]);
    let executables = artifacts::build(&mut cargo)?;
    let program = executables.into_iter().find(|executable| executable.target == PACKAGE);
    Ok(program.with_context(|| format!("cargo built no executable called {PACKAGE}"))?.path)
}

/// Build scripts run at once, without libFuzzer.
fn wrapper_text() -> String {
    let flags = FLAGS.join(" ");
    format!(
        "#!/bin/sh\ncase \" $* \" in *\" --crate-name build_script_\"*) exec \"$@\" ;; esac\n\
         exec \"$@\" {flags}\n"
    )
}

/// Whether no input made the target fail.
fn fuzz(
    program: &Path,
    found: &Path,
    corpus: &Path,
    target: &str,
    options: &Options,
) -> Result<bool> {
    let inputs = found.join("inputs");
    fs::create_dir_all(&inputs).with_context(|| format!("create {}", inputs.display()))?;
    let mut command = Command::new(program);
    command
        .env("BALANCER_FUZZ_TARGET", target)
        .arg(&inputs)
        .arg(corpus)
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args(["-timeout=10", "-print_final_stats=1", "-max_len=4096"]);
    // libFuzzer takes a seed of zero for none, and prints the one that it takes.
    command.args(options.seed.map(|seed| format!("-seed={seed}")));
    let status = command.status().with_context(|| format!("run {}", program.display()))?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_scripts_are_compiled_as_ever() {
        let text = wrapper_text();
        assert!(text.starts_with("#!/bin/sh\n") && text.contains("-Cpasses=sancov-module"));
        let directory = tempfile::tempdir().expect("a directory");
        let wrapper = directory.path().join("rustc.sh");
        fs::write(&wrapper, text).expect("writable");
        let printed = |name: &str| {
            let mut command = Command::new("sh");
            command.arg(&wrapper).args(["echo", "--crate-name", name]);
            process::output(&mut command).expect("it runs")
        };
        assert_eq!(printed("build_script_build").trim(), "--crate-name build_script_build");
        assert!(printed("balancer_agent").contains("sancov-module"));
    }

    #[test]
    fn every_corpus_is_a_target() {
        let names = targets(&workspace::root().join("tests/fuzz/corpus")).expect("readable");
        assert!(names.iter().any(|name| name == "http2-grid"), "{names:?}");
    }
}
