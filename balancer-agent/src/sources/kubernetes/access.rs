//! How the API is reached: by a kubeconfig, or by the pod's own service account.

use http::{Request, StatusCode};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent. The API server sends a bookmark every minute, so that two
/// that are missing tell of a network that swallows packets, long before TCP does.
const READ_TIMEOUT: Duration = Duration::from_secs(150);

/// The pause between two readings of the configuration. kube itself reads a token's file once a
/// minute, and nothing else ever.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);

/// Why the API cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The kubeconfig cannot be used.
    #[error(
        "use the kubeconfig `{path}`: {source}; hint: check the path and that `kubectl --kubeconfig \
         {path} get services` works"
    )]
    Kubeconfig {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// There is neither a service account nor a kubeconfig.
    #[error(
        "reach the Kubernetes API: {source}, and no kubeconfig is named; hint: run the agent as a \
         pod with a service account, or set `kubernetes.kubeconfig`, or `KUBECONFIG`"
    )]
    Nowhere {
        /// Why the service account cannot be used.
        source: kube::config::InClusterError,
    },
    /// The client cannot be made of the configuration.
    #[error("make a client for the Kubernetes API: {source}; hint: check certificates and keys")]
    Client {
        /// Why.
        source: Box<kube::Error>,
    },
}

/// A client whose configuration is read anew when the API refuses it or cannot be reached: tokens,
/// certificates and addresses are replaced while the agent runs.
struct Renewing {
    kubeconfig: Option<PathBuf>,
    /// The client in force, and which one it is.
    current: RwLock<(u64, Client)>,
    /// When the configuration was last read again.
    renewed_at: tokio::sync::Mutex<Option<Instant>>,
}

/// A client for the API: by `kubeconfig` if there is one, else by the pod's service account, else by
/// the kubeconfig that `$KUBECONFIG` names. No request is made yet.
///
/// # Errors
/// What is missing or wrong, and how to mend it.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, AccessError> {
    let (namespace, first) = connect(kubeconfig).await?;
    let renewing = Arc::new(Renewing {
        kubeconfig: kubeconfig.map(Path::to_owned),
        current: RwLock::new((0, first)),
        renewed_at: tokio::sync::Mutex::default(),
    });
    let service = tower::service_fn(move |request| {
        let renewing = Arc::clone(&renewing);
        async move {
            let (number, client) = renewing.current();
            let again = copy(&request);
            let answer = client.send(request).await;
            let refused = match &answer {
                Ok(answer) => answer.status() == StatusCode::UNAUTHORIZED,
                Err(_) => false,
            };
            if answer.is_ok() && !refused {
                return answer;
            }
            let renewed = renewing.renew(number).await;
            match again {
                // Only what was refused is certain not to have been done.
                Some(request) if refused && renewed => renewing.current().1.send(request).await,
                _ => answer,
            }
        }
    });
    Ok(Client::new(service, namespace))
}

/// The same client, which calls `answered` whenever the API server has answered a request to watch with
/// yes. kube's watcher keeps that to itself, and bookmarks too.
pub(super) fn with_ear(client: Client, answered: impl Fn() + Clone + Send + 'static) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, answered) = (client.clone(), answered.clone());
        async move {
            let query = request.uri().query().unwrap_or_default();
            let watches = query.split('&').any(|pair| pair == "watch=true");
            let answer = client.send(request).await;
            if watches && answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
                answered();
            }
            answer
        }
    });
    Client::new(service, namespace)
}

/// What mends an answer with this status code, for the end of an error.
pub(super) fn hint(code: u16) -> &'static str {
    match StatusCode::from_u16(code) {
        Ok(StatusCode::UNAUTHORIZED) => {
            "; hint: the API server does not take the agent's token or certificate (any more); \
             have it replaced, as the kubelet does for pods: it is read again by itself"
        }
        Ok(StatusCode::FORBIDDEN) => {
            "; hint: give the agent's account the rights in deploy/base/cluster-role.yaml; they \
             count at the next try"
        }
        _ => "",
    }
}

/// A request that can be sent a second time; none if its body is a stream.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

// === impl Renewing ===

impl Renewing {
    fn current(&self) -> (u64, Client) {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the configuration again, unless somebody did since client `number` was made, or a
    /// moment ago. Tells whether there is another client now.
    async fn renew(&self, number: u64) -> bool {
        let mut renewed_at = self.renewed_at.lock().await;
        if self.current().0 != number {
            return true;
        }
        if renewed_at.is_some_and(|at| at.elapsed() < RENEWAL_PAUSE) {
            return false;
        }
        *renewed_at = Some(Instant::now());
        match connect(self.kubeconfig.as_deref()).await {
            Ok((_, client)) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = (number + 1, client);
                true
            }
            // Half-written, or away for a moment: the request that failed tells of the trouble.
            Err(error) => {
                tracing::debug!(%error, "the configuration cannot be read again");
                false
            }
        }
    }
}

async fn connect(kubeconfig: Option<&Path>) -> Result<(String, Client), AccessError> {
    let named = std::env::var_os("KUBECONFIG").map(PathBuf::from);
    let mut config = match (kubeconfig, Config::incluster()) {
        (Some(path), _) => read(path).await?,
        (None, Ok(config)) => config,
        (None, Err(source)) => match named {
            Some(path) => read(&path).await?,
            None => return Err(AccessError::Nowhere { source }),
        },
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config);
    let client = client.map_err(|source| AccessError::Client { source: Box::new(source) })?;
    Ok((namespace, client))
}

async fn read(path: &Path) -> Result<Config, AccessError> {
    let fail = |source| AccessError::Kubeconfig { path: path.to_owned(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(fail)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(fail)
}
