//! Container engines: the image is built with the first one that works.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{process, workspace};

/// Engines and a command of each that succeeds only where the engine can build.
const ENGINES: [(&str, &[&str]); 3] =
    [("podman", &["info"]), ("buildah", &["info"]), ("docker", &["info"])];

/// Builds the image of `root`; without an engine it says so, and that is all.
pub(super) fn build(root: &Path, tag: &str) -> Result<()> {
    let Some(engine) = ENGINES.iter().find(|(name, probe)| works(name, probe)) else {
        process::say("no container engine works here: the archive is all there is");
        return Ok(());
    };
    let mut command = Command::new(engine.0);
    command
        .args(["build", "--file"])
        .arg(workspace::root().join("deploy/Containerfile"))
        .args(["--tag", tag])
        .arg(root);
    process::run(&mut command).with_context(|| format!("build the image with {}", engine.0))?;
    process::say(format!("image in {}: {tag}", engine.0));
    Ok(())
}

fn works(engine: &str, probe: &[&str]) -> bool {
    process::find_in_path(engine).is_some_and(|path| {
        let mut command = Command::new(path);
        command.args(probe).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_works_if_it_is_there_and_its_probe_succeeds() {
        assert!(works("true", &[]));
        assert!(!works("false", &[]), "installed, but not running");
        assert!(!works("no-such-engine", &[]));
    }
}
