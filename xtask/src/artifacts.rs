//! The executables that cargo built, read from its own messages: no guessing of file names.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::process;

/// One executable of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Executable {
    /// The package it belongs to.
    pub(crate) package: String,
    /// The target's name.
    pub(crate) target: String,
    /// The file.
    pub(crate) path: PathBuf,
    /// The package's directory, in which cargo would run it.
    pub(crate) directory: PathBuf,
    /// Whether it was compiled as a test or benchmark harness.
    pub(crate) is_harness: bool,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    package_id: Option<String>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Runs a cargo command that only compiles, and returns the executables it made.
pub(crate) fn build(command: &mut Command) -> Result<Vec<Executable>> {
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child =
        command.spawn().with_context(|| format!("start `{}`", process::shown(command)))?;
    let stdout = child.stdout.take().context("cargo's stdout is piped")?;
    let mut executables = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read cargo's messages")?;
        executables.extend(parse(&line)?);
    }
    let status = child.wait().context("wait for cargo")?;
    if !status.success() {
        bail!("`{}` failed: {status}", process::shown(command));
    }
    Ok(executables)
}

fn parse(line: &str) -> Result<Option<Executable>> {
    // Build scripts and procedural macros may print lines of their own.
    if !line.starts_with('{') {
        return Ok(None);
    }
    let message: Message = serde_json::from_str(line).context("read a message of cargo")?;
    let Message { reason, package_id, manifest_path, target, profile, executable } = message;
    let (Some(path), Some(manifest), Some(target)) = (executable, manifest_path, target) else {
        return Ok(None);
    };
    if reason != "compiler-artifact" {
        return Ok(None);
    }
    let directory = manifest.parent().map(PathBuf::from).unwrap_or_default();
    Ok(Some(Executable {
        package: package_name(&package_id.unwrap_or_default()),
        target: target.name,
        path,
        directory,
        is_harness: profile.is_some_and(|profile| profile.test),
    }))
}

/// The name in `path+file:///repo/tests#balancer-tests@0.1.0` or `path+file:///repo/xtask#0.1.0`.
fn package_name(id: &str) -> String {
    let (path, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => path.rsplit('/').next().unwrap_or(path).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_read_and_other_messages_passed_over() {
        let line = r#"{"reason":"compiler-artifact","package_id":"path+file:///repo/tests#balancer-tests@0.1.0",
            "manifest_path":"/repo/tests/Cargo.toml","target":{"name":"connect","kind":["test"]},
            "profile":{"opt_level":"0","test":true},"executable":"/target/connect-1"}"#;
        let executable = parse(&line.replace('\n', "")).expect("valid").expect("an executable");
        assert_eq!(executable.package, "balancer-tests");
        assert_eq!(executable.directory, PathBuf::from("/repo/tests"));
        assert!(executable.is_harness);

        let library = r#"{"reason":"compiler-artifact","package_id":"x#1","manifest_path":"/x/Cargo.toml","target":{"name":"x"},"profile":{"test":false},"executable":null}"#;
        assert_eq!(parse(library).expect("valid"), None);
        assert_eq!(parse(r#"{"reason":"build-finished","success":true}"#).expect("valid"), None);
        assert_eq!(parse("warning: hello").expect("no message"), None);
        assert!(parse("{").is_err());
    }

    #[test]
    fn package_names_are_read_from_both_forms_of_an_id() {
        assert_eq!(package_name("path+file:///repo/tests#balancer-tests@0.1.0"), "balancer-tests");
        assert_eq!(package_name("path+file:///repo/xtask#0.1.0"), "xtask");
    }
}
