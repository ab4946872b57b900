//! The admin socket: how commands ask a running agent. One JSON request line, JSON lines back.

pub mod claim;
pub mod client;
pub mod server;

use crate::{
    core::pods::{PodObject, PodUid, cgroup_path::QosClass},
    datapath::self_test::SelfTest,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Where the socket and other run-time files are unless the user says otherwise.
pub const RUNTIME_DIR: &str = "/run/balancer";

/// How HTTP/2 connections are counted whose frames are not followed.
pub const NOT_FOLLOWED: &str = "not-followed";

/// The socket in a runtime directory.
pub fn socket_path(runtime: &Path) -> PathBuf {
    runtime.join("admin.sock")
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// The agent's own view: [`Answer::Status`].
    Status,
    /// Reads the configuration file again: [`Answer::Reloaded`] or [`Answer::Failed`].
    Reload,
    /// The pods of this node: [`Answer::Pods`].
    Pods,
    /// Takes a backend out of service on this node, or back: [`Answer::Drained`] or [`Answer::Failed`].
    Drain {
        /// Where it listens.
        backend: SocketAddr,
        /// Takes it back into service.
        undo: bool,
        /// Even if nobody else serves.
        force: bool,
    },
    /// Moves connections of a service until its backends have their shares: [`Answer::Moves`] or
    /// [`Answer::Failed`].
    Rebalance {
        /// Its name.
        service: String,
        /// Only says what would be moved.
        dry_run: bool,
    },
    /// Live decisions, an [`Answer::Trace`] each, until the client hangs up.
    Trace,
}

/// One line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Reload`].
    Reloaded {
        /// Whether the file's content was new.
        changed: bool,
    },
    /// To [`Request::Pods`].
    Pods {
        /// Those that have a cgroup.
        pods: Vec<PodStatus>,
    },
    /// To [`Request::Drain`].
    Drained(Drained),
    /// To [`Request::Rebalance`].
    Moves {
        /// What is moved, or would be.
        moves: Vec<PlannedMove>,
        /// Connections of the service.
        connections: u64,
        /// Those of them that cannot be moved.
        unmovable: u64,
    },
    /// To [`Request::Trace`]: the bytes of a [`balancer_common::trace::TraceEvent`].
    Trace {
        /// The event, as the kernel wrote it.
        event: Vec<u8>,
    },
    /// The request could not be met.
    Failed {
        /// Why, and what to do.
        error: String,
    },
}

/// What taking a backend out of service does, or taking it back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Whether anything is different now.
    pub changed: bool,
    /// Services that it serves.
    pub services: Vec<String>,
    /// Connections that lead to it.
    pub connections: u64,
    /// Those of them that can be moved.
    pub movable: u64,
}

/// A connection that is to move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// Its socket's cookie.
    pub cookie: u64,
    /// Its pod, by cgroup id.
    pub pod: u64,
    /// Its backend.
    pub from: SocketAddr,
    /// Where its client's next connection should go.
    pub to: Option<SocketAddr>,
}

/// The agent's own view of itself and of what it wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The configuration file.
    pub config: ConfigStatus,
    /// What the programs run on.
    pub datapath: DatapathStatus,
    /// The latest self-test.
    pub self_test: SelfTest,
    /// What the core wants, as its report says.
    pub desired: serde_json::Value,
    /// What is wrong with what is wanted (conflicts, limits); empty when all is well.
    pub problems: Vec<String>,
    /// Where the kernel's maps differ from what is wanted; empty when all is well.
    pub differences: Vec<String>,
    /// Each DNS lookup's health.
    pub dns: serde_json::Value,
    /// The health of the Kubernetes source, if there is one.
    #[serde(default)]
    pub kubernetes: Option<serde_json::Value>,
    /// Work done.
    pub work: WorkStatus,
    /// Connections that were destroyed since their backends had left.
    pub drained: DrainStatus,
    /// Backends that a user has taken out of service on this node.
    #[serde(default)]
    pub user_drained: Vec<SocketAddr>,
    /// HTTP/2 connections that are followed and moved.
    #[serde(default)]
    pub http2: Http2Status,
}

/// The state of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// Its path.
    pub path: PathBuf,
    /// Why its present content is refused; the last good content is in force.
    pub rejected: Option<String>,
    /// Contents that were refused since the start.
    pub rejections: u64,
    /// Settings that differ from those in force until the agent is started again.
    pub restart_needed: Vec<String>,
}

/// What the programs run on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatapathStatus {
    /// The pin directory.
    pub pin_root: PathBuf,
    /// The cgroup that is balanced.
    pub cgroup: PathBuf,
    /// The layout of the maps.
    pub layout: String,
    /// What was found at the start: fresh, adopted, migrated.
    pub origin: String,
    /// Features that this kernel lacks, and what is lost by that.
    pub degraded: Vec<String>,
    /// Hooks that had to be attached again since the start.
    pub hooks_repaired: u64,
}

/// A pod of this node, as the agent knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its cgroup's id.
    pub id: u64,
    /// Its cgroup's path below the root of cgroup v2.
    pub path: PathBuf,
    /// The UID that its cgroup carries.
    pub uid: PodUid,
    /// Its quality of service.
    pub qos: QosClass,
    /// What the API tells of it; none outside of Kubernetes, and before the API was heard.
    pub object: Option<PodObject>,
}

/// Work done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkStatus {
    /// Changes of services applied.
    pub changes: u64,
    /// Map writes.
    pub writes: u64,
    /// Map writes that the kernel refused; each is tried again.
    pub write_failures: u64,
    /// Time from the latest event to its last map write, in microseconds.
    pub latest_change_us: u64,
}

/// What is done about HTTP/2 connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http2Status {
    /// Why nothing can be followed here; none where it can.
    pub unable: Option<String>,
    /// Pods, and other clients, whose interfaces lead to the programs.
    pub clients: u64,
    /// Interfaces of these.
    pub interfaces: u64,
    /// All services together, those included that are gone.
    #[serde(flatten)]
    pub all: Http2Account,
    /// Each service that is balanced and has had such connections since the start, by its name.
    #[serde(default)]
    pub services: BTreeMap<String, Http2Account>,
    /// The latest failure.
    pub latest_error: Option<String>,
}

/// What is counted of HTTP/2 connections and of their moves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http2Account {
    /// Connections of services that ask for it, by what can be said of their frames.
    pub connections: BTreeMap<String, u64>,
    /// Moves that were begun since the start, by their cause.
    pub begun: BTreeMap<String, u64>,
    /// Moves that were made: the client was told.
    pub made: u64,
    /// Moves that were given up: no moment was found, or the connection could not be moved any more.
    pub given_up: u64,
    /// Connections of now whose clients were told and stayed.
    pub stubborn: u64,
}

/// Connections that were to be destroyed, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// Destroyed when their backends had drained for long enough.
    pub drain_timeout: u64,
    /// Destroyed when their backends were gone.
    pub backend_gone: u64,
    /// Tries that found no socket: it had ended, or was out of reach.
    pub not_found: u64,
    /// Tries that failed.
    pub failed: u64,
    /// The latest failure.
    pub latest_error: Option<String>,
}

/// Whether a status is healthy: the hooks work, and the kernel holds what is wanted.
impl Status {
    /// Everything that makes it unhealthy.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if !self.self_test.passed {
            let SelfTest { detail, hint, .. } = &self.self_test;
            let hint = hint.as_ref().map(|hint| format!("; hint: {hint}"));
            complaints.push(format!("the self-test failed: {detail}{}", hint.unwrap_or_default()));
        }
        if let Some(error) = &self.config.rejected {
            complaints.push(format!("the configuration file is refused: {error}"));
        }
        complaints.extend(self.problems.iter().cloned());
        complaints.extend(self.differences.iter().cloned());
        complaints
    }
}
