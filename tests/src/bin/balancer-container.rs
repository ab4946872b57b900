//! `balancer-container PLAN [COMMAND...]`: becomes a program in a container, see `balancer_tests::container`. The
//! plan is a document of JSON. What follows it is how the program would be started on the node, which is of use
//! only where the plan does not say what runs.

use anyhow::Context;
use balancer_tests::container::{self, Plan};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let plan = arguments.next().context("usage: balancer-container PLAN [COMMAND...]")?;
    let mut plan: Plan = serde_json::from_str(&plan).context("read the plan")?;
    if plan.command.is_empty() {
        plan.command = arguments.collect();
    }
    container::enter(&plan)
}
