//! Capabilities of this process, by name.

use super::{Check, host::Release};
use crate::datapath::capabilities;

const CHECK: &str = "capabilities";
/// Where `CAP_BPF` and `CAP_PERFMON` were taken out of `CAP_SYS_ADMIN` (capabilities(7)).
const SPLIT_SINCE: Release = Release(5, 8);

/// Whether this process may load and attach the programs.
pub(super) fn check(release: Option<Release>) -> Check {
    match capabilities::held() {
        Ok(held) => judge(held, release.unwrap_or(SPLIT_SINCE)),
        Err(error) => Check::fail(CHECK, error.to_string(), "mount procfs at /proc"),
    }
}

fn judge(held: u64, release: Release) -> Check {
    if capabilities::has_sys_admin(held) {
        return Check::ok(CHECK, "CAP_SYS_ADMIN, which includes all that is needed");
    }
    if release < SPLIT_SINCE {
        let finding = "CAP_SYS_ADMIN is missing; before Linux 5.8 nothing smaller is enough";
        return Check::fail(CHECK, finding, "run as root, or grant CAP_SYS_ADMIN");
    }
    let missing = capabilities::missing(held);
    if missing.is_empty() {
        return Check::ok(CHECK, "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON");
    }
    let names = missing.join(", ");
    let finding = format!("{names}: missing");
    Check::fail(CHECK, finding, format!("run as root, or grant {names}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Verdict;

    const SYS_ADMIN: u64 = 1 << 21;
    const NET_ADMIN: u64 = 1 << 12;
    const PERFMON: u64 = 1 << 38;
    const BPF: u64 = 1 << 39;

    #[test]
    fn what_is_missing_is_named() {
        let new = Release(6, 1);
        assert_eq!(judge(SYS_ADMIN, Release(5, 4)).verdict, Verdict::Ok);
        assert_eq!(judge(BPF | NET_ADMIN | PERFMON, new).verdict, Verdict::Ok);
        let check = judge(BPF, new);
        assert_eq!(check.verdict, Verdict::Fail);
        assert_eq!(check.finding, "CAP_NET_ADMIN, CAP_PERFMON: missing");
        let check = judge(BPF | NET_ADMIN | PERFMON, Release(5, 7));
        assert!(check.hint.unwrap().contains("CAP_SYS_ADMIN"));
    }
}
