//! Capabilities of this process, by name.

use super::{Check, host::Release};
use std::fs;

const CHECK: &str = "capabilities";
/// Where `CAP_BPF` and `CAP_PERFMON` were taken out of `CAP_SYS_ADMIN` (capabilities(7)).
const SPLIT_SINCE: Release = Release(5, 8);

// Numbers of include/uapi/linux/capability.h, which are stable ABI.
const NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const SYS_ADMIN: (u32, &str) = (21, "CAP_SYS_ADMIN");
const PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const BPF: (u32, &str) = (39, "CAP_BPF");

/// Whether this process may load and attach the programs.
pub(super) fn check(release: Option<Release>) -> Check {
    let status = match fs::read_to_string("/proc/self/status") {
        Ok(status) => status,
        Err(error) => {
            let hint = "mount procfs at /proc";
            return Check::fail(CHECK, format!("read /proc/self/status: {error}"), hint);
        }
    };
    match effective(&status) {
        Some(held) => judge(held, release.unwrap_or(SPLIT_SINCE)),
        None => Check::fail(CHECK, "/proc/self/status has no line CapEff", "use Linux"),
    }
}

/// The effective set (proc(5), `CapEff`).
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn judge(held: u64, release: Release) -> Check {
    let has = |capability: (u32, &str)| held & (1 << capability.0) != 0;
    // `bpf_capable()`, `perfmon_capable()` and `bpf_net_capable()` all take CAP_SYS_ADMIN instead.
    if has(SYS_ADMIN) {
        return Check::ok(CHECK, "CAP_SYS_ADMIN, which includes all that is needed");
    }
    if release < SPLIT_SINCE {
        let finding = "CAP_SYS_ADMIN is missing; before Linux 5.8 nothing smaller is enough";
        return Check::fail(CHECK, finding, "run as root, or grant CAP_SYS_ADMIN");
    }
    let needed = [BPF, NET_ADMIN, PERFMON];
    let missing: Vec<_> = needed.into_iter().filter(|it| !has(*it)).collect();
    if missing.is_empty() {
        return Check::ok(CHECK, "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON");
    }
    let names: Vec<_> = missing.iter().map(|(_, name)| *name).collect();
    let names = names.join(", ");
    let finding = format!("{names}: missing");
    Check::fail(CHECK, finding, format!("run as root, or grant {names}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Verdict;

    #[test]
    fn what_is_missing_is_named() {
        let bit = |capability: (u32, &str)| 1 << capability.0;
        let new = Release(6, 1);
        assert_eq!(judge(bit(SYS_ADMIN), Release(5, 4)).verdict, Verdict::Ok);
        assert_eq!(judge(bit(BPF) | bit(NET_ADMIN) | bit(PERFMON), new).verdict, Verdict::Ok);
        let check = judge(bit(BPF), new);
        assert_eq!(check.verdict, Verdict::Fail);
        assert_eq!(check.finding, "CAP_NET_ADMIN, CAP_PERFMON: missing");
        let check = judge(bit(BPF) | bit(NET_ADMIN) | bit(PERFMON), Release(5, 7));
        assert!(check.hint.unwrap().contains("CAP_SYS_ADMIN"));
    }

    #[test]
    fn the_effective_set_is_read() {
        let status = "CapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(effective(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
