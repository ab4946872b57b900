//! Root where eBPF is loaded, and only there: directly, or through sudo.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::process;

/// Variables of the caller that a program under sudo needs even where `sudo -E` drops them.
const KEPT: [&str; 5] = ["PATH", "HOME", "CI", "RUST_BACKTRACE", "RUST_LOG"];

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// A command that runs `program` as root, with `variables` added to the environment.
///
/// `purpose` ends the sentence "root is needed to …".
pub(crate) fn as_root(
    program: &Path,
    arguments: &[String],
    variables: &[(&str, String)],
    purpose: &str,
) -> Result<Command> {
    if is_root() {
        let mut command = Command::new(program);
        command.args(arguments);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        return Ok(command);
    }
    let pairs: Vec<String> = KEPT
        .into_iter()
        .filter_map(|name| Some((name, std::env::var(name).ok()?)))
        .chain(variables.iter().cloned())
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut under_env = Command::new("env");
    under_env.args(&pairs).arg(program).args(arguments);
    let Some(sudo) = process::find_in_path("sudo") else {
        bail!(
            "root is needed to {purpose}, and sudo is not installed\nhint: run as root: {}",
            process::shown(&under_env)
        );
    };
    process::say(format!("root is needed to {purpose}: using sudo"));
    let mut command = Command::new(sudo);
    command.arg("-E").arg("env");
    command.args(&pairs).arg(program).args(arguments);
    Ok(command)
}
