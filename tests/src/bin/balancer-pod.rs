//! The process in a pod of the tests' cluster, see `balancer_tests::cluster::workload`.

use balancer_tests::cluster::workload::{self, Inside};
use clap::Parser;

/// Runs in a pod's network namespace and cgroup.
#[derive(Parser)]
enum Arguments {
    /// Serve echo until SIGTERM.
    Serve {
        #[command(flatten)]
        inside: Inside,
        /// The name that replies carry.
        #[arg(long)]
        name: String,
        /// Where to listen, on all addresses.
        #[arg(long)]
        port: u16,
    },
}

fn main() -> anyhow::Result<()> {
    let Arguments::Serve { inside, name, port } = Arguments::parse();
    inside.enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(workload::serve(&name, port))
}
