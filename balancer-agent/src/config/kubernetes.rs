//! The section `kubernetes`: which cluster is watched, and as which of its nodes.

use super::{
    behaviour::is_off,
    cause::Cause,
    error::{KeyPath, Problems},
    mapping::Mapping,
    scalar,
    tree::Node,
};
use std::{path::PathBuf, time::Duration};

/// Keys of `kubernetes`.
pub(super) const KUBERNETES_KEYS: &[&str] =
    &["enabled", "node-name", "kubeconfig", "departed-grace", "gone-grace", "watch-pods"];

/// Longest name of a Node (RFC 1123 subdomain).
const NODE_NAME_BYTES_MAX: usize = 253;
/// Longest time for which a pod that has left is remembered.
const DEPARTED_GRACE_MAX: Duration = Duration::from_hours(24);
/// Shortest and longest time for which connections to a pod that is gone are kept.
const GONE_GRACE_MIN: Duration = Duration::from_secs(1);
const GONE_GRACE_MAX: Duration = Duration::from_hours(24);

/// Which cluster is watched, and as which of its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// Whether services come from Kubernetes at all.
    pub enabled: bool,
    /// The own Node; the environment's `NODE_NAME` if not set.
    pub node_name: Option<String>,
    /// How to reach the API; the pod's service account if not set, or else `$KUBECONFIG`.
    pub kubeconfig: Option<PathBuf>,
    /// How long the address of a pod that left a headless Service stays a frontend.
    pub departed_grace: Duration,
    /// How long connections to a backend are kept that the API does not know any more, before they
    /// are destroyed; for ever if not set.
    pub gone_grace: Option<Duration>,
    /// Whether Pods in namespaces with balanced Services are watched, so that one that terminates is
    /// known before its EndpointSlice says so.
    pub watch_pods: bool,
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            node_name: None,
            kubeconfig: None,
            // As `dns.grace`.
            departed_grace: Duration::from_mins(10),
            gone_grace: Some(Duration::from_secs(5)),
            watch_pods: true,
        }
    }
}

/// Reads `kubernetes`.
pub(super) fn kubernetes(
    node: &Node<'_>,
    path: KeyPath<'_>,
    problems: &mut Problems,
) -> KubernetesSettings {
    let mut settings = KubernetesSettings::default();
    let Some(map) = Mapping::open(node, path, KUBERNETES_KEYS, problems) else {
        return settings;
    };
    if let Some(enabled) = map.read("enabled", problems, scalar::boolean) {
        settings.enabled = enabled;
    }
    settings.node_name = map.read("node-name", problems, node_name);
    settings.kubeconfig = map.read("kubeconfig", problems, kubeconfig);
    let range = Duration::ZERO..=DEPARTED_GRACE_MAX;
    if let Some(grace) = map.read("departed-grace", problems, |node| scalar::duration(node, range))
    {
        settings.departed_grace = grace;
    }
    if let Some(grace) = map.read("gone-grace", problems, gone_grace) {
        settings.gone_grace = grace;
    }
    if let Some(watch_pods) = map.read("watch-pods", problems, scalar::boolean) {
        settings.watch_pods = watch_pods;
    }
    settings
}

fn gone_grace(node: &Node<'_>) -> Result<Option<Duration>, Cause> {
    if is_off(node) {
        return Ok(None);
    }
    scalar::duration(node, GONE_GRACE_MIN..=GONE_GRACE_MAX).map(Some)
}

fn node_name(node: &Node<'_>) -> Result<String, Cause> {
    let name = scalar::text(node)?;
    // RFC 1123 subdomain, as Kubernetes asks of the names of Nodes.
    let allowed = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || "-.".contains(it);
    if name.is_empty() || name.len() > NODE_NAME_BYTES_MAX || !name.chars().all(allowed) {
        return Err(Cause::NodeName { found: node.found() });
    }
    Ok(name.to_owned())
}

fn kubeconfig(node: &Node<'_>) -> Result<PathBuf, Cause> {
    let path = PathBuf::from(scalar::text(node)?);
    if !path.is_absolute() {
        return Err(Cause::PathRelative { found: node.found() });
    }
    Ok(path)
}
