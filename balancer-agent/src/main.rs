//! Entry point of `balancer-agent`, the daemon and its command line in one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    balancer_agent::cli::main()
}
