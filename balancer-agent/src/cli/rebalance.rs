//! `rebalance`: moves live connections of a service until its backends have their shares.

use super::{
    arguments::{self, Global},
    exit::Exit,
    page::{self, Page, Report},
    pod::{Pod, Pods},
};
use crate::{
    admin::{self, Answer, Request, client},
    datapath::maps::Maps,
};
use anyhow::bail;
use serde::Serialize;
use std::net::SocketAddr;

#[derive(Debug, Serialize)]
struct RebalanceReport {
    service: String,
    dry_run: bool,
    connections: u64,
    unmovable: u64,
    moves: Vec<MoveRow>,
}

#[derive(Debug, Serialize)]
struct MoveRow {
    /// The socket's cookie, as `ss -e` shows it.
    cookie: u64,
    pod: Pod,
    from: SocketAddr,
    /// None if nobody serves.
    to: Option<SocketAddr>,
}

impl Report for RebalanceReport {
    fn lay_out(&self, page: &mut Page) {
        let row = |it: &MoveRow| {
            let cookie = format!("{:x}", it.cookie);
            vec![cookie, it.pod.to_string(), it.from.to_string(), page::or_dash(it.to)]
        };
        let rows: Vec<_> = self.moves.iter().map(row).collect();
        if !rows.is_empty() {
            page.table(&["cookie", "~pod", "from", "to"], rows);
        }
        let (count, all) = (self.moves.len(), self.connections);
        let mut text = match (count, self.dry_run) {
            (0, _) => format!("balanced: none of {all} connections has to move"),
            (_, true) => format!("{count} of {all} connections would move"),
            (_, false) => format!("{count} of {all} connections are asked to move"),
        };
        if self.unmovable > 0 {
            text = format!("{text}; {} cannot, see `balancer-agent connections`", self.unmovable);
        }
        page.line(&text);
    }
}

pub(super) fn run(global: &Global, flags: &arguments::Rebalance) -> anyhow::Result<Exit> {
    let socket = admin::socket_path(&global.runtime_dir);
    let (service, dry_run) = (flags.service.clone(), flags.dry_run);
    let request = Request::Rebalance { service: service.clone(), dry_run };
    let Answer::Moves { moves, connections, unmovable } = client::ask(&socket, &request)? else {
        bail!("the agent answered something else; hint: use the balancer-agent that runs here");
    };
    let maps = Maps::open_loaded(&global.pins())?;
    let mut pods = Pods::open(global, &maps)?;
    let row = |it: admin::PlannedMove| MoveRow {
        cookie: it.cookie,
        pod: pods.pod(it.pod),
        from: it.from,
        to: it.to,
    };
    let moves = moves.into_iter().map(row).collect();
    let report = RebalanceReport { service, dry_run, connections, unmovable, moves };
    page::print(global.output, &report)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_as_golden() {
        let row = |cookie, to: Option<&str>| MoveRow {
            cookie,
            pod: Pod { path: Some("/kubepods/shop".into()), ..Pod::unknown(7) },
            from: "198.51.100.1:50051".parse().unwrap(),
            to: to.map(|address| address.parse().unwrap()),
        };
        let report = RebalanceReport {
            service: "payments".into(),
            dry_run: true,
            connections: 32,
            unmovable: 2,
            moves: vec![row(0x4a1, Some("198.51.100.2:50051")), row(0x4a2, None)],
        };
        page::check_golden("rebalance", &report, None);
    }
}
