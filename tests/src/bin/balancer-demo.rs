//! The demo's binary, which is also that of its client pods: `cargo xtask demo` builds and runs it.

use balancer_tests::{
    demo::{self, Outcome},
    grpc::pod::{self, PodCommand},
};
use clap::Parser;
use nix::unistd::Uid;
use std::process::ExitCode;

/// Shows gRPC clients and servers on this machine without and with the balancer, as root.
///
/// Plays in a network namespace and in cgroups of its own, takes less than a minute, and removes
/// everything again. Exits with 0 if all claims held, 1 if one did not, 2 if it could not play.
#[derive(Parser)]
#[command(version, disable_help_subcommand = true, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Play on Kubernetes: a real control plane, with a Deployment behind Services.
    #[arg(long)]
    kubernetes: bool,
    /// Show how live connections follow backends that come and go.
    #[arg(long, conflicts_with = "kubernetes")]
    scale_up: bool,
    #[command(subcommand)]
    pod: Option<PodCommand>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output, mistakes to standard error.
            let _ = error.print();
            // EX_USAGE of sysexits.h.
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = match arguments.pod {
        Some(command) => pod::run(&command).map(|()| Outcome::Proved),
        None if !Uid::effective().is_root() => Err(anyhow::anyhow!(
            "loading eBPF needs root; hint: `cargo xtask demo` asks for it, and for nothing else"
        )),
        None if arguments.kubernetes => demo::kubernetes::run(),
        None if arguments.scale_up => demo::scale_up::run(),
        None => demo::run(),
    };
    match outcome {
        Ok(Outcome::Proved) => ExitCode::SUCCESS,
        Ok(Outcome::Refuted) => ExitCode::from(1),
        Ok(Outcome::Interrupted) => {
            eprintln!("\ninterrupted; nothing is left behind");
            // 128 and the number of SIGINT, as shells have it.
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
