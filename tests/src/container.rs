//! A container such as the agent's: a root file system of its own, read-only, into which places of the
//! node are mounted, the node's processes and network, few capabilities and system calls.
//!
//! What a container runtime does with a pod's manifest is done here for one program, by a process that
//! becomes it (`balancer-container PLAN [COMMAND...]`).

mod seccomp;

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{chdir, pivot_root},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// What capabilities are called in manifests, and their numbers (linux/capability.h).
const CAPABILITIES: [(&str, u8); 5] =
    [("NET_ADMIN", 12), ("SYS_PTRACE", 19), ("SYS_ADMIN", 21), ("PERFMON", 38), ("BPF", 39)];
/// `CAP_LAST_CAP` has been 40 since 5.9; later ones are asked for up to here.
const CAPABILITY_MAX: u8 = 63;

/// What is to become of the process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The root file system; mount points are made in it as container runtimes make them.
    pub root: PathBuf,
    /// What of the node is mounted, in this order.
    pub mounts: Vec<Mount>,
    /// What it may do.
    pub confinement: Confinement,
    /// What runs, by its path in the container, with its arguments. Empty: what follows the plan.
    pub command: Vec<String>,
}

/// What a manifest's `securityContext` leaves a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Confinement {
    /// The capabilities that stay, without `CAP_`.
    pub capabilities: Vec<String>,
    /// Whether what runtimes deny by default is denied (`RuntimeDefault`).
    pub has_default_seccomp: bool,
}

/// A place of the node in the container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// On the node.
    pub from: PathBuf,
    /// In the container.
    pub to: PathBuf,
    /// Whether it can only be read.
    pub read_only: bool,
    /// With all that is mounted below it.
    pub recursive: bool,
}

impl Confinement {
    /// That of the DaemonSet's container.
    ///
    /// # Errors
    /// When the manifest does not take every capability away before it adds some.
    pub fn of_manifest() -> anyhow::Result<Self> {
        let manifest = include_str!("../../deploy/base/daemon-set.yaml");
        let manifest: Value = serde_saphyr::from_str(manifest).context("read the manifest")?;
        let security = &manifest["spec"]["template"]["spec"]["containers"][0]["securityContext"];
        let names = |list: &str| -> anyhow::Result<Vec<String>> {
            let list = security["capabilities"][list].clone();
            serde_json::from_value(list).context("read the capabilities of the manifest")
        };
        anyhow::ensure!(names("drop")? == ["ALL"], "the manifest keeps capabilities");
        let has_default_seccomp = security["seccompProfile"]["type"] == "RuntimeDefault";
        Ok(Self { capabilities: names("add")?, has_default_seccomp })
    }
}

/// The program that becomes a container's; it lies beside those that use it, or one level up from tests.
///
/// # Errors
/// Says how to build it.
pub fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find the own binary")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("balancer-container"))
        .find(|path| path.exists())
        .context(
            "no `balancer-container` beside this binary; hint: `cargo build -p balancer-tests`",
        )
}

/// Becomes the container's program. Returns only if that fails.
///
/// # Errors
/// Names the step that failed.
pub fn enter(plan: &Plan) -> anyhow::Result<()> {
    let Some((program, arguments)) = plan.command.split_first() else { bail!("no command") };
    let bits = mask(&plan.confinement.capabilities)?;
    unshare(CloneFlags::CLONE_NEWNS).context("unshare the mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("part from the node")?;
    bind(&plan.root, &plan.root, MsFlags::empty())?;
    for place in &plan.mounts {
        mount_place(&plan.root, place)?;
    }
    make_read_only(&plan.root)?;
    chdir(&plan.root).context("enter the root file system")?;
    // The same place twice: the old root lies upon the new one, until it is let go (pivot_root(2)).
    pivot_root(".", ".").context("change the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("let the node's root go")?;
    chdir("/").context("enter the root")?;
    for capability in (0..=CAPABILITY_MAX).filter(|capability| bits >> capability & 1 == 0) {
        drop_capability(capability)?;
    }
    if plan.confinement.has_default_seccomp {
        seccomp::apply()?;
    }
    let error = Command::new(program).args(arguments).env_clear().exec();
    Err(error).with_context(|| format!("run `{program}` in the container"))
}

/// The capabilities as `/proc/PID/status` shows them.
///
/// # Errors
/// When there is no such capability here.
pub fn mask(capabilities: &[String]) -> anyhow::Result<u64> {
    capabilities.iter().try_fold(0, |mask, name| {
        let known = CAPABILITIES.iter().find(|(known, _)| known == name);
        let (_, number) = known.with_context(|| format!("which number has CAP_{name}?"))?;
        Ok(mask | 1 << number)
    })
}

fn mount_place(root: &Path, place: &Mount) -> anyhow::Result<()> {
    let relative = place.to.strip_prefix("/").context("a place in a container is absolute")?;
    let to = root.join(relative);
    fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
    let recursive = if place.recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    bind(&place.from, &to, recursive)?;
    if place.read_only { make_read_only(&to) } else { Ok(()) }
}

fn bind(from: &Path, to: &Path, more: MsFlags) -> anyhow::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | more, None::<&str>)
        .with_context(|| format!("mount {} at {}", from.display(), to.display()))
}

fn make_read_only(place: &Path) -> anyhow::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, place, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("make {} read-only", place.display()))
}

/// Takes a capability from the bounding set, which is all that root keeps across exec(2).
fn drop_capability(capability: u8) -> anyhow::Result<()> {
    // SAFETY: it reads its arguments, which are numbers.
    let rc =
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    match Errno::result(rc) {
        // EINVAL: this kernel has no such capability.
        Ok(_) | Err(Errno::EINVAL) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("drop capability {capability}")),
    }
}
