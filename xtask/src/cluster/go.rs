//! Go: found or explained, and the module that makes Kubernetes' own packages buildable.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{process, system::System};

/// The first Go that fetches by itself the newer one that a module asks for (`GOTOOLCHAIN`).
const MINOR_MIN: u32 = 21;

/// Where Go's own archives are unpacked by their instructions.
const USUAL: &str = "/usr/local/go/bin/go";

/// A usable Go.
#[derive(Debug)]
pub(crate) struct Go {
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Download {
    go_mod: PathBuf,
}

impl Go {
    /// The one in `PATH`, or where its archives put it.
    pub(crate) fn find() -> Result<Self> {
        let usual = Some(PathBuf::from(USUAL)).filter(|path| process::is_executable(path));
        let Some(path) = process::find_in_path("go").or(usual) else {
            bail!("Go is not installed, which compiles programs for the tests\n{}", hint());
        };
        let version = process::output(Command::new(&path).args(["env", "GOVERSION"]))?;
        let version = version.trim();
        if minor(version).is_none_or(|minor| minor < MINOR_MIN) {
            bail!(
                "{} is {version}, and only Go 1.{MINOR_MIN} or newer fetches the Go that \
                 a module asks for\n{}",
                path.display(),
                hint()
            );
        }
        Ok(Self { path })
    }

    fn command(&self, directory: &Path) -> Command {
        let mut command = Command::new(&self.path);
        command
            .current_dir(directory)
            // Static programs, that run on any Linux.
            .env("CGO_ENABLED", "0")
            // Debian's package says `local`, with which an older Go refuses Kubernetes' modules.
            .env("GOTOOLCHAIN", "auto")
            .env_remove("GOFLAGS")
            .env_remove("GOWORK");
        command
    }

    /// Writes the module in whose `directory` the packages of Kubernetes can be built.
    ///
    /// Kubernetes requires its staging modules at v0.0.0 and replaces them by folders of its own
    /// repository; replacements count in the main module only, so ours has to name versions.
    pub(super) fn write_module(&self, version: &str, directory: &Path) -> Result<()> {
        let module = format!("k8s.io/kubernetes@v{version}");
        let mut command = self.command(directory);
        let text = process::output(command.args(["mod", "download", "-json", &module]))
            .with_context(|| format!("fetch {module}"))?;
        let Download { go_mod } =
            serde_json::from_str(&text).context("read what `go mod download` printed")?;
        let theirs = fs::read_to_string(&go_mod)
            .with_context(|| format!("read the module file {}", go_mod.display()))?;
        let ours = directory.join("go.mod");
        fs::write(&ours, module_file(version, &theirs)?)
            .with_context(|| format!("write {}", ours.display()))
    }

    /// Compiles a package into a program.
    pub(super) fn build(
        &self,
        version: &str,
        package: &str,
        program: &Path,
        directory: &Path,
    ) -> Result<()> {
        // The version is what clients are told at /version, which a build from git has by itself.
        let flags = format!("-s -w -X k8s.io/component-base/version.gitVersion=v{version}");
        let mut command = self.command(directory);
        command.args(["build", "-mod=mod", "-ldflags", &flags, "-o"]).arg(program).arg(package);
        process::run(&mut command)
    }

    /// Compiles the program of a module of the repository, from the very versions that its go.sum names.
    pub(crate) fn build_module(&self, directory: &Path, program: &Path) -> Result<()> {
        let mut command = self.command(directory);
        command.args(["build", "-mod=readonly", "-ldflags", "-s -w", "-o"]).arg(program).arg(".");
        process::run(&mut command)
    }
}

/// The text of our go.mod, made from that of Kubernetes `version`.
fn module_file(version: &str, theirs: &str) -> Result<String> {
    let minor = version.strip_prefix("1.").context("a version of Kubernetes starts with 1.")?;
    let go = theirs.lines().find(|line| line.starts_with("go "));
    let go = go.context("Kubernetes' go.mod names no version of Go")?;
    let mut text = format!(
        "module balancer.invalid/control-plane\n\n{go}\n\nrequire k8s.io/kubernetes v{version}\n\n"
    );
    for line in theirs.lines() {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        if let (Some(module), Some("v0.0.0")) = (words.next(), words.next()) {
            let _ = writeln!(text, "replace {module} => {module} v0.{minor}");
        }
    }
    Ok(text)
}

/// The second number in `go1.26.8`.
fn minor(version: &str) -> Option<u32> {
    let rest = version.strip_prefix("go1.")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn hint() -> String {
    let System { name, has_apt, .. } = System::detect();
    let elsewhere = format!("unpack Go's own archive, so that there is {USUAL}");
    if !has_apt {
        return format!("hint: install Go with the package system of {name}, or {elsewhere}");
    }
    format!(
        "hint: sudo apt-get install -y golang-go (Debian 13, Ubuntu 24.04 and newer; that of \
         Debian 12 and Ubuntu 22.04 is too old), or: sudo snap install go --classic; or {elsewhere}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_modules_are_replaced_by_the_versions_of_that_release() {
        let theirs = "module k8s.io/kubernetes\n\ngo 1.26.0\n\nrequire (\n\
            \tgithub.com/spf13/cobra v1.10.0\n\tk8s.io/api v0.0.0\n\
            \tk8s.io/utils v0.0.0-20260101 // indirect\n)\nrequire k8s.io/apiserver v0.0.0\n\
            replace k8s.io/api => ./staging/src/k8s.io/api\n";
        let ours = module_file("1.36.3", theirs).expect("a whole file");
        assert_eq!(
            ours,
            "module balancer.invalid/control-plane\n\ngo 1.26.0\n\n\
             require k8s.io/kubernetes v1.36.3\n\n\
             replace k8s.io/api => k8s.io/api v0.36.3\n\
             replace k8s.io/apiserver => k8s.io/apiserver v0.36.3\n"
        );
    }

    #[test]
    fn versions_of_go_are_told_apart() {
        let read = ["go1.26.8", "go1.21", "go1.9rc1", "devel go1.27-abc", ""].map(minor);
        assert_eq!(read, [Some(26), Some(21), Some(9), None, None]);
    }

    #[test]
    fn the_hint_names_a_command_or_a_place() {
        assert!(hint().contains(USUAL), "{}", hint());
    }
}
