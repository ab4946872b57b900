//! `balancer-dialer CGROUP`: connects from a pod's cgroup as a test asks, see `balancer_tests::dialer`.

use anyhow::Context;
use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let cgroup = std::env::args_os().nth(1).context("usage: balancer-dialer CGROUP")?;
    balancer_tests::dialer::serve::run(&PathBuf::from(cgroup))
}
