//! Reads the pinned maps for a scrape, beside the daemon's loop rather than in it.

use super::{
    ledger::{Account, Ledger},
    view::{BackendView, Counts, KernelView, ServiceView},
};
use crate::{
    core::requests,
    datapath::{
        fill::{self, Counted},
        maps::Maps,
        reader::socket_address,
    },
};
use aya::maps::MapError;
use balancer_common::{
    backend::Backend,
    service::{SERVICE_SELF_TEST, SERVICE_TRACKED, SERVICE_VALID, Service},
};
use std::{collections::BTreeMap, sync::Arc};

/// Handles of its own on the maps, and what earlier looks found.
pub(super) struct KernelReader {
    maps: Maps,
    ledger: Ledger,
}

/// Valid services by id: name and record.
type Services = BTreeMap<u32, (Arc<str>, Service)>;

// === impl KernelReader ===

impl KernelReader {
    pub(super) fn new(maps: Maps) -> Self {
        Self { maps, ledger: Ledger::default() }
    }

    /// Looks at everything; the first `backends_max` backends are told one by one.
    pub(super) fn read(&mut self, backends_max: usize) -> Result<KernelView, MapError> {
        let services = self.read_services()?;
        let records = self.maps.read_backends()?;
        let mut view = KernelView {
            reasons: self.maps.read_reasons()?,
            tables: fill::tables(&self.maps, &self.count(&services, &records)?)?,
            ..KernelView::default()
        };
        for (id, (name, record)) in &services {
            self.ledger.service(name, *id, self.maps.service_stats.get(id, 0)?.0);
            let tracked = record.flags & SERVICE_TRACKED != 0;
            let service = ServiceView { tracked, ..ServiceView::default() };
            view.services.insert(Arc::clone(name), service);
        }
        for (id, record) in &records {
            let Some((name, service)) = services.get(&record.service) else { continue };
            let stats = self.maps.read_backend_stats(*id)?;
            let counts = Counts::from(stats);
            self.ledger.backend(name, *id, record.incarnation, counts);
            let backend = BackendView {
                tracked: service.flags & SERVICE_TRACKED != 0,
                state: record.state,
                weight: record.weight,
                connections: stats.active,
                counts,
                srtt_us: stats.srtt_us,
            };
            let address = socket_address(record.address, record.port_be);
            view.add(name, address, backend, backends_max);
        }
        self.read_requests(&services, &records, &mut view)?;
        self.close_account(&records);
        for (name, service) in &mut view.services {
            let Account { counts, untouched, socket_option_failures } = self.ledger.account(name);
            service.counts = counts;
            service.untouched = untouched;
            service.socket_option_failures = socket_option_failures;
        }
        Ok(view)
    }

    fn read_services(&self) -> Result<Services, MapError> {
        let mut services = Services::new();
        for entry in &self.maps.service_names {
            let (id, name) = entry?;
            let record = self.maps.services.get(&id.0, 0)?.0;
            if id.0 != SERVICE_SELF_TEST && record.flags & SERVICE_VALID != 0 {
                services.insert(id.0, (name.0.to_string().into(), record));
            }
        }
        Ok(services)
    }

    /// Adds the requests of backends that have series of their own.
    fn read_requests(
        &self,
        services: &Services,
        records: &BTreeMap<u32, Backend>,
        view: &mut KernelView,
    ) -> Result<(), MapError> {
        let read = self.maps.read_http2_counts()?;
        for ((service, backend), counted) in requests::by_backend(&read.flows, &read.totals) {
            let Some((name, _)) = services.get(&service) else { continue };
            let Some(record) = records.get(&backend) else { continue };
            let key = (Arc::clone(name), socket_address(record.address, record.port_be));
            if view.backends.contains_key(&key) {
                view.requests.entry(key).or_default().merge(&counted);
            }
        }
        Ok(())
    }

    fn close_account(&mut self, records: &BTreeMap<u32, Backend>) {
        let maps = &self.maps;
        self.ledger.close(|id| {
            let free = !records.contains_key(&id);
            free.then(|| maps.read_backend_stats(id).ok().map(Counts::from)).flatten()
        });
    }

    fn count(
        &self,
        services: &Services,
        records: &BTreeMap<u32, Backend>,
    ) -> Result<Counted, MapError> {
        let maps = &self.maps;
        Ok(Counted {
            services: services.len(),
            backends: records.len(),
            frontends_v4: fill::count(maps.frontends_v4.keys())?,
            frontends_v6: fill::count(maps.frontends_v6.keys())?,
            chunks: services.values().map(|(_, record)| fill::chunks(record.bank())).sum(),
            connections: maps.flows.count()?,
        })
    }
}
