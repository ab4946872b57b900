//! Proves the hooks by a connection of our own: an attach that succeeds may still cover no traffic
//! (a wrong cgroup, programs of others), which only a `connect()` shows.
//!
//! A child process enters a cgroup of its own below the one that is balanced and dials a frontend
//! that exists for this test only. Its backend is a listener of ours on loopback, so that nothing
//! leaves the machine whatever happens.

use super::{maps::Maps, raw::Raw};
use crate::core::write::Write;
use balancer_common::{
    address::{Address, FAMILY_V4},
    backend::{BACKEND_NONE, Backend, BackendStats, STATE_ACTIVE},
    service::{
        Bank, POLICY_ROUND_ROBIN, SERVICE_SELF_TEST, SERVICE_TRACKED, SERVICE_VALID, Schedule,
        Service, SlotChunk,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

/// The address that only the self-test dials. Loopback: undelivered, it is refused on the spot.
const FRONTEND: Ipv4Addr = Ipv4Addr::new(127, 76, 66, 1);
/// Longest wait for the child process.
const DIAL_S_MAX: u64 = 5;
/// Longest wait for a connection that nothing stands between.
const DIRECT_S_MAX: u64 = 1;

/// What the self-test found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// Whether every hook did its part.
    pub passed: bool,
    /// What was proved, or what failed.
    pub detail: String,
    /// What to do about a failure.
    pub hint: Option<String>,
}

/// What the child process saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DialReport {
    /// The peer that the application sees.
    pub peer: Option<SocketAddr>,
    /// Why there is none.
    pub error: Option<String>,
}

/// Runs the self-test on attached programs.
pub async fn run(maps: &mut Maps, cgroup: &Path) -> SelfTest {
    let outcome = try_run(maps, cgroup).await;
    if let Err(error) = remove(maps) {
        tracing::warn!(%error, "the self-test's records could not be removed");
    }
    match outcome {
        Ok(detail) => SelfTest { passed: true, detail, hint: None },
        Err(Failure { detail, hint }) => {
            SelfTest { passed: false, detail, hint: Some(hint.to_owned()) }
        }
    }
}

struct Failure {
    detail: String,
    hint: &'static str,
}

fn failure(hint: &'static str) -> impl FnOnce(String) -> Failure {
    move |detail| Failure { detail, hint }
}

const HINT_ENVIRONMENT: &str = "the agent needs a writable cgroup v2 mount and a loopback interface \
    that is up; see `balancer-agent check`";
const HINT_HOOK: &str = "another cgroup program may override ours, or the agent is attached to a \
    cgroup that holds no pods; see `balancer-agent check` and --cgroup";

async fn try_run(maps: &mut Maps, cgroup: &Path) -> Result<String, Failure> {
    let environment = |act: &'static str| {
        move |error: io::Error| failure(HINT_ENVIRONMENT)(format!("{act}: {error}"))
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(environment("listen"))?;
    let backend = listener.local_addr().map_err(environment("listen"))?;
    reach_directly(&listener).await.map_err(environment("connect to a listener of its own"))?;
    let frontend = SocketAddr::new(FRONTEND.into(), backend.port());
    declare(maps, frontend, backend)
        .map_err(|error| failure("see `balancer-agent check`")(error.to_string()))?;
    let own = OwnCgroup::create(cgroup).map_err(environment("create the self-test's cgroup"))?;
    let report = dial(&own.0, frontend).await.map_err(environment("run the self-test's client"))?;
    drop(own);
    if let Some(error) = report.error {
        return Err(failure(HINT_HOOK)(format!(
            "a connection to the test frontend {frontend} was not balanced: {error}"
        )));
    }
    listener.accept().map_err(|error| {
        failure(HINT_HOOK)(format!("the test connection did not reach its backend: {error}"))
    })?;
    if report.peer != Some(frontend) {
        let peer = report.peer.map_or_else(|| "nothing".into(), |peer| peer.to_string());
        return Err(failure(HINT_HOOK)(format!(
            "getpeername() shows {peer} instead of the dialled {frontend}"
        )));
    }
    let stats = maps
        .read_backend_stats(BACKEND_NONE)
        .map_err(|error| failure(HINT_HOOK)(error.to_string()))?;
    if (stats.picked, stats.established, stats.active) != (1, 1, 0) {
        return Err(failure(HINT_HOOK)(format!(
            "the test connection was counted as picked {}, established {}, still active {}; \
             expected 1, 1, 0",
            stats.picked, stats.established, stats.active
        )));
    }
    Ok("a test connection was balanced, named and counted".into())
}

/// A connection that no program has a part in: where it fails, the hooks are not to blame.
async fn reach_directly(listener: &TcpListener) -> io::Result<()> {
    // From here on nobody waits for a connection that did not come.
    listener.set_nonblocking(true)?;
    let connecting = tokio::net::TcpStream::connect(listener.local_addr()?);
    tokio::time::timeout(Duration::from_secs(DIRECT_S_MAX), connecting)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it timed out"))??;
    listener.accept().map(drop)
}

/// Declares the test's service: backend id 0 and the last chunk, which no plan uses.
fn declare(
    maps: &mut Maps,
    frontend: SocketAddr,
    backend: SocketAddr,
) -> Result<(), super::writer::WriteError> {
    let chunk = maps.limits.chunks - 1;
    let record = Backend {
        address: Address::from(backend.ip()),
        port_be: backend.port().to_be(),
        family: FAMILY_V4,
        state: STATE_ACTIVE,
        service: SERVICE_SELF_TEST,
        incarnation: 0,
        weight: 1,
        reserved: 0,
    };
    let schedule = Schedule { chunk, slots: 1 };
    let bank = Bank { v4: schedule, v6: schedule, policy: POLICY_ROUND_ROBIN, affinity_s: 0 };
    let service = Service {
        banks: [bank, bank],
        flags: SERVICE_VALID | SERVICE_TRACKED,
        ..Service::default()
    };
    for write in [
        Write::BackendStatsReset { id: BACKEND_NONE },
        Write::Backend { id: BACKEND_NONE, record },
        Write::Slots { chunk, slots: SlotChunk::default() },
        Write::Service { id: SERVICE_SELF_TEST, record: service },
        Write::Frontend { address: frontend, service: SERVICE_SELF_TEST },
    ] {
        maps.write(&write)?;
    }
    Ok(())
}

/// Removes every record of the test, those of one that was killed included.
fn remove(maps: &mut Maps) -> Result<(), super::writer::WriteError> {
    let mut stale = Vec::new();
    for entry in maps.frontends_v4.iter().flatten() {
        let (key, frontend) = entry;
        if frontend.0.service == SERVICE_SELF_TEST {
            let address = Address::from_v4(key.0.address_be);
            stale.push(super::reader::socket_address(address, key.0.port_be));
        }
    }
    for address in stale {
        maps.write(&Write::FrontendRemoved { address })?;
    }
    maps.write(&Write::Service { id: SERVICE_SELF_TEST, record: Service::default() })?;
    maps.write(&Write::Backend { id: BACKEND_NONE, record: Backend::default() })?;
    // The counters of id 0 stay zero for whoever reads them all.
    let _ = maps.backend_stats.set(BACKEND_NONE, Raw(BackendStats::default()), 0);
    Ok(())
}

/// A cgroup that is removed when it is let go.
struct OwnCgroup(PathBuf);

impl OwnCgroup {
    fn create(parent: &Path) -> io::Result<Self> {
        let path = parent.join(format!("balancer-self-test-{}", std::process::id()));
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self(path)),
        }
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the self-test's cgroup stays behind");
        }
    }
}

/// Starts this binary again as the client; see [`dial_as_child`].
async fn dial(cgroup: &Path, frontend: SocketAddr) -> io::Result<DialReport> {
    let child = tokio::process::Command::new("/proc/self/exe")
        .arg("self-test-dial")
        .arg(cgroup)
        .arg(frontend.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(DIAL_S_MAX), child)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it did not end in time"))??;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| io::Error::other(format!("{error}; it ended with {}", output.status)))
}

/// The child's part: enters the cgroup, dials, and reports on standard output.
///
/// A socket belongs to the cgroup that its maker is in, so that this needs a process of its own.
///
/// # Errors
/// When standard output is closed.
pub fn dial_as_child(cgroup: &Path, frontend: SocketAddr) -> io::Result<()> {
    let report = match dial_from(cgroup, frontend) {
        Ok(peer) => DialReport { peer: Some(peer), error: None },
        Err(error) => DialReport { peer: None, error: Some(error.to_string()) },
    };
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, &report).map_err(io::Error::other)?;
    stdout.flush()
}

fn enter(cgroup: &Path) -> io::Result<()> {
    // cgroups(7): writing 0 moves the writing process.
    let mut members = fs::OpenOptions::new().write(true).open(cgroup.join("cgroup.procs"))?;
    match members.write_all(b"0") {
        // The kernel's `cgroup_procs_write_permission()`: where cgroup v2 is mounted with
        // `nsdelegate`, as systemd does, nobody leaves a cgroup namespace of his own, such as a
        // container's. Its own cgroup is below the root as every pod's, and is as good to dial from.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn dial_from(cgroup: &Path, frontend: SocketAddr) -> io::Result<SocketAddr> {
    enter(cgroup)
        .map_err(|error| io::Error::new(error.kind(), format!("enter its cgroup: {error}")))?;
    let stream = TcpStream::connect_timeout(&frontend, Duration::from_secs(DIAL_S_MAX / 2))?;
    stream.peer_addr()
}
