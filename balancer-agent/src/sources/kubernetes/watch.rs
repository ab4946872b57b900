//! One watch on one kind of object: what the API tells, for as long as somebody listens.
//!
//! kube's watcher lists, watches, and goes on from the last version after a cut. It does not begin
//! anew where that is the only way on: a version that is gone when the watch starts, and events that
//! were lost because they could not be read. Here those end the watcher, and the next one lists.

use super::{
    access,
    guard::Guarded,
    health::{Kind, KubernetesHealth},
    pace::Paced,
    patience::{self, Patience, Pauses},
};
use kube::{
    Api, Client, Resource,
    runtime::watcher::{self, Error, Event},
};
use std::{collections::BTreeSet, fmt::Debug, pin::pin};
use tokio::{sync::mpsc, time::Instant};

/// What the watches of a source share.
#[derive(Clone)]
pub(super) struct Watches {
    pub(super) client: Client,
    pub(super) health: KubernetesHealth,
    pub(super) pauses: Pauses,
}

/// A kind to be watched.
pub(super) struct Watched<K> {
    kind: Kind,
    api: Api<Guarded<K>>,
    config: watcher::Config,
    pub(super) health: KubernetesHealth,
    pauses: Pauses,
}

// === impl Watches ===

impl Watches {
    /// Watches of these kinds, with the pauses of client-go's.
    pub(super) fn of(client: Client, kinds: &'static [Kind]) -> Self {
        Self { client, health: KubernetesHealth::of(kinds), pauses: patience::DEFAULT }
    }

    /// A watch on what `config` leaves of a kind.
    pub(super) fn on<K>(&self, kind: Kind, config: watcher::Config) -> Watched<K>
    where
        K: Resource<DynamicType = ()>,
    {
        let Self { client, health, pauses } = self.clone();
        let ear = health.clone();
        let client = access::with_ear(client, move || ear.note_answer(kind));
        Watched { kind, api: Api::all(client), config, health, pauses }
    }
}

// === impl Watched ===

impl<K> Watched<K>
where
    K: Resource + Clone + Debug + Send + 'static,
{
    /// Tells what `read` makes of every event and of the earliest time at which it can have arrived,
    /// until nobody listens any more.
    pub(super) async fn run<M>(
        self,
        told: mpsc::Sender<M>,
        mut read: impl FnMut(Event<Guarded<K>>, Instant) -> Option<M>,
    ) {
        let Self { kind, api, config, health, pauses } = self;
        let mut patience = Patience::new(pauses);
        let mut logged = BTreeSet::new();
        loop {
            let stream = pin!(watcher::watcher(api.clone(), config.clone()));
            let mut events = Paced::new(stream);
            while let Some(event) = events.next().await {
                let error = match event {
                    Ok(event) => {
                        // A list that is about to be asked for is no sign of life.
                        if !matches!(event, Event::Init) {
                            health.note_event(kind);
                        }
                        let listed = matches!(event, Event::InitDone);
                        if let Some(message) = read(event, events.since())
                            && told.send(message).await.is_err()
                        {
                            return;
                        }
                        if listed {
                            health.note_list(kind);
                        }
                        continue;
                    }
                    Err(error) => error,
                };
                let text = describe(&error);
                if health.note_error(kind, text.clone()) {
                    logged.clear();
                }
                // Once each: an API server that is back and says no is another trouble than one that is
                // away, and what comes in turns would fill the log.
                if logged.insert(code(&error)) {
                    tracing::warn!(
                        kind = kind.name(),
                        error = text,
                        "the Kubernetes API fails; what is known stays in force"
                    );
                }
                let pause = match &error {
                    Error::InitialListFailed(cause)
                    | Error::WatchStartFailed(cause)
                    | Error::WatchFailed(cause) => patience.after(cause),
                    Error::WatchError(_) | Error::NoResourceVersion => patience.after_answer(),
                };
                tokio::time::sleep(pause).await;
                if begins_anew(&error) {
                    break;
                }
            }
            health.note_restart(kind);
        }
    }
}

/// Whether the only way on is a new list.
fn begins_anew(error: &Error) -> bool {
    match error {
        // 410: the version is gone. 504 is what the API server answers when the version lies in its
        // future, as it does after etcd was restored from a backup. 400: it is no version at all.
        Error::WatchStartFailed(kube::Error::Api(status)) => {
            matches!(status.code, 400 | 410 | 504)
        }
        // An event that cannot be read is an event that was missed; the next one would hide it.
        // As client-go does after an error in the stream: whatever the reason, it is out of step.
        Error::WatchFailed(kube::Error::SerdeError(_) | kube::Error::Api(_))
        | Error::WatchError(_) => true,
        _ => false,
    }
}

/// The status code of what the API answered; none if it gave no answer, or one that makes no sense.
fn code(error: &Error) -> Option<u16> {
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status))
        | Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// The error with its causes, as the API's own words where there are some.
fn describe(error: &Error) -> String {
    let (act, cause) = match error {
        Error::InitialListFailed(cause) => ("list", cause),
        Error::WatchStartFailed(cause) => ("start the watch", cause),
        Error::WatchFailed(cause) => ("watch", cause),
        Error::WatchError(status) => {
            return format!("watch: {}", answered(status));
        }
        Error::NoResourceVersion => return "the answer has no resourceVersion".into(),
    };
    if let kube::Error::Api(status) = cause {
        return format!("{act}: {}", answered(status));
    }
    let mut text = format!("{act}: {cause}");
    let mut source = std::error::Error::source(cause);
    // Causes repeat each other's words.
    for _ in 0..8 {
        let Some(cause) = source else { break };
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

/// What the API server answered, and what to do about it.
fn answered(status: &kube::core::Status) -> String {
    let kube::core::Status { message, code, reason, .. } = status;
    format!("{message} ({code} {reason}){}", access::hint(*code))
}
