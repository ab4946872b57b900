//! This node's rank: its place among all Nodes by name, so that many agents begin their schedules at
//! different backends without talking to each other.

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, api::ListParams};
use std::time::Duration;

/// How long the list may take: nothing waits for a rank for long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks for the names of all Nodes, from the API server's cache. `None` if it does not tell, which is
/// logged: the rank by host name stays.
pub(super) async fn ask(client: Client, own: &str) -> Option<u32> {
    // Metadata alone, at any version: the cheapest list that there is.
    let nodes: Api<Node> = Api::all(client);
    let list = ListParams::default().match_any();
    let cause = match tokio::time::timeout(PATIENCE, nodes.list_metadata(&list)).await {
        Ok(Ok(nodes)) => {
            let names = nodes.items.iter().filter_map(|node| node.metadata.name.as_deref());
            return rank(names, own);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer after {} s", PATIENCE.as_secs()),
    };
    tracing::info!(cause, "the Nodes are not known: this node's rank is made from its host name");
    None
}

/// How many names come before the own one; `None` where that is not among them.
fn rank<'n>(names: impl Iterator<Item = &'n str>, own: &str) -> Option<u32> {
    let (mut before, mut found) = (0, false);
    for name in names {
        before += u32::from(name < own);
        found |= name == own;
    }
    found.then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_dense_and_do_not_depend_on_the_order() {
        let names = ["node-c", "node-a", "node-d", "node-b"];
        let ranks: Vec<_> = ["node-a", "node-b", "node-c", "node-d"]
            .into_iter()
            .map(|own| rank(names.into_iter(), own))
            .collect();
        assert_eq!(ranks, [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(rank(names.into_iter(), "node-e"), None);
    }
}
