//! How the API is reached: by a kubeconfig, or by the pod's own service account.

use kube::{
    Client, Config,
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
/// Status code "Unauthorized" (RFC 9110).
const UNAUTHORIZED: u16 = 401;

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
    /// When the latest one was made.
    renewed_at: tokio::sync::Mutex<Instant>,
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
        renewed_at: tokio::sync::Mutex::new(Instant::now()),
    });
    let service = tower::service_fn(move |request| {
        let renewing = Arc::clone(&renewing);
        async move {
            let (number, client) = renewing.current();
            let answer = client.send(request).await;
            if answer.as_ref().map_or(true, |answer| answer.status() == UNAUTHORIZED) {
                renewing.renew(number).await;
            }
            answer
        }
    });
    Ok(Client::new(service, namespace))
}

// === impl Renewing ===

impl Renewing {
    fn current(&self) -> (u64, Client) {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the configuration again, unless somebody did since client `number` was made, or a
    /// moment ago.
    async fn renew(&self, number: u64) {
        let mut renewed_at = self.renewed_at.lock().await;
        if self.current().0 != number || renewed_at.elapsed() < RENEWAL_PAUSE {
            return;
        }
        *renewed_at = Instant::now();
        match connect(self.kubeconfig.as_deref()).await {
            Ok((_, client)) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = (number + 1, client);
            }
            // Half-written, or away for a moment: the request that failed tells of the trouble.
            Err(error) => tracing::debug!(%error, "the configuration cannot be read again"),
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
