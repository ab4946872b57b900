//! An API server of thousands of objects: lists and watches as Kubernetes' own, from memory.
//!
//! It stands in for the real one where that would be what is measured. Pages, resource versions and
//! watch events are those of <https://kubernetes.io/docs/reference/using-api/api-concepts/>.

use anyhow::Context;
use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    serve::ListenerExt as _,
};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
};
use tokio::sync::{oneshot, watch};

/// What the agent watches, by the path of its list.
const KINDS: [(&str, &str, &str); 5] = [
    ("/api/v1/services", "v1", "Service"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    ("/api/v1/nodes", "v1", "Node"),
    ("/api/v1/namespaces", "v1", "Namespace"),
    ("/api/v1/pods", "v1", "Pod"),
];

/// The server, on a thread of its own, in the network namespace of the thread that started it.
pub struct ApiServer {
    address: SocketAddr,
    store: Arc<Mutex<Store>>,
    version: watch::Sender<u64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Every object as it was sent last, and every event since the start.
#[derive(Default)]
struct Store {
    version: u64,
    kinds: BTreeMap<&'static str, Kind>,
}

#[derive(Default)]
struct Kind {
    objects: BTreeMap<String, String>,
    /// Version and line of each event; watches go on behind the last one that they sent.
    events: Vec<(u64, Arc<str>)>,
}

#[derive(Clone)]
struct Shared {
    store: Arc<Mutex<Store>>,
    version: watch::Receiver<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options {
    #[serde(default)]
    watch: bool,
    limit: Option<usize>,
    #[serde(rename = "continue")]
    after: Option<String>,
    resource_version: Option<String>,
}

// === impl ApiServer ===

impl ApiServer {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start() -> anyhow::Result<Self> {
        let store = Arc::new(Mutex::new(Store::default()));
        let (version, watched) = watch::channel(0);
        let shared = Shared { store: Arc::clone(&store), version: watched };
        let (stop, stopped) = oneshot::channel();
        let (told, address) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("api-server".into())
            .spawn(move || serve(shared, &told, stopped))
            .context("start the API server's thread")?;
        let address = address.recv().context("the API server did not start")??;
        Ok(Self { address, store, version, stop: Some(stop), thread: Some(thread) })
    }

    /// A kubeconfig that leads to it.
    pub fn kubeconfig(&self) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "bench", "user": {}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        });
        // JSON is YAML.
        config.to_string()
    }

    /// Adds or replaces objects of the list at `path`, and tells the watches of each.
    ///
    /// # Errors
    /// When `path` is no kind that is served, or an object has no name.
    pub fn apply(&self, path: &str, objects: Vec<Value>) -> anyhow::Result<()> {
        let mut store = lock(&self.store);
        let (path, version, kind) =
            *KINDS.iter().find(|known| known.0 == path).context("no such kind")?;
        for mut object in objects {
            store.version += 1;
            let number = store.version;
            object["apiVersion"] = version.into();
            object["kind"] = kind.into();
            object["metadata"]["resourceVersion"] = number.to_string().into();
            let name = object["metadata"]["name"].as_str().context("an object without a name")?;
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            let key = format!("{namespace}/{name}");
            let text = object.to_string();
            let held = store.kinds.entry(path).or_default();
            let known = held.objects.insert(key, text.clone()).is_some();
            let what = if known { "MODIFIED" } else { "ADDED" };
            let line = format!("{{\"type\":\"{what}\",\"object\":{text}}}\n");
            held.events.push((number, line.into()));
        }
        self.version.send_replace(store.version);
        Ok(())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    shared: Shared,
    told: &mpsc::Sender<anyhow::Result<SocketAddr>>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime.context("start the API server's runtime") {
        Ok(runtime) => runtime,
        Err(error) => return drop(told.send(Err(error))),
    };
    runtime.block_on(async move {
        let listener = match tokio::net::TcpListener::bind("127.0.0.1:0").await {
            Ok(listener) => listener,
            Err(error) => return drop(told.send(Err(error.into()))),
        };
        let _ = told.send(listener.local_addr().map_err(Into::into));
        let router = Router::new().fallback(answer).with_state(shared);
        // As Go's servers do: else an event waits for the acknowledgement of the one before.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let served = axum::serve(listener, router);
        // Watches last as long as their client: they end with the runtime.
        tokio::select! {
            _ = served => {}
            _ = stopped => {}
        }
    });
}

async fn answer(
    State(shared): State<Shared>,
    Query(options): Query<Options>,
    uri: Uri,
) -> Response {
    // One node has one list: a name in the path is answered as a list of one by field selector.
    // So is one of a namespace, but for its name: all of them are in one.
    let inside = uri.path().strip_prefix("/api/v1/namespaces/").and_then(|it| it.split_once('/'));
    let asked = inside.map_or_else(|| uri.path().to_owned(), |(_, kind)| format!("/api/v1/{kind}"));
    let Some((path, version, kind)) = KINDS.iter().find(|known| known.0 == asked) else {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
            "reason": "NotFound", "message": format!("{uri} is not served")});
        return (StatusCode::NOT_FOUND, Json(status)).into_response();
    };
    let json = [(header::CONTENT_TYPE, "application/json")];
    if options.watch {
        let since = options.resource_version.and_then(|text| text.parse().ok()).unwrap_or(0);
        return (json, Body::from_stream(follow(shared, path, since))).into_response();
    }
    (json, list(&shared, path, (version, kind), &options)).into_response()
}

fn list(shared: &Shared, path: &str, (version, kind): (&str, &str), options: &Options) -> String {
    let store = lock(&shared.store);
    let number = store.version;
    let nothing = Kind::default();
    let held = store.kinds.get(path).unwrap_or(&nothing);
    let after = options.after.clone().unwrap_or_default();
    let mut rest = held.objects.iter().filter(|(key, _)| **key > after).peekable();
    let (mut items, mut last) = (String::new(), String::new());
    for (key, text) in rest.by_ref().take(options.limit.unwrap_or(usize::MAX)) {
        if !items.is_empty() {
            items.push(',');
        }
        items.push_str(text);
        last.clone_from(key);
    }
    let mut metadata = format!("{{\"resourceVersion\":\"{number}\"");
    if rest.peek().is_some() {
        // Names of objects need no escapes.
        let _ = write!(metadata, ",\"continue\":\"{last}\"");
    }
    format!(
        "{{\"kind\":\"{kind}List\",\"apiVersion\":\"{version}\",\"metadata\":{metadata}}},\
         \"items\":[{items}]}}"
    )
}

/// The events behind `since`, then each new one.
fn follow(
    shared: Shared,
    path: &'static str,
    since: u64,
) -> impl stream::Stream<Item = Result<String, Infallible>> {
    stream::unfold((shared, since), move |(mut shared, since)| async move {
        loop {
            shared.version.mark_unchanged();
            let (lines, newest) = {
                let store = lock(&shared.store);
                let events = store.kinds.get(path).map_or(&[][..], |kind| &kind.events);
                let first = events.partition_point(|(version, _)| *version <= since);
                let lines = events[first..].iter().map(|(_, line)| &**line).collect::<String>();
                (lines, events.last().map_or(since, |(version, _)| *version))
            };
            if !lines.is_empty() {
                return Some((Ok(lines), (shared, newest)));
            }
            shared.version.changed().await.ok()?;
        }
    })
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}
