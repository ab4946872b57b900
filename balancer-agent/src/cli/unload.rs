//! `unload`: everything of ours leaves the kernel, and nothing of others. Connections that were moved depend
//! on the programs until they end: those are waited for, or named.

use super::{
    arguments::{self, Global},
    exit::Exit,
    page::{self, Page, Report},
    pod::{Pod, Pods},
};
use crate::datapath::{
    bpffs::PinRoot,
    http2,
    maps::{Maps, OpenError},
    reader::socket_address,
};
use anyhow::{Context, bail};
use balancer_common::http2::flow::Visibility;
use serde::Serialize;
use std::{
    net::SocketAddr,
    path::PathBuf,
    thread::park_timeout,
    time::{Duration, Instant},
};

/// How often moved connections are looked at; that they end raises no event for a command.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Serialize)]
struct UnloadReport {
    pin_root: PathBuf,
    /// Whether there was anything.
    removed: bool,
    /// Connections that were moved, and break now.
    broken: Vec<Shifted>,
}

/// A connection whose bytes the programs shift, since it was moved.
#[derive(Clone, Debug, Serialize)]
struct Shifted {
    /// The socket's cookie, as `ss -e` shows it.
    cookie: u64,
    pod: Pod,
    client: SocketAddr,
    backend: SocketAddr,
    /// Streams that are open.
    in_flight: u32,
}

impl Report for UnloadReport {
    fn lay_out(&self, page: &mut Page) {
        if !self.broken.is_empty() {
            let row = |it: &Shifted| {
                vec![
                    format!("{:x}", it.cookie),
                    it.pod.to_string(),
                    it.client.to_string(),
                    it.backend.to_string(),
                    it.in_flight.to_string(),
                ]
            };
            let rows = self.broken.iter().map(row).collect();
            page.table(&["cookie", "~pod", "client", "backend", "#streams"], rows);
            page.line("these connections were moved, and break now");
        }
        let path = self.pin_root.display();
        page.line(&if self.removed {
            format!("removed all programs and maps of {path}")
        } else {
            format!("nothing is pinned at {path}")
        });
    }
}

pub(super) fn run(global: &Global, flags: arguments::Unload) -> anyhow::Result<Exit> {
    let pins = global.pins();
    let (mut removed, mut broken) = (false, Vec::new());
    if pins.path().exists() {
        // A running agent would attach its programs again.
        let lock = pins.lock()?;
        broken = if flags.force {
            shifted(global, &pins)?
        } else {
            wait(global, &pins, flags.timeout)?;
            Vec::new()
        };
        removed = pins.remove()?;
        drop(lock);
    }
    let pin_root = pins.path().into();
    page::print(global.output, &UnloadReport { pin_root, removed, broken })?;
    Ok(Exit::Ok)
}

/// Waits until no connection depends on the programs any more.
fn wait(global: &Global, pins: &PinRoot, timeout: Option<Duration>) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut told = 0;
    loop {
        let left = shifted(global, pins)?;
        let Some(first) = left.first() else { return Ok(()) };
        if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
            bail!(
                "{} connections that were moved are still open (one is {} to {}, {} streams); hint: \
                 wait for them to end, or --force breaks them",
                left.len(),
                first.client,
                first.backend,
                first.in_flight
            );
        }
        if told != left.len() {
            told = left.len();
            eprintln!(
                "waits for {told} connections that were moved, and break without the programs; \
                 --force does not wait"
            );
        }
        park_timeout(LOOK);
    }
}

/// Live connections that were moved. Without an interface that leads to the programs there are none.
fn shifted(global: &Global, pins: &PinRoot) -> anyhow::Result<Vec<Shifted>> {
    if http2::taps(pins) == 0 {
        return Ok(Vec::new());
    }
    let maps = match Maps::open_loaded(pins) {
        Ok(maps) => maps,
        // Those of another version cannot be asked.
        Err(OpenError::NotLoaded { .. } | OpenError::OtherAbi { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let flows = maps.read_http2_flows().context("read the HTTP/2 connections")?;
    let mut pods = Pods::open(global, &maps)?;
    let moved = flows.into_iter().filter(|(_, (_, flow))| flow.visibility() == Visibility::Moved);
    let shifted = moved.map(|(cookie, (key, flow))| Shifted {
        cookie,
        pod: pods.pod(flow.pod),
        client: socket_address(key.client, key.client_port_be),
        backend: socket_address(key.server, key.server_port_be),
        in_flight: flow.in_flight(),
    });
    Ok(shifted.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_as_golden() {
        let broken = Shifted {
            cookie: 0x4a1,
            pod: Pod { path: Some("/kubepods/shop".into()), ..Pod::unknown(7) },
            client: "10.244.0.7:40000".parse().unwrap(),
            backend: "198.51.100.1:50051".parse().unwrap(),
            in_flight: 2,
        };
        let report = UnloadReport {
            pin_root: "/sys/fs/bpf/balancer".into(),
            removed: true,
            broken: vec![broken],
        };
        page::check_golden("unload", &report, None);
    }
}
