//! Running other programs: say what is run, then turn every failure into one clear error.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Prints one line about what xtask is doing. Stdout is left to data.
pub(crate) fn say(line: impl AsRef<str>) {
    eprintln!("xtask: {}", line.as_ref());
}

/// Runs `command` with the terminal's own streams; fails if it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs `command` and returns its stdout; fails, with its stderr, if it does.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start `{}`", shown(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}: {}", shown(command), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as it would be typed.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![quoted(command.get_program())];
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The first executable file called `name` in `PATH`.
pub(crate) fn find_in_path(name: &str) -> Option<PathBuf> {
    all_in_path(name).into_iter().next()
}

/// Every executable file called `name` in `PATH`, in order, without repetitions. The system
/// directories are searched last even if `PATH` lacks them, as an ordinary user's does on Debian.
pub(crate) fn all_in_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin"].map(PathBuf::from);
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in std::env::split_paths(&path).chain(system) {
        let file = directory.join(name);
        if is_executable(&file) && !found.iter().any(|other| same_file(other, &file)) {
            found.push(file);
        }
    }
    found
}

/// Whether `path` is a file that may be executed.
pub(crate) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Same directory entry. Two names of one file are different: rustup's proxies act by name.
fn same_file(left: &Path, right: &Path) -> bool {
    let place = |path: &Path| {
        let directory = path.parent()?.canonicalize().ok()?;
        Some(directory.join(path.file_name()?))
    };
    place(left) == place(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_so_that_they_can_be_pasted() {
        let mut command = Command::new("cargo");
        command.args(["install", "a b", "it's", ""]);
        assert_eq!(shown(&command), r"cargo install 'a b' 'it'\''s' ''");
    }

    #[test]
    fn a_failing_program_is_named_with_its_own_words() {
        let error = output(Command::new("sh").args(["-c", "echo broken >&2; exit 3"]))
            .expect_err("exit 3 is a failure");
        let text = format!("{error:#}");
        assert!(text.contains("sh -c") && text.contains("broken"), "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program-here")).expect_err("nothing to start");
        assert!(format!("{error:#}").contains("no-such-program-here"));
    }
}
