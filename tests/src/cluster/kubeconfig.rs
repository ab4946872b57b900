//! Files that tell a client where the API server is, and who the client is.

use super::certificates::Certificates;
use anyhow::Context;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{fs, path::Path, time::Duration};

/// Longest wait for a connection to the API server, which is on this machine.
const CONNECT_MS_MAX: u64 = 5_000;

/// Who a client is.
pub enum Identity<'a> {
    /// The certificate that may do everything.
    Admin,
    /// Whoever the token in this file stands for; the file is read anew from time to time.
    Token(&'a Path),
}

/// Writes the file.
///
/// # Errors
/// When it cannot be written.
pub fn write(
    path: &Path,
    server: &str,
    certificates: &Certificates,
    identity: &Identity<'_>,
) -> anyhow::Result<()> {
    let user = match identity {
        Identity::Admin => format!(
            "client-certificate: {}\n    client-key: {}",
            certificates.path("admin.pem").display(),
            certificates.path("admin.key").display()
        ),
        Identity::Token(file) => format!("tokenFile: {}", file.display()),
    };
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters:\n- name: test\n  cluster:\n    server: {server}\n    \
         certificate-authority: {}\n\
         contexts:\n- name: test\n  context:\n    cluster: test\n    user: test\n\
         users:\n- name: test\n  user:\n    {user}\n",
        certificates.path("ca.pem").display()
    );
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// A client as such a file describes it.
///
/// # Errors
/// When the file cannot be read or does not make sense.
pub async fn client(path: &Path) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("understand {}", path.display()))?;
    config.connect_timeout = Some(Duration::from_millis(CONNECT_MS_MAX));
    // What is set in the environment is for hosts, not for a server on loopback.
    config.proxy_url = None;
    Client::try_from(config).context("make a Kubernetes client")
}
