//! The choice of a toolchain: pure, from [`Facts`] to a verdict on every candidate.

use std::path::{Path, PathBuf};

use super::facts::{Compiler, CompilerAbout, Facts, Linker, LinkerAbout, Origin};

/// The oldest bpf-linker that is known to compile the kernel programs.
pub(crate) const LINKER_VERSION_MIN: (u32, u32) = (0, 13);

/// What the selection came to, with a verdict on each candidate in the order of [`Facts`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// One for each compiler.
    pub(crate) compilers: Vec<Verdict>,
    /// One for each linker.
    pub(crate) linkers: Vec<Verdict>,
    /// The outcome.
    pub(crate) selection: Selection,
}

/// What became of one candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the one.
    Chosen(String),
    /// It would do, but another one comes first.
    Usable(String),
    /// It will not do, and why.
    Rejected(String),
}

/// The outcome of a selection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All is there.
    Ready(Choice),
    /// Something has to be installed.
    Missing(Missing),
}

/// A complete toolchain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The compiler.
    pub(crate) rustc: PathBuf,
    /// The cargo to run it with.
    pub(crate) cargo: PathBuf,
    /// The linker.
    pub(crate) linker: PathBuf,
    /// Where `core` comes from.
    pub(crate) core: Core,
}

/// Where the `core` crate for BPF comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Core {
    /// It is installed, compiled.
    Precompiled,
    /// cargo compiles it from rust-src (`-Z build-std`).
    Source,
}

/// What has to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No compiler will do.
    Compiler,
    /// A compiler is there, but no linker whose LLVM reads its bitcode.
    Linker {
        /// The LLVM of the compiler, which the linker's must not be older than.
        llvm_major_min: Option<u32>,
    },
    /// The compiler named by the override will not do, which only the user can mend.
    Override {
        /// The compiler.
        rustc: PathBuf,
        /// Why it will not do.
        reason: String,
    },
}

/// Chooses the first compiler, by rank and then by order, that some linker fits.
pub(crate) fn select(facts: &Facts) -> Report {
    let assessed: Vec<Result<Usable<'_>, String>> = facts.compilers.iter().map(assess).collect();
    let mut ranked: Vec<(usize, &Usable<'_>)> = assessed
        .iter()
        .enumerate()
        .filter_map(|(index, usable)| Some((index, usable.as_ref().ok()?)))
        .collect();
    ranked.sort_by_key(|(index, usable)| (usable.rank, *index));

    let overridden =
        facts.compilers.iter().position(|compiler| compiler.origin == Origin::Override);
    if overridden.is_some() {
        // The user's word is final: nothing else is tried instead.
        ranked.retain(|(index, _)| Some(*index) == overridden);
    }
    let chosen = ranked.iter().find_map(|(index, usable)| {
        let linker = facts.linkers.iter().position(|linker| fits(linker, usable.about).is_ok())?;
        Some((*index, *usable, linker))
    });
    let selection = match (chosen, ranked.first(), overridden) {
        (Some((_, usable, linker)), _, _) => Selection::Ready(Choice {
            rustc: usable.rustc.to_path_buf(),
            cargo: usable.cargo(&facts.cargo),
            linker: facts.linkers[linker].path.clone(),
            core: usable.core,
        }),
        (None, Some((_, usable)), _) => {
            Selection::Missing(Missing::Linker { llvm_major_min: usable.about.llvm_major })
        }
        (None, None, Some(index)) => Selection::Missing(Missing::Override {
            rustc: facts.compilers[index].rustc.clone(),
            reason: assessed[index].as_ref().err().cloned().unwrap_or_default(),
        }),
        (None, None, None) => Selection::Missing(Missing::Compiler),
    };

    let first = ranked.first().map(|(_, usable)| usable.about);
    let wanted = chosen.map_or(first, |(_, usable, _)| Some(usable.about));
    Report {
        compilers: compiler_verdicts(&assessed, chosen.map(|(index, ..)| index), overridden),
        linkers: linker_verdicts(&facts.linkers, wanted, chosen.map(|(.., linker)| linker)),
        selection,
    }
}

/// A compiler that would do.
struct Usable<'facts> {
    rustc: &'facts Path,
    about: &'facts CompilerAbout,
    core: Core,
    /// Lower is better.
    rank: u8,
    reason: &'static str,
}

impl Usable<'_> {
    /// `-Z build-std` wants the cargo of the same toolchain; a precompiled core works with any.
    fn cargo(&self, running: &Path) -> PathBuf {
        match (self.core, &self.about.cargo) {
            (Core::Source, Some(own)) => own.clone(),
            _ => running.to_path_buf(),
        }
    }
}

fn assess(compiler: &Compiler) -> Result<Usable<'_>, String> {
    let about = compiler.about.as_ref().map_err(|error| format!("does not run: {error}"))?;
    let oldest = oldest_rust();
    if about.version < oldest {
        return Err(format!("older than Rust {}.{}, the oldest supported", oldest.0, oldest.1));
    }
    let (core, rank, reason) = match (about.has_core, about.has_source, about.is_nightly()) {
        (true, _, _) => (Core::Precompiled, 0, "holds a precompiled core for BPF"),
        (false, true, true) => {
            (Core::Source, 1, "nightly with rust-src: core is compiled from source")
        }
        (false, true, false) => (Core::Source, 2, "has rust-src: core is compiled from source"),
        (false, false, _) => return Err("neither a precompiled core for BPF nor rust-src".into()),
    };
    let rustc = compiler.rustc.as_path();
    Ok(Usable { rustc, about, core, rank, reason })
}

/// `rust-version` of the workspace.
fn oldest_rust() -> (u32, u32) {
    let mut parts = env!("CARGO_PKG_RUST_VERSION").split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Whether `linker` reads the bitcode of `compiler`, with the reason either way.
fn fits(linker: &Linker, compiler: &CompilerAbout) -> Result<String, String> {
    let LinkerAbout { version, llvm_major } =
        linker.about.as_ref().map_err(|error| format!("does not run: {error}"))?;
    if *version < LINKER_VERSION_MIN {
        let (major, minor) = LINKER_VERSION_MIN;
        return Err(format!("older than {major}.{minor}, the oldest supported"));
    }
    match (llvm_major, compiler.llvm_major) {
        (Some(own), Some(needed)) if *own < needed => {
            Err(format!("its LLVM {own} cannot read the bitcode of rustc's LLVM {needed}"))
        }
        (Some(own), Some(needed)) => Ok(format!("its LLVM {own} reads rustc's LLVM {needed}")),
        (None, _) => Ok("its LLVM is built in and not visible: taken on trust".into()),
        (Some(own), None) => Ok(format!("LLVM {own}; rustc does not tell its own")),
    }
}

fn compiler_verdicts(
    assessed: &[Result<Usable<'_>, String>],
    chosen: Option<usize>,
    overridden: Option<usize>,
) -> Vec<Verdict> {
    let verdict = |(index, usable): (usize, &Result<Usable<'_>, String>)| match usable {
        Err(reason) => Verdict::Rejected(reason.clone()),
        Ok(usable) if chosen == Some(index) => Verdict::Chosen(usable.reason.into()),
        Ok(usable) if overridden.is_some_and(|other| other != index) => {
            Verdict::Usable(format!("{}, but the override comes first", usable.reason))
        }
        Ok(usable) if chosen.is_none() => {
            Verdict::Usable(format!("{}, but no linker fits it", usable.reason))
        }
        Ok(usable) => Verdict::Usable(format!("{}, but another comes first", usable.reason)),
    };
    assessed.iter().enumerate().map(verdict).collect()
}

fn linker_verdicts(
    linkers: &[Linker],
    wanted: Option<&CompilerAbout>,
    chosen: Option<usize>,
) -> Vec<Verdict> {
    let verdict = |(index, linker): (usize, &Linker)| {
        let Some(compiler) = wanted else {
            return Verdict::Usable("there is no compiler to compare it with".into());
        };
        match fits(linker, compiler) {
            Err(reason) => Verdict::Rejected(reason),
            Ok(reason) if chosen == Some(index) => Verdict::Chosen(reason),
            Ok(reason) => Verdict::Usable(format!("{reason}, but another comes first")),
        }
    };
    linkers.iter().enumerate().map(verdict).collect()
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
