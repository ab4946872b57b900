//! A running DNS source: what it is told to follow, and what it emits.

use crate::server::{DnsServer, PATIENCE};
use balancer_agent::{
    config::DnsSettings,
    core::{
        event::Event,
        model::{Lookup, Member, Presence},
    },
    sources::dns::{DnsHealth, DnsSource, FailureKind, LookupHealth, Wanted},
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

pub(crate) const HOUR: Duration = Duration::from_hours(1);

pub(crate) struct Source {
    pub(crate) health: DnsHealth,
    wanted: watch::Sender<Wanted>,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

/// Asks anew every 50 to 100 ms, removes after 200 ms, and otherwise has all the time it needs.
pub(crate) fn settings(servers: &[&DnsServer]) -> DnsSettings {
    DnsSettings {
        servers: servers.iter().map(|server| server.address).collect(),
        ttl_min: Duration::from_millis(50),
        ttl_max: Duration::from_millis(100),
        timeout: Duration::from_secs(10),
        attempts: 1,
        serve_stale: HOUR,
        removal_delay: Duration::from_millis(200),
        grace: HOUR,
    }
}

pub(crate) fn host(name: &str, port: u16) -> Lookup {
    Lookup::Host { host: name.into(), port }
}

pub(crate) fn service(name: &str) -> Lookup {
    Lookup::Srv { name: name.into() }
}

/// Present addresses, then departed ones, as text.
pub(crate) fn split(members: &[Member]) -> (Vec<String>, Vec<String>) {
    let of = |presence| {
        let members = members.iter().filter(move |member| member.presence == presence);
        members.map(|member| member.address.to_string()).collect()
    };
    (of(Presence::Present), of(Presence::Departed))
}

pub(crate) fn present(addresses: &[&str]) -> (Vec<String>, Vec<String>) {
    both(addresses, &[])
}

pub(crate) fn both(present: &[&str], departed: &[&str]) -> (Vec<String>, Vec<String>) {
    let text = |addresses: &[&str]| {
        let mut addresses: Vec<SocketAddr> =
            addresses.iter().map(|address| address.parse().unwrap()).collect();
        addresses.sort_unstable();
        addresses.iter().map(ToString::to_string).collect()
    };
    (text(present), text(departed))
}

// === impl Source ===

impl Source {
    pub(crate) fn start(settings: DnsSettings, lookups: &[Lookup]) -> Self {
        Self::run(DnsSource::default(), settings, lookups)
    }

    pub(crate) fn run(source: DnsSource, settings: DnsSettings, lookups: &[Lookup]) -> Self {
        let wanted = Wanted { settings, lookups: lookups.iter().cloned().collect() };
        let (wanted, receiver) = watch::channel(wanted);
        let (sender, events) = mpsc::channel(16);
        let health = source.health();
        let task = tokio::spawn(source.run(receiver, sender));
        Self { health, wanted, events, task }
    }

    pub(crate) fn want(&self, change: impl FnOnce(&mut Wanted)) {
        self.wanted.send_modify(change);
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> (Lookup, Vec<Member>) {
        let event = timeout(PATIENCE, self.events.recv())
            .await
            .unwrap_or_else(|_| panic!("no event comes; health: {:#?}", self.health.snapshot()));
        match event {
            Some(Event::MembersChanged { lookup, members }) => (lookup, members),
            other => panic!("unexpected event {other:?}"),
        }
    }

    /// Awaits an event that says `expected`, and returns those before it.
    pub(crate) async fn until(
        &mut self,
        expected: &(Vec<String>, Vec<String>),
    ) -> Vec<(Vec<String>, Vec<String>)> {
        let mut before = Vec::new();
        loop {
            let members = split(&self.next().await.1);
            if members == *expected {
                return before;
            }
            before.push(members);
            assert!(before.len() < 100, "{expected:?} never comes: {before:?}");
        }
    }

    /// Fails if there is an event that nobody awaited.
    pub(crate) fn assert_quiet(&mut self) {
        if let Ok(event) = self.events.try_recv() {
            panic!("unexpected event {event:?}");
        }
    }

    pub(crate) fn health_of(&self, lookup: &Lookup) -> LookupHealth {
        self.health.of(lookup).expect("the set is followed")
    }

    /// Awaits a failure of that kind.
    pub(crate) async fn failed(&self, lookup: &Lookup, kind: FailureKind) -> LookupHealth {
        let failed = self.health.wait_for(lookup, |health| health.failures.contains_key(&kind));
        timeout(PATIENCE, failed)
            .await
            .unwrap_or_else(|_| panic!("no {kind:?} comes; health: {:#?}", self.health.snapshot()))
    }

    /// Ends the source by closing what it listens to.
    pub(crate) async fn stop(self) {
        drop(self.wanted);
        timeout(PATIENCE, self.task).await.expect("the source ends").expect("it does not panic");
    }
}
