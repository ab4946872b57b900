//! Build, test, lint, demo and benchmark commands of balancer: `cargo xtask --help`.
//!
//! Contributors and CI call nothing else. Everything is compiled as the calling user; root is
//! asked for only where eBPF is loaded.

mod build;
mod privilege;
mod process;
mod setup;
mod system;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, test, lint, demo and benchmark commands of balancer.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    long_about = "Build, test, lint, demo and benchmark commands of balancer.\n\n\
        xtask finds or installs the toolchain that compiles the kernel programs, compiles \
        everything as the calling user, and asks for root (through sudo) only to load eBPF.\n\n\
        A first try: cargo xtask demo"
)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Find the eBPF toolchain, and install what is missing.
    Setup(setup::Options),
    /// Compile the kernel programs and the agent that embeds them.
    Build(build::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Setup(options) => setup::run(&options),
        Task::Build(options) => build::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
