//! The proof: the verifier of this very kernel is given the programs, and nothing is attached.
//!
//! Maps have to be pinned for that. They are pinned on a BPF file system that only a thread of ours
//! sees, in a mount namespace of its own: the kernel removes all of it with the thread, however
//! that ends.

use super::Check;
use crate::{
    core::write::Limits,
    datapath::{bpffs::PinRoot, loader},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::resource::{RLIM_INFINITY, Resource, setrlimit},
};
use std::{path::Path, thread};

const CHECK: &str = "programs";
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// As small as maps can be: sizes mean nothing to the verifier.
const LIMITS: Limits =
    Limits { services: 2, backends: 2, frontends: 2, chunks: 2, flows: 1, pod_services: 64 };

/// Whether the kernel takes the programs, and what it lacks.
pub(super) fn check() -> Vec<Check> {
    let tried = thread::Builder::new().spawn(try_programs).map(thread::JoinHandle::join);
    match tried {
        Ok(Ok(checks)) => checks,
        Ok(Err(_)) => vec![Check::fail(CHECK, "the trial ended early", "report this")],
        Err(error) => vec![Check::fail(CHECK, format!("start a thread: {error}"), "free memory")],
    }
}

fn try_programs() -> Vec<Check> {
    if let Err(errno) = own_bpffs() {
        return vec![Check::warn(
            CHECK,
            format!("not tried: a private BPF file system cannot be mounted ({errno})"),
            "run as root; the agent's own self-test tells as much",
        )];
    }
    // Kernels before 5.11 charge maps to this limit; a refusal shows in what follows.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let pins = PinRoot::new(Path::new(MOUNT_POINT).join("balancer-check"));
    let loaded = pins
        .create()
        .map_err(|error| error.to_string())
        .and_then(|()| loader::load(&pins, &LIMITS, 0).map_err(|error| error.to_string()));
    match loaded {
        Err(error) => {
            // The loader's own hint is to run this very command.
            let finding = error.split("; hint: ").next().unwrap_or_default();
            let hint = "a feature that the checks above name, or a fault: report it with the kernel's version";
            vec![Check::fail(CHECK, finding.trim_end(), hint)]
        }
        Ok(loaded) => {
            let count = loaded.chosen.len();
            let mut checks = vec![Check::ok(CHECK, format!("the verifier takes all {count}"))];
            let lacks = loaded.report.degraded.into_iter();
            checks.extend(lacks.map(|loss| Check::warn("features", loss, "a newer kernel has it")));
            checks
        }
    }
}

/// Gives this thread a BPF file system that nobody else sees.
fn own_bpffs() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Without this, mounts would travel back to where the namespace came from.
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none)?;
    mount(Some("bpf"), MOUNT_POINT, Some("bpf"), MsFlags::empty(), none)
}
