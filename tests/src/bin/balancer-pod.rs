//! The process in a pod of the tests' cluster, see `balancer_tests::cluster::workload`.

use balancer_tests::cluster::{
    caller::{self, CallPlan},
    workload::{self, Inside},
};
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
    /// Hold the pod's namespace until standard input ends, as the container of its sandbox does.
    Pause {
        #[command(flatten)]
        inside: Inside,
    },
    /// Call echo servers until standard input ends.
    Call {
        #[command(flatten)]
        inside: Inside,
        #[command(flatten)]
        plan: CallPlan,
    },
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (Arguments::Serve { inside, .. }
    | Arguments::Pause { inside }
    | Arguments::Call { inside, .. }) = &arguments;
    // Before there are threads, which would stay outside.
    inside.enter()?;
    if matches!(arguments, Arguments::Pause { .. }) {
        return workload::pause();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments {
        Arguments::Serve { name, port, .. } => runtime.block_on(workload::serve(&name, port)),
        Arguments::Pause { .. } => Ok(()),
        Arguments::Call { inside, plan } => runtime.block_on(caller::call(&inside, plan)),
    }
}
