//! An API server that keeps objects as a real one does (lists in pages, watches from a version on)
//! and fails where a test says so.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode, Uri},
    response::Response,
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    convert::Infallible,
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// A kind of object, as it stands in paths.
pub(super) type Kind = &'static str;
pub(super) const SERVICES: Kind = "services";
pub(super) const SLICES: Kind = "endpointslices";
pub(super) const NODES: Kind = "nodes";

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Verb {
    List,
    Watch,
}

/// One request that came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) kind: String,
    pub(super) verb: Verb,
    pub(super) path: String,
    pub(super) query: HashMap<String, String>,
}

/// A server on 127.0.0.1.
pub(super) struct Server {
    pub(super) url: Uri,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    state: Mutex<Inner>,
    /// Raised with every request.
    requests: watch::Sender<usize>,
}

type Stream = mpsc::UnboundedSender<Result<Bytes, io::Error>>;

#[derive(Default)]
struct Inner {
    version: u64,
    kinds: HashMap<String, Stored>,
    faults: HashMap<(String, Verb), VecDeque<Response>>,
    asked: Vec<Asked>,
    events: Vec<Value>,
    /// The token that is asked for, if one is.
    token: Option<String>,
}

#[derive(Default)]
struct Stored {
    objects: BTreeMap<String, Value>,
    /// Changes by version: what a watch replays.
    history: Vec<(u64, String)>,
    /// Versions below this are gone.
    oldest: u64,
    watches: Vec<Stream>,
}

/// The answer that tells an error.
pub(super) fn status(code: u16, reason: &str) -> Response {
    let body = status_object(code, reason).to_string();
    let response = Response::builder().status(StatusCode::from_u16(code).unwrap());
    response.header("content-type", "application/json").body(Body::from(body)).unwrap()
}

/// A `Status` object.
pub(super) fn status_object(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("scripted {reason}"), "reason": reason, "code": code,
    })
}

/// An answer that begins as it should and then is cut.
pub(super) fn cut() -> Response {
    let begun = Ok(Bytes::from_static(b"{\"kind\":\"List\",\"items\":["));
    let cut = Err(io::Error::from(io::ErrorKind::ConnectionReset));
    Response::new(Body::from_stream(futures_util::stream::iter([begun, cut])))
}

// === impl Server ===

impl Server {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let state = Mutex::new(Inner { version: 10, ..Inner::default() });
        let shared = Arc::new(Shared { state, requests: watch::Sender::new(0) });
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, task }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.state.lock().unwrap()
    }

    /// Creates or changes an object; returns its version.
    pub(super) fn apply(&self, kind: Kind, object: Value) -> u64 {
        self.change(kind, object, true)
    }

    /// Deletes an object.
    pub(super) fn delete(&self, kind: Kind, object: Value) -> u64 {
        self.change(kind, object, false)
    }

    fn change(&self, kind: Kind, mut object: Value, apply: bool) -> u64 {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let stored = inner.kinds.entry(kind.into()).or_default();
        let type_ = if apply {
            let known = stored.objects.insert(key(&object), object.clone());
            if known.is_some() { "MODIFIED" } else { "ADDED" }
        } else {
            stored.objects.remove(&key(&object));
            "DELETED"
        };
        let line = event(type_, &object);
        stored.history.push((version, line.clone()));
        stored.send(&line);
        version
    }

    /// Changes objects without telling any watch, as if it had been cut before.
    pub(super) fn change_silently(
        &self,
        kind: Kind,
        change: impl FnOnce(&mut BTreeMap<String, Value>),
    ) {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        let stored = inner.kinds.entry(kind.into()).or_default();
        change(&mut stored.objects);
        stored.oldest = version;
        stored.history.clear();
    }

    /// Sends a line to everybody who watches.
    pub(super) fn say(&self, kind: Kind, line: &str) {
        self.lock().kinds.entry(kind.into()).or_default().send(line);
    }

    /// Cuts all watches of a kind.
    pub(super) fn cut(&self, kind: Kind) {
        let mut inner = self.lock();
        for stream in inner.kinds.entry(kind.into()).or_default().watches.drain(..) {
            let _ = stream.send(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        }
    }

    /// Ends all watches of a kind as a server does whose time is up.
    pub(super) fn end(&self, kind: Kind) {
        self.lock().kinds.entry(kind.into()).or_default().watches.clear();
    }

    /// Gives this answer to the next such request that has none yet.
    pub(super) fn fail(&self, kind: Kind, verb: Verb, response: Response) {
        self.lock().faults.entry((kind.into(), verb)).or_default().push_back(response);
    }

    /// Asks for this token from now on, and cuts all watches, as a server does whose keys were
    /// replaced.
    pub(super) fn ask_for_token(&self, token: &str) {
        let mut inner = self.lock();
        inner.token = Some(token.to_owned());
        inner.kinds.values_mut().for_each(|stored| stored.watches.clear());
    }

    /// All requests so far of one kind and verb.
    pub(super) fn asked(&self, kind: Kind, verb: Verb) -> Vec<Asked> {
        let inner = self.lock();
        let asked = inner.asked.iter().filter(|asked| asked.kind == kind && asked.verb == verb);
        asked.cloned().collect()
    }

    /// Waits until so many such requests have come.
    pub(super) async fn await_asked(&self, kind: Kind, verb: Verb, count: usize) {
        let mut requests = self.shared.requests.subscribe();
        while self.asked(kind, verb).len() < count {
            requests.changed().await.unwrap();
        }
    }

    /// Kubernetes Events that were written.
    pub(super) fn events(&self) -> Vec<Value> {
        self.lock().events.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Stored ===

impl Stored {
    fn send(&mut self, line: &str) {
        let bytes = Bytes::from(format!("{line}\n"));
        self.watches.retain(|stream| stream.send(Ok(bytes.clone())).is_ok());
    }
}

/// A line of a watch. As Go writes it: `type` comes first.
pub(super) fn event(type_: &str, object: &Value) -> String {
    format!("{{\"type\":\"{type_}\",\"object\":{object}}}")
}

fn key(object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Infallible> {
    let path = request.uri().path().to_owned();
    let kind = path.rsplit('/').next().unwrap_or_default().to_owned();
    let authorization = request.headers().get("authorization").and_then(|it| it.to_str().ok());
    let given = authorization.and_then(|it| it.strip_prefix("Bearer "));
    if shared.state.lock().unwrap().token.as_deref().is_some_and(|asked| given != Some(asked)) {
        return Ok(status(401, "Unauthorized"));
    }
    if request.method() == Method::POST {
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let event: Value = serde_json::from_slice(&body).unwrap();
        let mut inner = shared.state.lock().unwrap();
        let taken =
            inner.events.iter().any(|it| it["metadata"]["name"] == event["metadata"]["name"]);
        if taken {
            return Ok(status(409, "AlreadyExists"));
        }
        inner.events.push(event);
        shared.requests.send_modify(|count| *count += 1);
        return Ok(Response::new(Body::from(body)));
    }
    let query = query(request.uri().query().unwrap_or_default());
    let verb = if query.contains_key("watch") { Verb::Watch } else { Verb::List };
    let mut inner = shared.state.lock().unwrap();
    inner.asked.push(Asked { kind: kind.clone(), verb, path, query: query.clone() });
    let fault = inner.faults.get_mut(&(kind.clone(), verb)).and_then(VecDeque::pop_front);
    let response = fault.unwrap_or_else(|| match verb {
        Verb::List => list(&inner, &kind, &query),
        Verb::Watch => watch(&mut inner, &kind, &query),
    });
    drop(inner);
    shared.requests.send_modify(|count| *count += 1);
    Ok(response)
}

fn list(inner: &Inner, kind: &str, query: &HashMap<String, String>) -> Response {
    let limit = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    let from: usize = query.get("continue").map_or(0, |from| from.parse().unwrap());
    let objects = inner.kinds.get(kind).into_iter().flat_map(|stored| stored.objects.values());
    let all: Vec<&Value> = objects.collect();
    let page: Vec<&&Value> = all.iter().skip(from).take(limit).collect();
    let next = from + page.len();
    let more = if next < all.len() { next.to_string() } else { String::new() };
    let metadata = json!({"resourceVersion": inner.version.to_string(), "continue": more});
    let body = json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": page});
    Response::new(Body::from(body.to_string()))
}

fn watch(inner: &mut Inner, kind: &str, query: &HashMap<String, String>) -> Response {
    let from: u64 = query["resourceVersion"].parse().unwrap();
    let stored = inner.kinds.entry(kind.to_owned()).or_default();
    let (stream, lines) = mpsc::unbounded_channel();
    let lines = tokio_stream(lines);
    if from < stored.oldest {
        // As a real one answers: the request is accepted, and the first event is the error.
        let _ = stream
            .send(Ok(Bytes::from(format!("{}\n", event("ERROR", &status_object(410, "Expired"))))));
        return Response::new(Body::from_stream(lines));
    }
    for (_, line) in stored.history.iter().filter(|(version, _)| *version > from) {
        let _ = stream.send(Ok(Bytes::from(format!("{line}\n"))));
    }
    stored.watches.push(stream);
    Response::new(Body::from_stream(lines))
}

fn tokio_stream<T>(
    receiver: mpsc::UnboundedReceiver<T>,
) -> impl futures_util::Stream<Item = T> + Send + 'static
where
    T: Send + 'static,
{
    futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|item| (item, receiver))
    })
    .fuse()
}

fn query(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), decode(value))).collect()
}

/// Percent-decodes.
fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        decoded.push(match byte {
            b'%' => match (hex(bytes.next()), hex(bytes.next())) {
                (Some(high), Some(low)) => u8::try_from(16 * high + low).unwrap(),
                _ => b'?',
            },
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(decoded).unwrap()
}
