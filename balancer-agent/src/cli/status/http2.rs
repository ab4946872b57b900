//! What `status` shows of HTTP/2 connections.

use super::super::page::Page;
use crate::admin::Http2Status;
use std::collections::BTreeMap;

/// Shows whose frames are followed, and what was moved.
pub(super) fn lay_out(status: &Http2Status, page: &mut Page) {
    let all = &status.all;
    let nothing_to_tell = all.connections.is_empty()
        && all.begun.is_empty()
        && status.interfaces == 0
        && status.latest_error.is_none();
    if nothing_to_tell {
        return;
    }
    page.heading("HTTP/2");
    let begun: u64 = all.begun.values().sum();
    let mut moves = format!("{begun} begun");
    if begun > 0 {
        moves = format!("{moves} ({})", listed(&all.begun));
    }
    moves = format!("{moves}, {} made, {} given up", all.made, all.given_up);
    let mut pairs = vec![
        ("connections", listed(&all.connections)),
        ("clients", format!("{}, by {} interfaces", status.clients, status.interfaces)),
        ("moves", moves),
    ];
    if all.stubborn > 0 {
        let text = format!("{} connections whose clients were told to leave", all.stubborn);
        pairs.push(("stubborn", text));
    }
    if let Some(error) = &status.latest_error {
        pairs.push(("latest error", error.clone()));
    }
    page.pairs(&pairs);
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "none".into();
    }
    let each: Vec<_> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    each.join(", ")
}
