//! tonic's client and server of the interop tests, see `balancer_tests::interop`.

use balancer_tests::interop::program::{InteropCommand, run};
use clap::Parser;

#[derive(Parser)]
#[command(disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: InteropCommand,
}

fn main() -> anyhow::Result<()> {
    run(&Arguments::parse().command)
}
