//! The machine: which distribution it is, and packages of its own package system.

use std::{fs, process::Command};

use anyhow::{Result, bail};

use crate::{privilege, process};

/// What xtask needs to know about the operating system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct System {
    /// `PRETTY_NAME` of os-release.
    pub(crate) name: String,
    /// Whether apt-get is there and xtask may use it, being root.
    pub(crate) may_install: bool,
    /// Whether apt-get is there at all.
    pub(crate) has_apt: bool,
}

/// A program that a command needs, and the Debian package that brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// The program's name, as searched in `PATH`.
    pub(crate) program: &'static str,
    /// The package, by the same name on Debian and Ubuntu.
    pub(crate) package: &'static str,
}

impl System {
    /// Looks at this machine.
    pub(crate) fn detect() -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let has_apt = process::find_in_path("apt-get").is_some();
        Self {
            name: os_release_value(&release, "PRETTY_NAME").unwrap_or_else(|| "unknown".into()),
            may_install: has_apt && privilege::is_root(),
            has_apt,
        }
    }
}

fn os_release_value(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(line.trim_matches('"').to_owned())
}

/// Makes sure that each of `needs` is installed: by apt where xtask may, else an error that names
/// the exact command. `purpose` ends the sentence "… needed to".
pub(crate) fn require(needs: &[Need], purpose: &str) -> Result<()> {
    let missing: Vec<Need> = needs
        .iter()
        .filter(|need| process::find_in_path(need.program).is_none())
        .copied()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    packages.dedup();
    let system = System::detect();
    if system.may_install {
        process::say(format!("installing {} to {purpose}", packages.join(" ")));
        return apt_install(&packages);
    }
    let programs: Vec<&str> = missing.iter().map(|need| need.program).collect();
    let hint = if system.has_apt {
        format!("sudo apt-get install -y {}", packages.join(" "))
    } else {
        format!("install them with the package system of {}", system.name)
    };
    bail!("missing programs needed to {purpose}: {}\nhint: {hint}", programs.join(", "))
}

/// Installs packages with apt; refreshes the package lists once if a package is not found.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    let install = || {
        process::run(apt_get().args(["install", "-y", "--no-install-recommends"]).args(packages))
    };
    if !packages.iter().all(|package| apt_knows(package)) {
        apt_update()?;
    }
    // A list that is too old names files that the mirror has pruned: refresh it and try again.
    install().or_else(|_| {
        apt_update()?;
        install()
    })
}

/// Refreshes the package lists.
pub(crate) fn apt_update() -> Result<()> {
    process::run(apt_get().arg("update"))
}

/// Whether the package lists hold an installable `package`.
pub(crate) fn apt_knows(package: &str) -> bool {
    process::output(Command::new("apt-cache").args(["policy", package]))
        .is_ok_and(|text| has_candidate(&text))
}

fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate: "))
        .any(|version| version != "(none)")
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-q",
        "-o",
        "Dpkg::Use-Pty=0",
        "-o",
        "DPkg::Lock::Timeout=120",
    ]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_values_are_unquoted_and_told_by_their_whole_key() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(os_release_value(text, "ID").as_deref(), Some("debian"));
        assert_eq!(
            os_release_value(text, "PRETTY_NAME").as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
        assert_eq!(os_release_value(text, "HOME_URL"), None);
    }

    #[test]
    fn a_package_without_candidate_is_not_installable() {
        assert!(!has_candidate(""));
        assert!(!has_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(has_candidate("x:\n  Installed: (none)\n  Candidate: 1.2-3\n"));
    }
}
