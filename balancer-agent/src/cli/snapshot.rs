//! What the maps hold at one moment, read whole; and names that users type, looked up in it.

use super::arguments::Global;
use crate::{
    core::write::KernelState,
    datapath::{maps::Maps, reader::socket_address},
};
use anyhow::Context;
use balancer_common::{
    backend::{Backend, BackendStats},
    service::ServiceStats,
};
use std::{collections::BTreeMap, net::SocketAddr};

/// How alike a name must be to be suggested (Jaro-Winkler; 1 is equal).
const LIKENESS_MIN: f64 = 0.7;
/// Most names that a hint lists.
const HINTED_MAX: usize = 8;

/// The pinned maps and what they held.
pub(super) struct Snapshot {
    pub(super) maps: Maps,
    pub(super) state: KernelState,
}

/// A service that nobody has.
#[derive(Debug, thiserror::Error)]
#[error("no service `{name}`; hint: {hint}")]
pub(super) struct NoService {
    name: String,
    hint: String,
}

impl Snapshot {
    /// Reads what is loaded.
    pub(super) fn read(global: &Global) -> anyhow::Result<Self> {
        let maps = Maps::open_loaded(&global.pins())?;
        let state = maps.read_state().context("read the kernel's maps")?;
        Ok(Self { maps, state })
    }

    /// The id of a service that the user named.
    pub(super) fn service(&self, name: &str) -> Result<u32, NoService> {
        let names = || self.state.services.iter().map(|(id, s)| (*id, s.name.as_str()));
        if let Some((id, _)) = names().find(|(_, known)| *known == name) {
            return Ok(id);
        }
        Err(NoService {
            name: name.to_owned(),
            hint: hint(name, &names().map(|(_, known)| known).collect::<Vec<_>>()),
        })
    }

    /// The ids of the services meant: one, or all.
    pub(super) fn services(&self, name: Option<&str>) -> Result<Vec<u32>, NoService> {
        match name {
            Some(name) => Ok(vec![self.service(name)?]),
            None => Ok(self.by_name()),
        }
    }

    fn by_name(&self) -> Vec<u32> {
        let mut ids: Vec<_> = self.state.services.keys().copied().collect();
        ids.sort_by_key(|id| &self.state.services[id].name);
        ids
    }

    /// The name of a service, or its number if it has gone.
    pub(super) fn service_name(&self, id: u32) -> String {
        self.state
            .services
            .get(&id)
            .map_or_else(|| format!("#{id}"), |service| service.name.clone())
    }

    /// What clients of a service dial.
    pub(super) fn frontends(&self, service: u32) -> Vec<SocketAddr> {
        let frontends = self.state.frontends.iter();
        frontends.filter(|(_, owner)| **owner == service).map(|(address, _)| *address).collect()
    }

    /// The backends of a service, those that have gone included.
    pub(super) fn backends(&self, service: u32) -> BTreeMap<u32, &Backend> {
        let backends = self.state.backends.iter();
        backends
            .filter(|(_, record)| record.service == service)
            .map(|(id, record)| (*id, record))
            .collect()
    }

    /// The counters of a backend.
    pub(super) fn backend_stats(&self, id: u32) -> anyhow::Result<BackendStats> {
        self.maps
            .read_backend_stats(id)
            .with_context(|| format!("read the counters of backend {id}"))
    }

    /// The counters of a service.
    pub(super) fn service_stats(&self, id: u32) -> anyhow::Result<ServiceStats> {
        let stats = self.maps.service_stats.get(&id, 0);
        Ok(stats.with_context(|| format!("read the counters of service {id}"))?.0)
    }
}

/// Where a backend listens.
pub(super) fn listens(backend: &Backend) -> SocketAddr {
    socket_address(backend.address, backend.port_be)
}

fn hint(name: &str, known: &[&str]) -> String {
    let likeness = |known: &str| strsim::jaro_winkler(name, known);
    let nearest = known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .filter(|known| likeness(known) >= LIKENESS_MIN);
    let mut listed: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    listed.sort();
    let rest = listed.len().saturating_sub(HINTED_MAX);
    listed.truncate(HINTED_MAX);
    let mut text = match nearest {
        Some(nearest) => format!("is `{nearest}` meant? "),
        None => String::new(),
    };
    if listed.is_empty() {
        return text + "the kernel holds no services";
    }
    text += "known services are ";
    text += &listed.join(", ");
    if rest > 0 {
        text = format!("{text} and {rest} more (`balancer-agent services`)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::hint;

    #[test]
    fn a_misspelt_name_is_recognised() {
        assert_eq!(
            hint("paymets", &["search", "payments"]),
            "is `payments` meant? known services are `payments`, `search`"
        );
        assert_eq!(hint("x", &["search"]), "known services are `search`");
        assert_eq!(hint("x", &[]), "the kernel holds no services");
        let many: Vec<String> = (0..20).map(|n| format!("service-{n:02}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let text = hint("x", &many);
        assert!(text.ends_with("`service-07` and 12 more (`balancer-agent services`)"), "{text}");
    }
}
