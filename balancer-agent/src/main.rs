//! Entry point of `balancer-agent`, the daemon and its command line in one binary.

use mimalloc::MiMalloc;
use std::process::ExitCode;

/// Objects of the Kubernetes API come and go as trees of small pieces: with the C library's allocator a
/// quarter of the agent's time goes into those.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    balancer_agent::cli::main()
}
