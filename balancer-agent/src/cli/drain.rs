//! `drain`: takes a backend out of service on this node, or back. New connections go elsewhere at once, and
//! live ones are moved where they can be.

use super::{
    arguments::{self, Global},
    exit::Exit,
    page::{self, Page, Report},
};
use crate::admin::{self, Answer, Drained, Request, client};
use anyhow::bail;
use serde::Serialize;
use std::net::SocketAddr;

#[derive(Debug, Serialize)]
struct DrainReport {
    backend: SocketAddr,
    undo: bool,
    #[serde(flatten)]
    drained: Drained,
}

impl Report for DrainReport {
    fn lay_out(&self, page: &mut Page) {
        let Self { backend, undo, drained } = self;
        let services = page::joined(&drained.services);
        match (drained.changed, undo) {
            (true, false) => page.line(&format!("{backend} takes no new connections on this node")),
            (false, false) => page.line(&format!("{backend} is drained already")),
            (true, true) => page.line(&format!("{backend} is back in service on this node")),
            (false, true) => page.line(&format!("{backend} was not drained by a user")),
        }
        let mut pairs = vec![("services", services)];
        if !undo {
            let stay = drained.connections.saturating_sub(drained.movable);
            let text = match stay {
                0 => format!("{} move elsewhere", drained.connections),
                stay => format!("{} move elsewhere, {stay} stay until they end", drained.movable),
            };
            pairs.push(("connections", text));
        }
        page.pairs(&pairs);
    }
}

pub(super) fn run(global: &Global, flags: &arguments::Drain) -> anyhow::Result<Exit> {
    let socket = admin::socket_path(&global.runtime_dir);
    let arguments::Drain { backend, undo, force } = *flags;
    let Answer::Drained(drained) = client::ask(&socket, &Request::Drain { backend, undo, force })?
    else {
        bail!("the agent answered something else; hint: use the balancer-agent that runs here");
    };
    page::print(global.output, &DrainReport { backend, undo, drained })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_as_golden() {
        let drained = Drained {
            changed: true,
            services: vec!["payments".into()],
            connections: 12,
            movable: 10,
        };
        let backend = "198.51.100.1:50051".parse().unwrap();
        page::check_golden("drain", &DrainReport { backend, undo: false, drained }, None);
    }
}
