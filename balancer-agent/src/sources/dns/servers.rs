//! The DNS servers to ask, and one query to them. It stands apart because which server answers is
//! no concern of those who ask.

use super::failure::{Failure, FailureKind, ServersError};
use crate::config::DnsSettings;
use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
        ServerOrderingStrategy,
    },
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RecordType},
    },
    system_conf::parse_resolv_conf,
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore},
    time::{Instant, timeout},
};

/// Most queries in flight, of all sets.
pub const IN_FLIGHT_MAX: usize = 64;
/// Most servers, those of resolv.conf included.
const SERVERS_MAX: usize = 8;
/// How often resolv.conf is looked at.
const REREAD_INTERVAL: Duration = Duration::from_secs(1);
/// How long a later server is asked first, after one before it failed.
const PREFERENCE: Duration = Duration::from_secs(30);

/// An answer to one query.
pub(super) enum Reply {
    /// There are records.
    Records(Lookup),
    /// There is certainly none: NXDOMAIN or NODATA.
    Nothing { ttl: Option<Duration> },
}

/// The servers of one configuration.
pub(super) struct Servers {
    upstreams: Vec<Upstream>,
    /// The server that answered while those before it failed, and since when.
    preferred: Mutex<(usize, Instant)>,
    in_flight: Arc<Semaphore>,
    timeout: Duration,
    attempts: usize,
}

struct Upstream {
    server: SocketAddr,
    resolver: TokioResolver,
}

/// Where the servers come from; follows changes of resolv.conf.
pub(super) struct ServerSource {
    resolv_conf: PathBuf,
    in_flight: Arc<Semaphore>,
    state: AsyncMutex<State>,
}

#[derive(Default)]
struct State {
    /// Whom to ask by what settings; `None` after a failure or before the first attempt.
    current: Option<(DnsSettings, Vec<u8>, Arc<Servers>)>,
    read_at: Option<Instant>,
    /// What was last logged.
    error: Option<Arc<str>>,
}

// === impl ServerSource ===

impl ServerSource {
    pub(super) fn new(resolv_conf: PathBuf) -> Self {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        Self { resolv_conf, in_flight, state: AsyncMutex::default() }
    }

    /// The servers to ask now. A failure is logged once, until its cause changes.
    pub(super) async fn current(&self, settings: &DnsSettings) -> Result<Arc<Servers>, Failure> {
        let mut state = self.state.lock().await;
        let fresh = state.read_at.is_some_and(|at| at.elapsed() < REREAD_INTERVAL);
        if let Some((known, _, servers)) = &state.current
            && known == settings
            && (fresh || !settings.servers.is_empty())
        {
            return Ok(Arc::clone(servers));
        }
        state.read_at = Some(Instant::now());
        match self.load(settings, state.current.as_ref()).await {
            Ok((text, servers)) => {
                if state.error.take().is_some() {
                    tracing::info!(servers = %servers, "DNS servers are known again");
                }
                state.current = Some((settings.clone(), text, Arc::clone(&servers)));
                Ok(servers)
            }
            Err(error) => {
                let text: Arc<str> = error.to_string().into();
                if state.error.as_ref() != Some(&text) {
                    tracing::error!("{text}");
                    state.error = Some(Arc::clone(&text));
                }
                // Servers that once worked are better than none.
                match &state.current {
                    Some((known, _, servers)) if known == settings => Ok(Arc::clone(servers)),
                    _ => Err(Failure { kind: FailureKind::Servers, text: text.to_string() }),
                }
            }
        }
    }

    async fn load(
        &self,
        settings: &DnsSettings,
        current: Option<&(DnsSettings, Vec<u8>, Arc<Servers>)>,
    ) -> Result<(Vec<u8>, Arc<Servers>), ServersError> {
        if !settings.servers.is_empty() {
            let servers = self.build(settings, &settings.servers)?;
            return Ok((Vec::new(), servers));
        }
        let path = &self.resolv_conf;
        let text = tokio::fs::read(path)
            .await
            .map_err(|cause| ServersError::Read { path: path.clone(), cause })?;
        if let Some((known, before, servers)) = current
            && known == settings
            && *before == text
        {
            return Ok((text, Arc::clone(servers)));
        }
        let addresses = parse(path, &text)?;
        let servers = self.build(settings, &addresses)?;
        Ok((text, servers))
    }

    fn build(
        &self,
        settings: &DnsSettings,
        addresses: &[SocketAddr],
    ) -> Result<Arc<Servers>, ServersError> {
        let upstreams = addresses
            .iter()
            .take(SERVERS_MAX)
            .map(|server| Upstream::new(*server, settings.timeout))
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(Servers {
            upstreams,
            preferred: Mutex::new((0, Instant::now())),
            in_flight: Arc::clone(&self.in_flight),
            timeout: settings.timeout,
            attempts: settings.attempts.max(1),
        }))
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Vec<SocketAddr>, ServersError> {
    let (config, _) = parse_resolv_conf(text)
        .map_err(|cause| ServersError::Parse { path: path.to_owned(), cause })?;
    // Of resolv.conf only the servers count: names are absolute, so that `search` and `ndots` have
    // no say, and time-outs come from the configuration.
    Ok(config.name_servers().iter().map(|server| SocketAddr::new(server.ip, 53)).collect())
}

// === impl Upstream ===

impl Upstream {
    fn new(server: SocketAddr, timeout: Duration) -> Result<Self, ServersError> {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = server.port();
        }
        let name_server = NameServerConfig::new(server.ip(), true, connections);
        let mut builder = TokioResolver::builder_with_config(
            ResolverConfig::from_name_servers(vec![name_server]),
            TokioRuntimeProvider::default(),
        );
        let options: &mut ResolverOpts = builder.options_mut();
        options.timeout = timeout;
        // Attempts and the choice of a server are ours, and so is the cache: TTLs would be counted
        // twice otherwise.
        options.attempts = 0;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.max_active_requests = IN_FLIGHT_MAX;
        let resolver = builder.build().map_err(|cause| ServersError::Build { server, cause })?;
        Ok(Self { server, resolver })
    }
}

// === impl Servers ===

impl Servers {
    /// Asks for `name`, which is absolute. Servers are asked one after the other, as often as the
    /// settings say; SERVFAIL and REFUSED are a reason to ask the next one, NXDOMAIN is not.
    pub(super) async fn lookup(&self, name: Name, kind: RecordType) -> Result<Reply, Failure> {
        let Ok(_permit) = self.in_flight.acquire().await else {
            let text = "the agent is stopping".to_owned();
            return Err(Failure { kind: FailureKind::Servers, text });
        };
        let first = self.first();
        let count = self.upstreams.len();
        let mut last = Vec::new();
        for round in 0..self.attempts {
            last.clear();
            for index in (0..count).map(|offset| (first + offset) % count) {
                let upstream = &self.upstreams[index];
                match ask(upstream, self.timeout, &name, kind).await {
                    Ok(reply) => {
                        if index != first || round > 0 {
                            self.prefer(index);
                        }
                        return Ok(reply);
                    }
                    Err((kind, text)) => last.push((kind, format!("{}: {text}", upstream.server))),
                }
            }
        }
        let failure = last.first().map_or(FailureKind::Servers, |(kind, _)| *kind);
        let texts: Vec<_> = last.into_iter().map(|(_, text)| text).collect();
        let text = format!("{kind} {name} from {}", texts.join("; "));
        Err(Failure { kind: failure, text })
    }

    fn first(&self) -> usize {
        let (index, since) = *self.preferred.lock().unwrap_or_else(PoisonError::into_inner);
        if since.elapsed() < PREFERENCE { index } else { 0 }
    }

    fn prefer(&self, index: usize) {
        let mut preferred = self.preferred.lock().unwrap_or_else(PoisonError::into_inner);
        *preferred = (index, Instant::now());
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.upstreams.iter().map(|upstream| upstream.server)
    }
}

impl std::fmt::Display for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses: Vec<_> = self.addresses().map(|server| server.to_string()).collect();
        f.write_str(&addresses.join(", "))
    }
}

async fn ask(
    upstream: &Upstream,
    patience: Duration,
    name: &Name,
    kind: RecordType,
) -> Result<Reply, (FailureKind, String)> {
    // The retry over TCP, after an answer that was truncated, is within the same time.
    match timeout(patience, upstream.resolver.lookup(name.clone(), kind)).await {
        Ok(Ok(lookup)) => Ok(Reply::Records(lookup)),
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => match none.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {
                Ok(Reply::Nothing { ttl: none.negative_ttl.map(super::records::seconds) })
            }
            code => Err((FailureKind::Protocol, code.to_string())),
        },
        Ok(Err(error)) => Err((FailureKind::of(&error), error.to_string())),
        Err(_) => Err((FailureKind::Timeout, format!("no answer within {patience:?}"))),
    }
}
