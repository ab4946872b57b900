//! `balancer-container PLAN`: becomes a program in a container, see `balancer_tests::container`. What follows the
//! plan, a document of JSON, is how the program would be started on the node, and of no use in there.

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let plan = std::env::args().nth(1).context("usage: balancer-container PLAN [...]")?;
    let plan = serde_json::from_str(&plan).context("read the plan")?;
    balancer_tests::container::enter(&plan)
}
