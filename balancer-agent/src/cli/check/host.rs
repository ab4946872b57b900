//! The kernel, its file systems and switches, and the agent, as far as looking at them tells.

use super::Check;
use crate::{
    admin::{
        self, Answer, Request,
        client::{self, ClientError},
    },
    cli::arguments::Global,
    datapath::{bpffs, cgroup, destroy},
};
use nix::sys::utsname::uname;
use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
};

/// Major and minor version of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Release(pub(super) u32, pub(super) u32);

/// The oldest kernel that has every hook (`BPF_CGROUP_INET_SOCK_RELEASE` is of 5.9).
const OLDEST: Release = Release(5, 9);
/// The oldest kernel that is tested.
const OLDEST_TESTED: Release = Release(5, 10);
/// Before this, a socket touched by net_cls or net_prio of cgroup v1 counts as in the root of
/// cgroup v2 (commit 8520e224f547).
const MIXED_CGROUPS_SINCE: Release = Release(5, 15);

impl Release {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next()?.parse().ok();
        Some(Self(number()?, number()?))
    }
}

/// The running kernel's version.
pub(super) fn release() -> Option<Release> {
    Release::parse(uname().ok()?.release().to_str()?)
}

/// The kernel's version. What it lacks is found by [`super::proof`].
pub(super) fn kernel(release: Option<Release>) -> Check {
    const CHECK: &str = "kernel";
    let text = uname().map(|it| it.release().to_string_lossy().into_owned());
    let text = text.unwrap_or_default();
    match release {
        None => Check::warn(CHECK, format!("its version `{text}` is not understood"), "go on"),
        Some(release) if release < OLDEST => Check::fail(
            CHECK,
            format!("{text} lacks the hook that follows the end of sockets (Linux 5.9)"),
            "use Linux 5.10 or newer",
        ),
        Some(release) if release < OLDEST_TESTED => {
            Check::warn(CHECK, format!("{text} is not tested"), "use Linux 5.10 or newer")
        }
        Some(_) => Check::ok(CHECK, text),
    }
}

/// The hierarchy, and the cgroup that is to be balanced.
pub(super) fn cgroup(global: &Global) -> Check {
    const CHECK: &str = "cgroup v2";
    let path = match global.cgroup() {
        Ok(path) => path,
        Err(error) => return Check::error(CHECK, &error.to_string()),
    };
    match cgroup::id(&path) {
        Ok(id) => Check::ok(CHECK, format!("{} (id {id})", path.display())),
        Err(error) => Check::error(CHECK, &error.to_string()),
    }
}

/// Controllers of cgroup v1 that hide a socket's place in cgroup v2 on old kernels.
pub(super) fn cgroup_v1(release: Option<Release>) -> Option<Check> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let controllers = network_controllers(&mounts);
    let old = release.is_some_and(|release| release < MIXED_CGROUPS_SINCE);
    if controllers.is_empty() || !old {
        return None;
    }
    Some(Check::warn(
        "cgroup v1",
        format!(
            "{} is mounted: before Linux 5.15 sockets of tasks in it are seen in the root of \
             cgroup v2 only, so that pods cannot be told apart by sock_ops",
            controllers.join(" and ")
        ),
        "balance the root cgroup (no --cgroup), or boot without these controllers",
    ))
}

fn network_controllers(mounts: &str) -> Vec<&'static str> {
    let options = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        (fields.next()? == "cgroup").then(|| fields.next()).flatten()
    });
    let options: Vec<&str> = options.flat_map(|options| options.split(',')).collect();
    let wanted = ["net_cls", "net_prio"];
    wanted.into_iter().filter(|it| options.contains(it)).collect()
}

/// Where things are pinned.
pub(super) fn bpffs(global: &Global) -> Check {
    const CHECK: &str = "bpffs";
    let path = &global.pin_root;
    if bpffs::is_on_bpffs(path) {
        return Check::ok(CHECK, format!("holds {}", path.display()));
    }
    let finding = format!("no BPF file system holds {}", path.display());
    let hint = "`mount -t bpf bpf /sys/fs/bpf` as root, or mount it into this container";
    if path.starts_with("/sys/fs/bpf") && Path::new("/sys/fs/bpf").exists() {
        let finding = format!("{finding}; the agent mounts one if it may");
        return Check::warn(CHECK, finding, hint);
    }
    Check::fail(CHECK, finding, hint)
}

/// Whether programs are compiled.
pub(super) fn jit() -> Check {
    const CHECK: &str = "jit";
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
        Ok(text) if text.trim() == "0" => Check::warn(
            CHECK,
            "programs are interpreted, which is several times slower",
            "`sysctl -w net.core.bpf_jit_enable=1`",
        ),
        Ok(_) => Check::ok(CHECK, "programs are compiled"),
        // The switch exists in the first network namespace only.
        Err(_) => Check::ok(CHECK, "cannot be seen from this network namespace"),
    }
}

/// Lockdown closes kernel memory, which the programs do not read.
pub(super) fn lockdown() -> Check {
    const CHECK: &str = "lockdown";
    let text = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let mode = text.split(['[', ']']).nth(1).unwrap_or("none");
    Check::ok(CHECK, format!("{mode}; the programs read no kernel memory"))
}

/// The self-test and its backend live on loopback.
pub(super) fn loopback() -> Check {
    const CHECK: &str = "loopback";
    let tried = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| TcpStream::connect(listener.local_addr()?));
    match tried {
        Ok(_) => Check::ok(CHECK, "carries connections"),
        Err(error) => Check::fail(
            CHECK,
            format!("a connection to 127.0.0.1 fails: {error}"),
            "`ip link set lo up`",
        ),
    }
}

/// Whether an agent runs, and what its last self-test proved.
pub(super) fn agent(global: &Global) -> Check {
    const CHECK: &str = "agent";
    match client::ask(&admin::socket_path(&global.runtime_dir), &Request::Status) {
        Ok(Answer::Status(status)) => {
            let test = status.self_test;
            let pid = status.pid;
            if test.passed {
                return Check::ok(CHECK, format!("process {pid}: {}", test.detail));
            }
            let hint = test.hint.unwrap_or_else(|| "`balancer-agent status`".into());
            Check::fail(CHECK, format!("process {pid}, self-test failed: {}", test.detail), hint)
        }
        Ok(_) => Check::fail(CHECK, "it answers something else", "use one version of both"),
        Err(ClientError::Down { cause, .. }) if cause.kind() == io::ErrorKind::PermissionDenied => {
            Check::warn(CHECK, format!("its socket is closed to us: {cause}"), "run as root")
        }
        Err(ClientError::Down { .. }) => Check::ok(CHECK, "does not run"),
        Err(error) => Check::error(CHECK, &error.to_string()),
    }
}

/// Whether connections to backends that have left can be ended.
pub(super) fn destroying() -> Check {
    const CHECK: &str = "draining";
    match destroy::check() {
        Ok(()) => Check::ok(CHECK, "the kernel destroys connections to backends that are gone"),
        Err(error) => {
            let error = error.to_string();
            let (finding, hint) =
                error.split_once("; hint: ").unwrap_or((&error, "see the finding"));
            Check::warn(CHECK, finding, hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Verdict;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(Release::parse("6.18.44-x_1"), Some(Release(6, 18)));
        assert_eq!(Release::parse("5.10.0-30-amd64"), Some(Release(5, 10)));
        assert_eq!(Release::parse("5.10-rc1"), Some(Release(5, 10)));
        assert_eq!(Release::parse("linux"), None);
        assert!(Release(5, 9) < Release(5, 10));
        assert_eq!(kernel(Some(Release(5, 8))).verdict, Verdict::Fail);
        assert_eq!(kernel(Some(Release(5, 9))).verdict, Verdict::Warn);
        assert_eq!(kernel(Some(Release(7, 0))).verdict, Verdict::Ok);
    }

    #[test]
    fn network_controllers_of_v1_are_seen() {
        let mounts = "cgroup /c/net cgroup rw,nosuid,net_cls,net_prio 0 0\n\
                      cgroup2 /c/unified cgroup2 rw,net_cls 0 0\n";
        assert_eq!(network_controllers(mounts), ["net_cls", "net_prio"]);
        assert!(network_controllers("cgroup /c/cpu cgroup rw,cpu 0 0\n").is_empty());
    }
}
