//! Asking one rustc or bpf-linker about itself.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use super::{
    TARGET,
    facts::{Compiler, CompilerAbout, Linker, LinkerAbout, Origin},
};
use crate::process;

/// Asks `rustc` about itself.
pub(super) fn compiler(rustc: PathBuf, origin: Origin) -> Compiler {
    let about = about_compiler(&rustc).map_err(|error| format!("{error:#}"));
    Compiler { rustc, origin, about }
}

/// Asks the bpf-linker at `path` about itself.
pub(super) fn linker(path: PathBuf) -> Linker {
    let about = about_linker(&path).map_err(|error| format!("{error:#}"));
    Linker { path, about }
}

fn about_compiler(rustc: &Path) -> anyhow::Result<CompilerAbout> {
    // Run outside the repository, so that no toolchain file changes the answer.
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(rustc);
        command
            .current_dir("/")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("LD_LIBRARY_PATH")
            .args(arguments);
        process::output(&mut command)
    };
    let text = ask(&["-vV"])?;
    let (release, llvm_major) = parse_version(&text).context("read `rustc -vV`")?;
    let version = parse_major_minor(&release).context("read the release of `rustc -vV`")?;
    let directories = ask(&["--print", "sysroot", "--print", "target-libdir", "--target", TARGET])?;
    let mut paths = directories.lines();
    let sysroot = PathBuf::from(paths.next().context("`rustc --print sysroot` said nothing")?);
    let library = paths.next().map(PathBuf::from).unwrap_or_default();
    let cargo = rustc.with_file_name("cargo");
    Ok(CompilerAbout {
        release,
        version,
        llvm_major,
        has_core: has_core(&library),
        has_source: sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file(),
        cargo: process::is_executable(&cargo).then_some(cargo),
    })
}

fn has_core(library: &Path) -> bool {
    library.read_dir().is_ok_and(|entries| {
        entries.filter_map(Result::ok).any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })
    })
}

/// The release and the major version of LLVM in the text of `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, Option<u32>)> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let release = value("release: ")?.trim().to_owned();
    let llvm_major =
        value("LLVM version: ").and_then(|version| version.trim().split('.').next()?.parse().ok());
    Some((release, llvm_major))
}

/// The first two numbers of `1.97.0-nightly`.
fn parse_major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn about_linker(path: &Path) -> anyhow::Result<LinkerAbout> {
    let text = process::output(Command::new(path).arg("--version"))?;
    let version = text
        .split_whitespace()
        .nth(1)
        .and_then(parse_major_minor)
        .with_context(|| format!("read the version in `{}`", text.trim()))?;
    // It does not tell its LLVM; the dynamic loader does, unless LLVM is inside.
    let libraries = process::output(Command::new("ldd").arg(path)).unwrap_or_default();
    Ok(LinkerAbout { version, llvm_major: parse_llvm_library(&libraries) })
}

/// The major version of `libLLVM.so.22.1` or `libLLVM-19.so` in the text of `ldd`.
fn parse_llvm_library(text: &str) -> Option<u32> {
    let rest = text.split("libLLVM").nth(1)?;
    let digits: String = rest
        .trim_start_matches(|c: char| !c.is_ascii_digit())
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_versions_are_read() {
        let text = "rustc 1.97.0-nightly (abc 2026-05-01)\nbinary: rustc\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(parse_version(text), Some(("1.97.0-nightly".into(), Some(22))));
        assert_eq!(parse_version("clang version 19"), None);
        assert_eq!(parse_major_minor("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(parse_major_minor("unknown"), None);
    }

    #[test]
    fn the_llvm_of_a_linker_is_read_from_its_libraries() {
        let cases = [
            ("\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x7f)\n", Some(22)),
            ("\tlibLLVM-19.so.1 => /usr/lib/libLLVM-19.so.1 (0x7f)\n", Some(19)),
            ("\tstatically linked\n", None),
            ("\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_llvm_library(text), expected, "{text}");
        }
    }
}
