//! Whether this process may load and attach the programs: a missing capability is named before the
//! kernel answers with a bare EPERM.

use std::{fs, io};

// Numbers of include/uapi/linux/capability.h, which are stable ABI.
const NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const SYS_ADMIN: u32 = 21;
const PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const BPF: (u32, &str) = (39, "CAP_BPF");

/// Why the programs cannot be loaded by this process.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// The kernel does not tell.
    #[error("read the capabilities in /proc/self/status: {0}; hint: mount procfs at /proc")]
    Unknown(#[source] io::Error),
    /// What is missing.
    #[error(
        "this process lacks {}, without which the kernel refuses the programs; hint: run it as \
         root, or grant {} (before Linux 5.8: CAP_SYS_ADMIN)",
        missing.join(", "), missing.join(", ")
    )]
    Missing {
        /// The capabilities.
        missing: Vec<&'static str>,
    },
}

/// Finds out what is missing.
///
/// # Errors
/// [`CapabilityError::Missing`] names it.
pub fn require() -> Result<(), CapabilityError> {
    let missing = missing(held()?);
    if missing.is_empty() {
        return Ok(());
    }
    Err(CapabilityError::Missing { missing })
}

/// The effective set of this process, a bit for each capability.
///
/// # Errors
/// [`CapabilityError::Unknown`] when the kernel does not tell.
pub fn held() -> Result<u64, CapabilityError> {
    let status = fs::read_to_string("/proc/self/status").map_err(CapabilityError::Unknown)?;
    effective(&status).ok_or_else(|| CapabilityError::Unknown(io::ErrorKind::InvalidData.into()))
}

/// Whether a set holds `CAP_SYS_ADMIN`, which stands for all that is needed: `bpf_capable()`,
/// `perfmon_capable()` and `bpf_net_capable()` take it instead.
pub const fn has_sys_admin(held: u64) -> bool {
    held & (1 << SYS_ADMIN) != 0
}

/// The effective set (proc(5), `CapEff`).
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// What a set lacks of what is needed from Linux 5.8 on.
pub fn missing(held: u64) -> Vec<&'static str> {
    let has = |number: u32| held & (1 << number) != 0;
    if has_sys_admin(held) {
        return Vec::new();
    }
    [BPF, NET_ADMIN, PERFMON]
        .into_iter()
        .filter(|(number, _)| !has(*number))
        .map(|(_, name)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert!(missing(1 << SYS_ADMIN).is_empty());
        assert!(missing(1 << 39 | 1 << 38 | 1 << 12).is_empty());
        assert_eq!(missing(1 << 39 | 1 << 38), ["CAP_NET_ADMIN"]);
        assert_eq!(missing(1 << 12), ["CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn the_effective_set_is_read() {
        let status = "CapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(effective(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
