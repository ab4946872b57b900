//! How the API is reached: by a kubeconfig, or by the pod's own service account.

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent. The API server sends a bookmark every minute, so that two
/// that are missing tell of a network that swallows packets, long before TCP does.
const READ_TIMEOUT: Duration = Duration::from_secs(150);

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

/// A client for the API: by `kubeconfig` if there is one, else by the pod's service account, else by
/// the kubeconfig that `$KUBECONFIG` names. No request is made yet.
///
/// # Errors
/// What is missing or wrong, and how to mend it.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, AccessError> {
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
    Client::try_from(config).map_err(|source| AccessError::Client { source: Box::new(source) })
}

async fn read(path: &Path) -> Result<Config, AccessError> {
    let fail = |source| AccessError::Kubeconfig { path: path.to_owned(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(fail)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(fail)
}
