//! `cargo xtask setup`: find the eBPF toolchain, or install it; or only explain.

use anyhow::Result;
use clap::Args;

use crate::{process, toolchain};

/// Find the eBPF toolchain, and install what is missing.
///
/// Needed are a rustc with a `core` crate for bpfel-unknown-none and a bpf-linker whose LLVM is at
/// least rustc's. They are looked for in this order: the rustc named by `BALANCER_BPF_RUSTC`; any
/// rustc (PATH, /usr/bin, rustup's toolchains) with a precompiled core; a rustup toolchain with
/// rust-src, nightly first. What is missing is installed: on Debian by apt when root, elsewhere by
/// rustup and cargo; where that is impossible the exact commands are printed. The other commands
/// do the same by themselves: running this one first is optional.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Show each candidate and why it was chosen or rejected; install nothing.
    #[arg(long)]
    explain: bool,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.explain {
        print!("{}", toolchain::explain()?);
        return Ok(());
    }
    let choice = toolchain::find_or_install()?;
    process::say(format!(
        "the toolchain is complete: {} with {}",
        choice.rustc.display(),
        choice.linker.display()
    ));
    Ok(())
}
