//! Build, test, lint, demo and benchmark commands of balancer: `cargo xtask --help`.
//!
//! Contributors and CI call nothing else. Everything is compiled as the calling user; root is
//! asked for only where eBPF is loaded.

mod artifacts;
mod bench;
mod build;
mod cluster;
mod demo;
mod fuzz;
mod image;
mod interop;
mod kernels;
mod lint;
mod privilege;
mod process;
mod setup;
mod system;
mod test;
#[cfg(test)]
mod tidy;
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
    /// Run the demo: gRPC clients and servers without and with the balancer.
    Demo(demo::Options),
    /// Run all tests, as root where the real kernel is under test.
    Test(test::Options),
    /// Check format, lints, house rules, licences, spelling and documentation.
    Lint,
    /// Build the agent's container image.
    Image(image::Options),
    /// Run the benchmarks, all or those named.
    Bench(bench::Options),
    /// Build and run a real Kubernetes control plane.
    Cluster(cluster::Options),
    /// Run fuzz targets for long, guided by coverage.
    Fuzz(fuzz::Options),
    /// Boot other kernels in QEMU and run the smoke test in each.
    TestKernels(kernels::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Setup(options) => setup::run(&options),
        Task::Build(options) => build::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Lint => lint::run(),
        Task::Image(options) => image::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Cluster(options) => cluster::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::TestKernels(options) => kernels::run(&options),
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
