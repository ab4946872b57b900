//! What the sources have told: services, DNS sets, and who claims which frontend.

use super::{
    desired::Sets,
    event::{Event, Source},
    model::{Lookup, Member, Service, ServiceName},
    problem::Problem,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
};

/// Everything that was told and still counts.
#[derive(Debug, Default)]
pub(super) struct Observed {
    // Hashed: a snapshot of thousands of services looks each of them up.
    services: HashMap<ServiceName, BTreeMap<Source, Service>>,
    pub(super) sets: Sets,
    users: HashMap<Lookup, BTreeSet<ServiceName>>,
    /// Claimants of each frontend, the one that keeps it first.
    claims: HashMap<SocketAddr, Vec<(Source, ServiceName)>>,
    claimed: HashMap<ServiceName, (Source, BTreeSet<SocketAddr>)>,
    /// Sources whose first snapshot is still awaited.
    pub(super) silent: BTreeSet<Source>,
}

// === impl Observed ===

impl Observed {
    pub(super) fn new(sources: impl IntoIterator<Item = Source>) -> Self {
        Self { silent: sources.into_iter().collect(), ..Self::default() }
    }

    /// Takes an event in; returns the services that it may have changed.
    pub(super) fn observe(&mut self, event: Event) -> BTreeSet<ServiceName> {
        let mut dirty = BTreeSet::new();
        match event {
            Event::Snapshot { source, services } => {
                let named: HashSet<ServiceName> =
                    services.iter().map(|service| service.name.clone()).collect();
                for service in services {
                    dirty.extend(self.set(source, service));
                }
                let gone: Vec<ServiceName> = self
                    .services
                    .iter()
                    .filter(|(name, by)| by.contains_key(&source) && !named.contains(*name))
                    .map(|(name, _)| name.clone())
                    .collect();
                for name in gone {
                    dirty.extend(self.remove(source, name));
                }
                let users = &self.users;
                self.sets.retain(|lookup, _| users.contains_key(lookup));
                self.silent.remove(&source);
            }
            Event::ServiceChanged { source, service } => dirty.extend(self.set(source, service)),
            Event::ServiceRemoved { source, name } => dirty.extend(self.remove(source, name)),
            Event::MembersChanged { lookup, members } => dirty = self.set_members(lookup, members),
        }
        dirty
    }

    fn set(&mut self, source: Source, service: Service) -> Option<ServiceName> {
        let name = service.name.clone();
        let by_source = self.services.entry(name.clone()).or_default();
        if by_source.get(&source) == Some(&service) {
            return None;
        }
        let before = lookups(by_source);
        by_source.insert(source, service);
        let after = lookups(by_source);
        self.update_users(&name, &before, &after);
        Some(name)
    }

    fn remove(&mut self, source: Source, name: ServiceName) -> Option<ServiceName> {
        let by_source = self.services.get_mut(&name)?;
        let before = lookups(by_source);
        by_source.remove(&source)?;
        let after = lookups(by_source);
        if by_source.is_empty() {
            self.services.remove(&name);
        }
        self.update_users(&name, &before, &after);
        Some(name)
    }

    fn update_users(
        &mut self,
        name: &ServiceName,
        before: &BTreeSet<Lookup>,
        after: &BTreeSet<Lookup>,
    ) {
        for lookup in after.difference(before) {
            self.users.entry(lookup.clone()).or_default().insert(name.clone());
        }
        for lookup in before.difference(after) {
            let Some(users) = self.users.get_mut(lookup) else {
                continue;
            };
            users.remove(name);
            if users.is_empty() {
                // Nobody keeps it fresh any more: it is unknown until it is told of anew.
                self.users.remove(lookup);
                self.sets.remove(lookup);
            }
        }
    }

    fn set_members(&mut self, lookup: Lookup, mut members: Vec<Member>) -> BTreeSet<ServiceName> {
        members.sort_unstable();
        members.dedup();
        if self.sets.get(&lookup) == Some(&members) {
            return BTreeSet::new();
        }
        let users = self.users.get(&lookup).cloned().unwrap_or_default();
        self.sets.insert(lookup, members);
        users
    }

    /// The service of that name, as the source declared it that keeps the name.
    pub(super) fn service(&self, name: &ServiceName) -> Option<(Source, &Service)> {
        let (source, service) = self.services.get(name)?.first_key_value()?;
        Some((*source, service))
    }

    /// Every service, in no order.
    pub(super) fn declared(&self) -> impl Iterator<Item = &Service> {
        self.services.values().filter_map(|by_source| Some(by_source.first_key_value()?.1))
    }

    /// Every service by name, as the source declared it that keeps the name.
    pub(super) fn services(&self) -> impl Iterator<Item = (Source, &Service)> {
        let kept = self.services.values().filter_map(|by_source| {
            by_source.first_key_value().map(|(source, service)| (*source, service))
        });
        let mut kept: Vec<(Source, &Service)> = kept.collect();
        kept.sort_unstable_by(|(_, one), (_, other)| one.name.cmp(&other.name));
        kept.into_iter()
    }

    /// The DNS sets that services need.
    pub(super) fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        self.users.keys()
    }

    /// Sets what a service claims; returns those whose frontends change by it.
    pub(super) fn claim(
        &mut self,
        name: &ServiceName,
        source: Source,
        frontends: BTreeSet<SocketAddr>,
    ) -> BTreeSet<ServiceName> {
        let mut affected = BTreeSet::new();
        let (source_before, before) =
            self.claimed.remove(name).unwrap_or_else(|| (source, BTreeSet::new()));
        let moved = source_before != source;
        for address in before.iter().filter(|address| moved || !frontends.contains(*address)) {
            self.unclaim(*address, name, &mut affected);
        }
        for address in frontends.iter().filter(|address| moved || !before.contains(*address)) {
            let claimants = self.claims.entry(*address).or_default();
            let claim = (source, name.clone());
            if let Err(position) = claimants.binary_search(&claim) {
                claimants.insert(position, claim);
                if position == 0
                    && let Some((_, loser)) = claimants.get(1)
                {
                    affected.insert(loser.clone());
                }
            }
        }
        if !frontends.is_empty() {
            self.claimed.insert(name.clone(), (source, frontends));
        }
        affected
    }

    fn unclaim(
        &mut self,
        address: SocketAddr,
        name: &ServiceName,
        affected: &mut BTreeSet<ServiceName>,
    ) {
        let Some(claimants) = self.claims.get_mut(&address) else {
            return;
        };
        if let Some(position) = claimants.iter().position(|(_, claimant)| claimant == name) {
            claimants.remove(position);
            if position == 0
                && let Some((_, heir)) = claimants.first()
            {
                affected.insert(heir.clone());
            }
        }
        if claimants.is_empty() {
            self.claims.remove(&address);
        }
    }

    /// Who keeps a frontend.
    pub(super) fn owner(&self, address: &SocketAddr) -> Option<&ServiceName> {
        self.claims.get(address)?.first().map(|(_, name)| name)
    }

    /// The frontends that a service claims and keeps.
    pub(super) fn owned(&self, name: &ServiceName) -> BTreeSet<SocketAddr> {
        let claimed = self.claimed.get(name).map(|(_, frontends)| frontends);
        let claimed = claimed.into_iter().flatten();
        claimed.filter(|address| self.owner(address) == Some(name)).copied().collect()
    }

    /// Frontends and names that more than one service wants.
    pub(super) fn conflicts(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (frontend, claimants) in &self.claims {
            let Some(((keeper_source, keeper), others)) = claimants.split_first() else {
                continue;
            };
            for (_, service) in others {
                problems.push(Problem::FrontendTaken {
                    service: service.clone(),
                    frontend: *frontend,
                    keeper: keeper.clone(),
                    keeper_source: *keeper_source,
                });
            }
        }
        for (name, by_source) in &self.services {
            let mut sources = by_source.keys();
            let Some(source_kept) = sources.next() else {
                continue;
            };
            for source_ignored in sources {
                problems.push(Problem::NameTaken {
                    service: name.clone(),
                    source_kept: *source_kept,
                    source_ignored: *source_ignored,
                });
            }
        }
        problems
    }
}

fn lookups(by_source: &BTreeMap<Source, Service>) -> BTreeSet<Lookup> {
    by_source.values().flat_map(Service::lookups).cloned().collect()
}
