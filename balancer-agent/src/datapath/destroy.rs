//! Destroys connections whose backends are gone (netlink `SOCK_DESTROY`), each in its pod's network
//! namespace: its client gets ECONNABORTED at once instead of waiting for what will not come.
//!
//! A socket is named by its cookie, its backend and its namespace together, and the kernel compares
//! the cookie again, so that no other socket can be hit.

mod sock_diag;

use self::sock_diag::{Outcome, SockDiag};
use super::netns;
use std::{collections::BTreeMap, io, net::SocketAddr, path::Path};

/// Where a connection that is to be destroyed leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its backend.
    pub backend: SocketAddr,
}

/// What became of the connections of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// Cookies of those that were destroyed; looked for once more, they were not there.
    pub destroyed: Vec<u64>,
    /// Those that were in none of the pod's namespaces: they have ended, or their process moved.
    pub not_found: Vec<u64>,
    /// Those that are still there.
    pub failed: Vec<u64>,
    /// What stood in the way.
    pub errors: Vec<String>,
}

/// Why connections cannot be destroyed on this machine.
#[derive(Debug, thiserror::Error)]
pub enum DestroyError {
    /// The kernel was built without it.
    #[error(
        "connections to backends that are gone cannot be destroyed: the kernel lacks \
         CONFIG_INET_DIAG_DESTROY; hint: set `tcp-user-timeout`, so that they end by time-outs"
    )]
    Unsupported,
    /// Not allowed to.
    #[error(
        "connections to backends that are gone cannot be destroyed: {cause}; hint: run with \
         CAP_NET_ADMIN, and with CAP_SYS_ADMIN and CAP_SYS_PTRACE to enter pods' network namespaces"
    )]
    Refused {
        /// What the kernel said.
        cause: io::Error,
    },
}

/// Whether the kernel destroys sockets, tried with one that does not exist.
///
/// # Errors
/// [`DestroyError`] says what is missing.
pub fn check() -> Result<(), DestroyError> {
    let probed = SockDiag::open().and_then(|diag| diag.probe());
    probed.map_err(|cause| match cause.raw_os_error() {
        // inet_diag_cmd_exact() without the option; no handler at all without CONFIG_INET_TCP_DIAG.
        Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => DestroyError::Unsupported,
        _ => DestroyError::Refused { cause },
    })
}

/// Destroys connections of a pod, told by its cgroup's directory. Connections that are in none of the
/// namespaces of its processes are looked for in the agent's own, which is the node's.
///
/// Enters namespaces on threads of their own, and blocks for some milliseconds.
pub fn destroy(cgroup: Option<&Path>, targets: BTreeMap<u64, Target>) -> Destroyed {
    let mut result = Destroyed::default();
    let mut left = targets;
    let pods = netns::of_cgroup(cgroup, &mut result.errors);
    for namespace in pods.into_iter().map(Some).chain([None]) {
        if left.is_empty() {
            break;
        }
        match within(namespace.as_deref(), &left) {
            Ok(swept) => {
                left.retain(|cookie, _| !swept.contains_key(cookie));
                for (cookie, outcome) in swept {
                    match outcome {
                        Swept::Gone => result.destroyed.push(cookie),
                        Swept::NotFound => result.not_found.push(cookie),
                        Swept::Failed(error) => {
                            result.failed.push(cookie);
                            result.errors.push(error);
                        }
                    }
                }
            }
            Err(error) => {
                let place = namespace.map_or("its own".into(), |path| path.display().to_string());
                result.errors.push(format!("network namespace {place}: {error}"));
            }
        }
    }
    if result.errors.is_empty() {
        result.not_found.extend(left.into_keys());
    } else {
        // They may be where nobody could look.
        result.failed.extend(left.into_keys());
    }
    result.errors.sort();
    result.errors.dedup();
    result
}

/// What became of one socket.
enum Swept {
    Gone,
    NotFound,
    Failed(String),
}

/// Destroys what is found of the targets in a network namespace; without a path, in the agent's own.
fn within(
    namespace: Option<&Path>,
    targets: &BTreeMap<u64, Target>,
) -> io::Result<BTreeMap<u64, Swept>> {
    match namespace {
        Some(namespace) => netns::within(namespace, || sweep(targets)),
        None => sweep(targets),
    }
}

fn sweep(targets: &BTreeMap<u64, Target>) -> io::Result<BTreeMap<u64, Swept>> {
    let diag = SockDiag::open()?;
    let found = diag.find(targets)?;
    let mut swept: BTreeMap<u64, Swept> = found
        .iter()
        .map(|(cookie, socket)| {
            let outcome = match diag.destroy(socket) {
                Ok(Outcome::Destroyed) => Swept::Gone,
                Ok(Outcome::NotFound) => Swept::NotFound,
                Err(error) => Swept::Failed(format!("destroy a socket: {error}")),
            };
            (*cookie, outcome)
        })
        .collect();
    if !swept.is_empty() {
        for cookie in diag.find(targets)?.into_keys() {
            let error = swept.entry(cookie).or_insert(Swept::Gone);
            if matches!(error, Swept::Gone | Swept::NotFound) {
                *error = Swept::Failed("a socket that was destroyed is still there".into());
            }
        }
    }
    Ok(swept)
}
