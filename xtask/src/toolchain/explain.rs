//! The table of `cargo xtask setup --explain`: each candidate, what it is, and its verdict.

use std::fmt::Write as _;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};

use super::{
    OVERRIDE, TARGET,
    facts::{Compiler, Facts, Linker, Origin},
    install,
    select::{self, Core, Missing, Report, Selection, Verdict},
};

/// Looks at the machine and explains the choice; installs nothing.
pub(crate) fn explain() -> Result<String> {
    let facts = Facts::gather()?;
    Ok(render(&facts, &select::select(&facts)))
}

fn render(facts: &Facts, report: &Report) -> String {
    let mut text = format!(
        "The kernel programs are compiled for {TARGET}. Order: {OVERRIDE}; a rustc with a \
         precompiled core;\na rustup toolchain with rust-src, nightly first; else one is installed.\n\n"
    );
    let mut compilers = table(["rustc", "found", "release", "LLVM", "core", "verdict"]);
    for (compiler, verdict) in facts.compilers.iter().zip(&report.compilers) {
        compilers.add_row(compiler_row(compiler, verdict));
    }
    let mut linkers = table(["bpf-linker", "version", "LLVM", "verdict"]);
    for (linker, verdict) in facts.linkers.iter().zip(&report.linkers) {
        linkers.add_row(linker_row(linker, verdict));
    }
    for (table, name) in [(compilers, "rustc"), (linkers, "bpf-linker")] {
        if table.is_empty() {
            let _ = writeln!(text, "no {name} found\n");
        } else {
            let _ = writeln!(text, "{table}\n");
        }
    }
    text + &outcome(&report.selection)
}

fn outcome(selection: &Selection) -> String {
    match selection {
        Selection::Ready(choice) => format!(
            "rustc       {}\ncargo       {}\nbpf-linker  {}\ncore        {}\n",
            choice.rustc.display(),
            choice.cargo.display(),
            choice.linker.display(),
            match choice.core {
                Core::Precompiled => "precompiled",
                Core::Source => "compiled from rust-src (-Z build-std=core)",
            }
        ),
        Selection::Missing(missing) => {
            let what = match missing {
                Missing::Compiler => "a rustc that compiles for BPF".into(),
                Missing::Linker { llvm_major_min: Some(major) } => {
                    format!("a bpf-linker with LLVM {major} or newer")
                }
                Missing::Linker { llvm_major_min: None } => "a bpf-linker".into(),
                Missing::Override { rustc, reason } => {
                    format!("a usable {OVERRIDE}: {}: {reason}", rustc.display())
                }
            };
            let mut text = format!("missing: {what}\n`cargo xtask setup` would run:\n");
            for step in install::steps(missing) {
                let _ = writeln!(text, "  {step}");
            }
            text
        }
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    if table.width().is_none() {
        table.set_width(120);
    }
    table
}

fn compiler_row(compiler: &Compiler, verdict: &Verdict) -> [String; 6] {
    let origin = match compiler.origin {
        Origin::Override => OVERRIDE,
        Origin::Path => "PATH",
        Origin::Rustup => "rustup",
    };
    let (release, llvm, core) = match &compiler.about {
        Err(_) => ("?".into(), "?".into(), "?"),
        Ok(about) => (
            about.release.clone(),
            llvm(about.llvm_major),
            match (about.has_core, about.has_source) {
                (true, _) => "precompiled",
                (false, true) => "rust-src",
                (false, false) => "none",
            },
        ),
    };
    let rustc = compiler.rustc.display().to_string();
    [rustc, origin.into(), release, llvm, core.into(), described(verdict)]
}

fn linker_row(linker: &Linker, verdict: &Verdict) -> [String; 4] {
    let (version, llvm) = match &linker.about {
        Err(_) => ("?".into(), "?".into()),
        Ok(about) => (format!("{}.{}", about.version.0, about.version.1), llvm(about.llvm_major)),
    };
    [linker.path.display().to_string(), version, llvm, described(verdict)]
}

fn llvm(major: Option<u32>) -> String {
    major.map_or_else(|| "?".into(), |major| major.to_string())
}

fn described(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Chosen(reason) => format!("CHOSEN: {reason}"),
        Verdict::Usable(reason) => format!("usable: {reason}"),
        Verdict::Rejected(reason) => format!("rejected: {reason}"),
    }
}
