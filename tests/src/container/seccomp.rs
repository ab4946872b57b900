//! What container runtimes deny by seccomp to a container with the agent's capabilities.

use anyhow::Context;
use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::env::consts::ARCH;

/// Denied to all that have neither `CAP_DAC_READ_SEARCH`, `CAP_SYS_BOOT`, `CAP_SYS_CHROOT`, `CAP_SYS_MODULE`,
/// `CAP_SYS_PACCT`, `CAP_SYS_RAWIO`, `CAP_SYS_TIME` nor `CAP_SYS_TTY_CONFIG`, by the profile that a runtime has by
/// default in one or another of its versions (containerd, `contrib/seccomp/seccomp_default.go`; what it names
/// is allowed, so these are the ones that it does not name). The strictest of all is meant: versions differ.
const DENIED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_get_mempolicy,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_mbind,
    libc::SYS_memfd_secret,
    libc::SYS_migrate_pages,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Denies those to this process and what it becomes, with `EPERM` as runtimes do. The last step before a program
/// is run.
///
/// # Errors
/// When the kernel or the architecture has no seccomp filters.
pub(super) fn apply() -> anyhow::Result<()> {
    let mut rules: std::collections::BTreeMap<_, _> =
        DENIED.iter().map(|&number| (number, Vec::new())).collect();
    // Sockets to hypervisors and to the kernel's ciphers are not for containers.
    let of_family = |family: libc::c_int| {
        let family = u64::try_from(family)?;
        let is = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family)?;
        Ok::<_, anyhow::Error>(SeccompRule::new(vec![is])?)
    };
    rules.insert(libc::SYS_socket, vec![of_family(libc::AF_VSOCK)?, of_family(libc::AF_ALG)?]);
    let denied = SeccompAction::Errno(Errno::EPERM as u32);
    let target = ARCH.try_into().with_context(|| format!("seccomp filters for {ARCH}"))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, target)?;
    let program: BpfProgram = filter.try_into().context("compile the seccomp filter")?;
    seccompiler::apply_filter(&program).context("confine the process by seccomp")
}
