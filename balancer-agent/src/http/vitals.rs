//! What only the daemon's loop can tell: how it fares and what stands in its way. The answer to the
//! one question that HTTP asks it.

use super::latency::ProgrammingLatency;
use crate::{
    admin::{ConfigStatus, DrainStatus, Http2Status},
    core::Totals,
    datapath::self_test::SelfTest,
    sources::kubernetes::KubernetesReport,
};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// A question to the daemon's loop, with the place for its answer.
pub type Ask = oneshot::Sender<Vitals>;

/// The daemon's own view of itself, cheap to take.
#[derive(Clone, Debug)]
pub struct Vitals {
    /// When it started, in seconds since 1970 (UTC).
    pub started_unix_s: f64,
    /// The latest self-test.
    pub self_test: SelfTest,
    /// Hooks that had to be attached again.
    pub hooks_repaired: u64,
    /// The configuration file.
    pub config: ConfigStatus,
    /// Configurations that were applied.
    pub config_loaded: u64,
    /// The core's running totals.
    pub totals: Totals,
    /// Map writes that the kernel refused.
    pub write_failures: u64,
    /// Whether a service could not be written and is to be tried again.
    pub needs_retry: bool,
    /// What has not told all that it watches yet.
    pub unsynced: Vec<String>,
    /// How many problems of each kind there are.
    pub problems: BTreeMap<&'static str, u64>,
    /// From an observation to its last map write.
    pub latency: ProgrammingLatency,
    /// From the change of a Pod or Service to its last map write, as EndpointSlices tell it.
    pub trigger_latency: ProgrammingLatency,
    /// Connections that were destroyed.
    pub drained: DrainStatus,
    /// HTTP/2 connections that are followed and moved.
    pub http2: Http2Status,
    /// Pods by how their connections are treated.
    pub pods: BTreeMap<&'static str, u64>,
    /// The connection to the cluster; none outside of Kubernetes.
    pub kubernetes: Option<KubernetesReport>,
}
