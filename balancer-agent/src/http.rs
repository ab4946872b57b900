//! Metrics and health over HTTP: `/metrics`, `/healthz`, `/readyz`.
//!
//! Invariant: nothing here holds the daemon's loop up. What the loop alone knows is asked for through
//! a bounded channel and waited for a bounded time; the kernel's counters are read from the pinned
//! maps beside the loop, one scrape at a time. Without an answer a scrape tells the rest.

mod connection;
mod exposition;
mod health;
mod kernel;
mod latency;
mod ledger;
#[cfg(test)]
mod tests;
mod view;
mod vitals;

pub use latency::ProgrammingLatency;
pub use vitals::{Ask, Vitals};

use crate::{config::HttpSettings, datapath::maps::Maps, sources::dns::DnsHealth};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use aya::maps::MapError;
use connection::BoundedListener;
use kernel::KernelReader;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use view::{KernelView, View};

/// Questions that wait for the daemon's loop at most.
pub const ASKS_MAX: usize = 16;
/// How long the loop may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// How long a scrape may wait for the one before it and for the maps.
const READ_PATIENCE: Duration = Duration::from_secs(10);
/// The pause before an address that is in use is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(5);
/// OpenMetrics 1.0, section "Content type".
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Reads what the maps hold; so many backends are told one by one.
type ReadKernel = Box<dyn FnMut(usize) -> Result<KernelView, MapError> + Send>;

/// What is served is gathered from here.
struct Observer {
    settings: HttpSettings,
    asks: mpsc::Sender<Ask>,
    dns: DnsHealth,
    kernel: Arc<Mutex<ReadKernel>>,
    /// Whose turn it is to read the maps.
    turn: tokio::sync::Mutex<()>,
}

/// Serves on `runtime` until it ends, if the settings say where. An address that cannot be had is told
/// of and tried again: nobody's connections depend on it.
pub fn start(
    runtime: &Handle,
    settings: HttpSettings,
    asks: mpsc::Sender<Ask>,
    dns: DnsHealth,
    maps: Maps,
) {
    let Some(address) = settings.listen else {
        return;
    };
    let mut reader = KernelReader::new(maps);
    let observer = Observer::new(settings, asks, dns, Box::new(move |max| reader.read(max)));
    runtime.spawn(async move {
        // The first look tells where the counting of services starts.
        observer.kernel().await;
        let listener = bind(address).await;
        tracing::info!(%address, "serving /metrics, /healthz and /readyz");
        let served = axum::serve(BoundedListener::new(listener), router(observer)).await;
        if let Err(error) = served {
            tracing::error!(%error, "metrics and health are not served any more");
        }
    });
}

async fn bind(address: SocketAddr) -> TcpListener {
    let mut told = None;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                let error = error.to_string();
                if told.as_ref() != Some(&error) {
                    tracing::warn!(
                        %address, error,
                        "metrics and health are not served until this address can be had; \
                         balancing goes on; hint: end what listens there, or set `http.listen`"
                    );
                    told = Some(error);
                }
                tokio::time::sleep(BIND_PAUSE).await;
            }
        }
    }
}

fn router(observer: Arc<Observer>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(observer)
}

async fn metrics(State(observer): State<Arc<Observer>>) -> Response {
    match exposition::write(observer.view().await) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("write metrics: {error}\n")).into_response()
        }
    }
}

async fn healthz(State(observer): State<Arc<Observer>>) -> Response {
    match observer.vitals().await {
        Some(_) => "ok\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", health::SILENT)).into_response(),
    }
}

async fn readyz(State(observer): State<Arc<Observer>>) -> Response {
    let obstacles = health::obstacles(observer.vitals().await.as_ref());
    if obstacles.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, obstacles.join("\n") + "\n").into_response()
}

// === impl Observer ===

impl Observer {
    fn new(
        settings: HttpSettings,
        asks: mpsc::Sender<Ask>,
        dns: DnsHealth,
        read: ReadKernel,
    ) -> Arc<Self> {
        let (kernel, turn) = (Arc::new(Mutex::new(read)), tokio::sync::Mutex::default());
        Arc::new(Self { settings, asks, dns, kernel, turn })
    }

    async fn view(self: &Arc<Self>) -> View {
        let (vitals, kernel) = tokio::join!(self.vitals(), self.kernel());
        let services_max = self.settings.services_max;
        let (dns, dns_counts) = (self.dns.snapshot(), self.dns.counts());
        View { vitals, kernel, dns, dns_counts, services_max }
    }

    /// The daemon's answer; none if its loop is busy, stuck, or not there yet.
    async fn vitals(&self) -> Option<Vitals> {
        let asked = async {
            let (reply, answer) = oneshot::channel();
            self.asks.send(reply).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(ANSWER_PATIENCE, asked).await.ok().flatten()
    }

    /// What the maps hold; none if they cannot be read in time.
    async fn kernel(self: &Arc<Self>) -> Option<KernelView> {
        let observer = Arc::clone(self);
        // A task of its own goes on to its end when a client hangs up, and keeps its turn till then.
        let read = tokio::spawn(async move {
            let _turn = observer.turn.lock().await;
            let (kernel, max) = (Arc::clone(&observer.kernel), observer.settings.backends_max);
            tokio::task::spawn_blocking(move || {
                kernel.lock().unwrap_or_else(PoisonError::into_inner)(max)
            })
            .await
        });
        match tokio::time::timeout(READ_PATIENCE, read).await {
            Ok(Ok(Ok(Ok(view)))) => Some(view),
            Ok(Ok(Ok(Err(error)))) => {
                tracing::debug!(%error, "the maps cannot be read for a scrape");
                None
            }
            Ok(_) | Err(_) => {
                tracing::debug!("the maps were not read in time for a scrape");
                None
            }
        }
    }
}
