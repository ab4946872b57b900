//! One traced decision, with the names of what it is about.

use crate::{
    cli::{
        arguments::Global,
        page::or_dash,
        pod::{Pod, Pods},
        status::effect_name,
    },
    datapath::{maps::Maps, raw::Raw, reader::socket_address, trace::monotonic_ns},
};
use balancer_common::{backend::BACKEND_NONE, reason::Reason, trace::TraceEvent};
use serde::Serialize;
use std::{
    fmt, fs,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

/// Where events' numbers are given names.
pub(super) struct Names {
    maps: Maps,
    pub(super) pods: Pods,
}

impl Names {
    pub(super) fn open(global: &Global) -> anyhow::Result<Self> {
        let maps = Maps::open_loaded(&global.pins())?;
        let pods = Pods::open(global, &maps)?;
        Ok(Self { maps, pods })
    }

    fn service(&self, id: u32) -> Option<String> {
        let name = self.maps.service_names.get(&Raw(id), 0).ok()?;
        Some(name.0.to_string())
    }

    fn backend(&self, id: u32) -> Option<SocketAddr> {
        let record = self.maps.backends.get(&id, 0).ok()?.0;
        let known = id != BACKEND_NONE && record.state != 0;
        known.then(|| socket_address(record.address, record.port_be))
    }
}

/// A decision, as people and programs read it.
#[derive(Debug, Serialize)]
pub(super) struct EventReport {
    /// RFC 3339.
    time: String,
    reason: String,
    effect: &'static str,
    service: Option<String>,
    frontend: SocketAddr,
    backend: Option<SocketAddr>,
    /// None where no slot was taken.
    slot: Option<u32>,
    slots: Option<u32>,
    generation: Option<u32>,
    pod: Pod,
    cookie: u64,
    /// None on kernels that do not tell, and for what happens outside the client's process.
    pid: Option<u32>,
    command: Option<String>,
}

impl EventReport {
    pub(super) fn new(event: &TraceEvent, names: &mut Names) -> Self {
        let reason = Reason::from_code(event.reason);
        let picked = event.slots != 0;
        let pid = Some(event.pid).filter(|pid| *pid != 0);
        Self {
            time: wall_clock(event.time_ns),
            // A newer program may have reasons that this binary does not know.
            reason: reason.map_or_else(|| format!("code-{}", event.reason), |it| it.name().into()),
            effect: reason.map_or("unknown", |reason| effect_name(reason.effect())),
            service: names.service(event.service),
            frontend: socket_address(event.frontend, event.frontend_port_be),
            backend: names.backend(event.backend),
            slot: picked.then_some(event.slot),
            slots: picked.then_some(event.slots),
            generation: picked.then_some(event.generation),
            pod: names.pods.pod(event.pod),
            cookie: event.cookie,
            pid,
            command: pid.and_then(command),
        }
    }
}

impl fmt::Display for EventReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, reason, .. } = self;
        let (service, backend) = (or_dash(self.service.as_ref()), or_dash(self.backend));
        write!(f, "{time} {reason:<15} {:<9} ", self.effect)?;
        write!(f, "{service} {} -> {backend}", self.frontend)?;
        if let (Some(slot), Some(slots), Some(generation)) =
            (self.slot, self.slots, self.generation)
        {
            write!(f, " slot {slot} of {slots}, generation {generation}")?;
        }
        write!(f, " pod {}", self.pod)?;
        if let Some(pid) = self.pid {
            write!(f, " pid {pid} ({})", or_dash(self.command.as_ref()))?;
        }
        Ok(())
    }
}

/// When something happened that the kernel gave a monotonic time.
fn wall_clock(time_ns: u64) -> String {
    let ago = Duration::from_nanos(monotonic_ns().saturating_sub(time_ns));
    let now = SystemTime::now();
    humantime::format_rfc3339_millis(now.checked_sub(ago).unwrap_or(now)).to_string()
}

/// What a process runs, if it is still there.
fn command(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let mut event = EventReport {
            time: wall_clock(monotonic_ns()),
            reason: "picked".into(),
            effect: "balanced",
            service: Some("payments".into()),
            frontend: "192.0.2.10:50051".parse().unwrap(),
            backend: Some("198.51.100.1:50051".parse().unwrap()),
            slot: Some(2),
            slots: Some(8),
            generation: Some(5),
            pod: Pod { path: Some("/kubepods/shop".into()), ..Pod::unknown(7) },
            cookie: 1,
            pid: Some(std::process::id()),
            command: command(std::process::id()),
        };
        assert!(event.command.is_some());
        event.command = Some("client".into());
        event.pid = Some(4711);
        let text = event.to_string();
        let (_, line) = text.split_once(' ').unwrap();
        assert_eq!(
            line,
            "picked          balanced  payments 192.0.2.10:50051 -> 198.51.100.1:50051 \
             slot 2 of 8, generation 5 pod /kubepods/shop pid 4711 (client)"
        );
        assert!(serde_json::to_string(&event).unwrap().lines().count() == 1);
    }

    #[test]
    fn monotonic_times_become_wall_clock() {
        let second_ago = monotonic_ns() - 1_000_000_000;
        let then = humantime::parse_rfc3339(&wall_clock(second_ago)).unwrap();
        let age = SystemTime::now().duration_since(then).unwrap();
        assert!(age >= Duration::from_millis(999), "{age:?}");
    }
}
