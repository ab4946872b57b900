//! The tasks that follow sets: as many as are wanted and allowed, each begun anew if it panics.

use super::{
    Wanted,
    follow::{Follower, Surroundings},
};
use crate::{config::DnsSettings, core::model::Lookup};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    task::{AbortHandle, Id, JoinError, JoinSet},
};

/// How long the follower of a set rests after a panic, which will likely happen again.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Followers {
    surroundings: Surroundings,
    settings: watch::Sender<Arc<DnsSettings>>,
    lookups_max: usize,
    tasks: JoinSet<()>,
    running: BTreeMap<Lookup, AbortHandle>,
    names: HashMap<Id, Lookup>,
}

// === impl Followers ===

impl Followers {
    pub(super) fn new(
        surroundings: Surroundings,
        settings: watch::Sender<Arc<DnsSettings>>,
        lookups_max: usize,
    ) -> Self {
        Self {
            surroundings,
            settings,
            lookups_max,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            names: HashMap::new(),
        }
    }

    pub(super) fn apply(&mut self, wanted: Wanted) {
        self.settings.send_if_modified(|settings| {
            let changed = **settings != wanted.settings;
            if changed {
                *settings = Arc::new(wanted.settings);
            }
            changed
        });
        let health = &self.surroundings.health;
        self.running.retain(|lookup, task| {
            let keep = wanted.lookups.contains(lookup);
            if !keep {
                task.abort();
                health.remove(lookup);
            }
            keep
        });
        let (mut left_out, mut first) = (0, None);
        for lookup in wanted.lookups {
            if self.running.contains_key(&lookup) {
                continue;
            }
            if self.running.len() >= self.lookups_max {
                left_out += 1;
                first.get_or_insert(lookup);
                continue;
            }
            self.start(lookup, Duration::ZERO);
        }
        self.tell_left_out(left_out, first.as_ref());
    }

    fn tell_left_out(&self, left_out: usize, first: Option<&Lookup>) {
        let problem = first.map(|first| {
            format!(
                "{left_out} DNS names, `{first}` the first of them, are not resolved: more than {} \
                 are wanted; hint: declare fewer services with `dns` or `srv`, or fewer hostnames \
                 for external-dns",
                self.lookups_max
            )
        });
        let before = self.surroundings.health.note_left_out(left_out, problem.clone());
        match (before, problem) {
            (0, Some(problem)) => tracing::error!("{problem}"),
            (1.., None) => tracing::info!("no DNS name is left out any more"),
            _ => {}
        }
    }

    fn start(&mut self, lookup: Lookup, pause: Duration) {
        self.surroundings.health.add(&lookup);
        let follower = Follower::new(lookup.clone(), self.surroundings.clone(), pause);
        self.spawn(lookup, follower.run());
    }

    fn spawn(&mut self, lookup: Lookup, follower: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(follower);
        self.names.insert(task.id(), lookup.clone());
        self.running.insert(lookup, task);
    }

    /// Waits for a task to end and sees to it. Never returns while there is none.
    pub(super) async fn restart_ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.note_end(ended),
            None => std::future::pending().await,
        }
    }

    /// A task that panicked is a fault and begins anew: with what the core has of its set, which the
    /// first answer will correct. While the source stops all tasks end.
    fn note_end(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(lookup) = self.names.remove(&id) else {
            return;
        };
        if ended.is_err_and(|error| error.is_panic())
            && self.running.get(&lookup).is_some_and(|task| task.id() == id)
        {
            tracing::error!(
                %lookup,
                "the task that follows a DNS set panicked and begins anew; hint: report this"
            );
            self.surroundings.health.note_restart();
            self.start(lookup, RESTART_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::dns::{DnsHealth, Standing, servers::ServerSource};
    use std::collections::BTreeSet;
    use tokio::{sync::mpsc, time::Instant};

    fn lookup(name: &str) -> Lookup {
        Lookup::Host { host: name.into(), port: 80 }
    }

    /// Followers whose resolv.conf does not exist: each round of theirs fails at once.
    fn followers(health: &DnsHealth) -> Followers {
        let (settings, receiver) = watch::channel(Arc::default());
        let (events, _) = mpsc::channel(1);
        let surroundings = Surroundings {
            servers: Arc::new(ServerSource::new("/no/such/resolv.conf".into())),
            settings: receiver,
            events,
            health: health.clone(),
        };
        Followers::new(surroundings, settings, 2)
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_that_panicked_begins_anew_after_a_pause() {
        let health = DnsHealth::default();
        let mut followers = followers(&health);
        let (faulty, sound) = (lookup("faulty.test"), lookup("sound.test"));
        health.add(&faulty);
        followers.spawn(faulty.clone(), async { panic!("as if a record could not be read") });
        followers.start(sound.clone(), Duration::ZERO);
        let began = Instant::now();
        followers.restart_ended().await;
        assert_eq!(health.counts().restarted, 1);
        assert_eq!(followers.running.keys().collect::<Vec<_>>(), [&faulty, &sound]);
        let asked = health.wait_for(&faulty, |health| health.standing == Standing::Fails).await;
        assert!(asked.last_error.is_some());
        assert!(began.elapsed() >= RESTART_PAUSE, "it rests before it does the same again");
        assert_eq!(health.of(&sound).unwrap().standing, Standing::Fails, "the other one went on");
        assert_eq!(health.counts().restarted, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_not_wanted_any_more_stays_away() {
        let health = DnsHealth::default();
        let mut followers = followers(&health);
        followers.start(lookup("gone.test"), Duration::ZERO);
        followers.apply(Wanted::default());
        followers.restart_ended().await;
        assert!(followers.running.is_empty() && followers.names.is_empty());

        // It panicked, and was let go before anybody saw that.
        followers.spawn(lookup("gone.test"), async { panic!("too late to matter") });
        tokio::task::yield_now().await;
        followers.apply(Wanted { lookups: BTreeSet::new(), ..Wanted::default() });
        followers.restart_ended().await;
        assert!(followers.running.is_empty() && followers.names.is_empty());
        assert_eq!(health.counts().restarted, 0);
        assert!(health.snapshot().is_empty());
    }
}
