//! One round of queries for one set: A and AAAA of a host, or SRV and its targets.

use super::{
    failure::{Failure, FailureKind},
    records::{self, Addresses, Family, Refusal, Target},
    servers::{Reply, Servers},
};
use crate::core::{
    model::Lookup,
    resolution::{Answer, Coverage, MEMBERS_MAX},
};
use hickory_resolver::proto::rr::{Name, RecordType};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinSet;

/// What a round brought, and what it met.
pub(super) struct Round {
    pub(super) answer: Answer,
    pub(super) refused: Vec<(SocketAddr, Refusal)>,
    pub(super) failures: Vec<Failure>,
    pub(super) queries: u64,
    /// SRV targets beyond the bound of a set.
    pub(super) targets_dropped: usize,
    /// TTL of records, and of the news that there are none.
    ttl: Option<Duration>,
    ttl_negative: Option<Duration>,
}

type Resolved = BTreeMap<(Name, Family), Addresses>;

/// Asks for everything that `lookup` is made of. Names are absolute: search domains have no say.
pub(super) async fn ask(servers: &Arc<Servers>, lookup: &Lookup) -> Round {
    let mut round = Round::new();
    match lookup {
        Lookup::Host { host, port } => match absolute(host) {
            Ok(name) => round.host(servers, name, *port).await,
            Err(failure) => round.fail(failure, &Family::ALL),
        },
        Lookup::Srv { name } => match absolute(name) {
            Ok(name) => round.srv(servers, name).await,
            Err(failure) => round.fail(failure, &Family::ALL),
        },
    }
    // A negative TTL counts only if there is nothing else: a missing AAAA record must not make the
    // A records be asked for sooner or later than they say.
    round.answer.ttl = round.ttl.or(round.ttl_negative);
    round
}

fn absolute(text: &str) -> Result<Name, Failure> {
    let mut name = Name::from_utf8(text).map_err(|cause| Failure {
        kind: FailureKind::Name,
        text: format!("`{text}` is no DNS name: {cause}; hint: correct it in the configuration"),
    })?;
    name.set_fqdn(true);
    Ok(name)
}

// === impl Round ===

impl Round {
    fn new() -> Self {
        let answer = Answer { v4: Coverage::Complete, v6: Coverage::Complete, ..Answer::FAILED };
        Self {
            answer,
            refused: Vec::new(),
            failures: Vec::new(),
            queries: 0,
            targets_dropped: 0,
            ttl: None,
            ttl_negative: None,
        }
    }

    /// A round in which nobody could be asked.
    pub(super) fn failed(failure: Failure) -> Self {
        let mut round = Self::new();
        round.fail(failure, &Family::ALL);
        round
    }

    async fn host(&mut self, servers: &Servers, name: Name, port: u16) {
        self.queries += 2;
        let (v4, v6) = tokio::join!(
            servers.lookup(name.clone(), RecordType::A),
            servers.lookup(name, RecordType::AAAA),
        );
        for (family, reply) in Family::ALL.into_iter().zip([v4, v6]) {
            for ip in self.addresses(family, reply).ips {
                self.take(SocketAddr::new(ip, port), 1);
            }
        }
    }

    async fn srv(&mut self, servers: &Arc<Servers>, name: Name) {
        self.queries += 1;
        let lookup = match servers.lookup(name, RecordType::SRV).await {
            Ok(Reply::Records(lookup)) => lookup,
            Ok(Reply::Nothing { ttl }) => return self.note_ttl_negative(ttl),
            Err(failure) => return self.fail(failure, &Family::ALL),
        };
        self.note_ttl(records::ttl_min(lookup.answers()));
        let mut targets = records::targets(lookup.answers());
        self.targets_dropped = targets.len().saturating_sub(MEMBERS_MAX);
        targets.truncate(MEMBERS_MAX);
        let mut resolved = records::glue(lookup.additionals());
        let missing = unresolved(&targets, &resolved);
        self.resolve(servers, missing, &mut resolved).await;
        self.take_targets(&targets, &resolved);
    }

    /// Looks up the addresses that did not come along with the SRV records.
    async fn resolve(
        &mut self,
        servers: &Arc<Servers>,
        missing: BTreeSet<(Name, Family)>,
        resolved: &mut Resolved,
    ) {
        let mut queries = JoinSet::new();
        for (name, family) in missing {
            self.queries += 1;
            let servers = Arc::clone(servers);
            queries.spawn(async move {
                let reply = servers.lookup(name.clone(), family.record_type()).await;
                (name, family, reply)
            });
        }
        while let Some(joined) = queries.join_next().await {
            match joined {
                Ok((name, family, reply)) => {
                    let addresses = self.addresses(family, reply);
                    resolved.insert((name, family), addresses);
                }
                Err(error) => {
                    let text = format!("the query for an SRV target ended early: {error}");
                    self.fail(Failure { kind: FailureKind::Protocol, text }, &Family::ALL);
                }
            }
        }
    }

    fn take_targets(&mut self, targets: &[Target], resolved: &Resolved) {
        let (mut taken, mut shares) = (Vec::new(), Vec::new());
        for target in targets {
            for family in Family::ALL {
                let Some(addresses) = resolved.get(&(target.name.clone(), family)) else {
                    continue;
                };
                self.note_ttl(addresses.ttl);
                let ips: BTreeSet<IpAddr> = addresses.ips.iter().copied().collect();
                for ip in &ips {
                    taken.push(SocketAddr::new(*ip, target.port));
                    shares.push((target.weight, ips.len()));
                }
            }
        }
        for (address, weight) in taken.into_iter().zip(records::weights(&shares)) {
            self.take(address, weight);
        }
    }

    /// What `reply` says about the addresses of `family`.
    fn addresses(&mut self, family: Family, reply: Result<Reply, Failure>) -> Addresses {
        match reply {
            Ok(Reply::Records(lookup)) => {
                let addresses = records::addresses(lookup.answers(), family);
                self.note_ttl(addresses.ttl);
                addresses
            }
            Ok(Reply::Nothing { ttl }) => {
                self.note_ttl_negative(ttl);
                Addresses::default()
            }
            Err(failure) => {
                self.fail(failure, &[family]);
                Addresses::default()
            }
        }
    }

    fn take(&mut self, address: SocketAddr, weight: u32) {
        match Refusal::of(address) {
            Some(refusal) => self.refused.push((address, refusal)),
            None => self.answer.found.push((address, weight)),
        }
    }

    fn fail(&mut self, failure: Failure, families: &[Family]) {
        for family in families {
            match family {
                Family::V4 => self.answer.v4 = Coverage::Unknown,
                Family::V6 => self.answer.v6 = Coverage::Unknown,
            }
        }
        self.failures.push(failure);
    }

    fn note_ttl(&mut self, ttl: Option<Duration>) {
        self.ttl = self.ttl.into_iter().chain(ttl).min();
    }

    fn note_ttl_negative(&mut self, ttl: Option<Duration>) {
        self.ttl_negative = self.ttl_negative.into_iter().chain(ttl).min();
    }
}

/// The names and families that are still to be looked up. A target that came with addresses of
/// one family only is taken to have no others, unless the server sent the other family along for
/// some other target: RFC 2782 lets a server leave out what does not fit.
fn unresolved(targets: &[Target], resolved: &Resolved) -> BTreeSet<(Name, Family)> {
    let in_use = |family| resolved.keys().any(|(_, known)| *known == family);
    let mut missing = BTreeSet::new();
    for target in targets {
        let has = |family| resolved.contains_key(&(target.name.clone(), family));
        let alone = !Family::ALL.into_iter().any(has);
        for family in Family::ALL {
            if !has(family) && (alone || in_use(family)) {
                missing.insert((target.name.clone(), family));
            }
        }
    }
    missing
}
