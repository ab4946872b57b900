//! Other implementations of gRPC for the interop tests: grpcio in a Python environment of its own, and a program on
//! grpc-go, kept in the user's cache.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{cluster::go::Go, process, system, system::System, workspace};

/// Debian's package without which `python3 -m venv` makes none.
const VENV_PACKAGE: &str = "python3-venv";

/// What decides whether something has to be made anew.
const SOURCES: [&str; 6] =
    ["requirements.txt", "go/go.mod", "go/go.sum", "go/main.go", "go/server.go", "go/client.go"];

/// Installs what is missing for the tests. A machine without Python or Go skips the tests that need it, and they
/// say so; in CI they fail.
pub(crate) fn prepare_tests() -> (&'static str, String) {
    let directory = workspace::cache("interop");
    if let Err(error) = ensure(&directory) {
        process::say(format!("no grpcio and grpc-go to test with: {error:#}"));
    }
    ("BALANCER_INTEROP", directory.display().to_string())
}

fn ensure(directory: &Path) -> Result<()> {
    let sources = workspace::root().join("tests").join("interop");
    let stamp = stamp_of(&sources)?;
    let file = directory.join("STAMP");
    if fs::read_to_string(&file).is_ok_and(|text| text == stamp) {
        return Ok(());
    }
    process::say(format!("installing grpcio and grpc-go in {}", directory.display()));
    let go = Go::find().context("find Go for grpc-go")?;
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    install_grpcio(&sources.join("requirements.txt"), &directory.join("python"))?;
    go.build_module(&sources.join("go"), &directory.join("interop-go"))
        .context("compile the program on grpc-go")?;
    fs::write(&file, stamp).with_context(|| format!("write {}", file.display()))
}

/// All that goes into it, as it is: short enough to be kept.
fn stamp_of(sources: &Path) -> Result<String> {
    let mut stamp = String::new();
    for name in SOURCES {
        let file = sources.join(name);
        stamp += &fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    }
    Ok(stamp)
}

fn install_grpcio(requirements: &Path, environment: &Path) -> Result<()> {
    make_environment(environment).context("make a Python environment")?;
    let mut pip = Command::new(environment.join("bin").join("python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--require-hashes", "--only-binary=:all:", "--no-deps", "-r"]).arg(requirements);
    process::run(&mut pip).context("install grpcio")
}

/// Makes it with the Python that is there; Debian's needs a package for that.
fn make_environment(environment: &Path) -> Result<()> {
    let make = || {
        let Some(python) = process::find_in_path("python3") else {
            bail!("Python is not installed, which grpcio needs");
        };
        process::output(Command::new(python).args(["-m", "venv", "--clear"]).arg(environment))
    };
    let Err(error) = make() else { return Ok(()) };
    let System { may_install, has_apt, .. } = System::detect();
    if may_install {
        system::apt_install(&["python3", VENV_PACKAGE])?;
        return make().map(drop);
    }
    if has_apt {
        bail!("{error:#}\nhint: sudo apt-get install -y python3 {VENV_PACKAGE}");
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_counts_and_none_is_forgotten() {
        let sources = workspace::root().join("tests").join("interop");
        let stamp = stamp_of(&sources).expect("all sources are there");
        assert!(stamp.contains("--hash=sha256:") && stamp.contains("google.golang.org/grpc"));
        for entry in fs::read_dir(sources.join("go")).expect("a folder") {
            let name = entry.expect("readable").file_name();
            let name = format!("go/{}", name.to_string_lossy());
            assert!(SOURCES.contains(&name.as_str()), "{name} is not in the stamp");
        }
    }
}
