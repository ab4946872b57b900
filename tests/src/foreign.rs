//! A program of another owner on a hook of a cgroup, as other agents of a node attach them.
//!
//! It is too small for a compiler: it is assembled here and loaded by itself, which aya offers for
//! whole objects only. Its link is pinned nowhere, so that it is detached with this process at the latest.

use anyhow::Context;
use aya::programs::loaded_programs;
use balancer_agent::datapath::sys::{self, Assembled, AttachType, ProgramType};
use std::{
    fs::File,
    net::SocketAddrV4,
    os::fd::OwnedFd,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

static PROGRAMS: AtomicU32 = AtomicU32::new(0);

/// What it does with each `connect()` or event.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Nothing.
    LetBy,
    /// Refuses the system call, which fails with `EPERM`.
    Refuse,
    /// Leads the connection to this address; for `connect()` of AF_INET sockets.
    LeadTo(SocketAddrV4),
}

/// The program, attached for as long as this lives.
pub struct ForeignProgram {
    name: String,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl ForeignProgram {
    /// Loads it and attaches it to `cgroup`, by a link as every program of balancer.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn attach(cgroup: &Path, hook: AttachType, act: Act) -> anyhow::Result<Self> {
        let kind = match hook {
            AttachType::SockOps => ProgramType::SockOps,
            _ => ProgramType::SockAddr,
        };
        let number = PROGRAMS.fetch_add(1, Ordering::Relaxed);
        let name = format!("alien{number}_{}", std::process::id());
        let program =
            Assembled { kind, hook: Some(hook), name: &name, instructions: &instructions(act) };
        let program = sys::load(&program).context("load a program of another owner")?;
        let directory =
            File::open(cgroup).with_context(|| format!("open cgroup {}", cgroup.display()))?;
        let link = sys::attach_cgroup(&program, &directory, hook)
            .context("attach a program of another owner")?;
        Ok(Self { name, _program: program, _link: link })
    }

    /// Its name, as the kernel shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its runs, and the nanoseconds that they took. Both stand still unless statistics are on.
    ///
    /// # Errors
    /// When the kernel does not show it.
    pub fn runs(&self) -> anyhow::Result<(u64, u64)> {
        let info = loaded_programs()
            .filter_map(Result::ok)
            .find(|info| info.name_as_str() == Some(self.name.as_str()))
            .context("the program is not loaded")?;
        let ns = u64::try_from(info.run_time().as_nanos())?;
        Ok((info.run_count(), ns))
    }
}

/// Each as opcode, registers, offset and a 32-bit immediate.
fn instructions(act: Act) -> Vec<u64> {
    /// `exit`.
    const EXIT: u64 = 0x95;
    /// `r0 = immediate`.
    const RETURN: u64 = 0xb7;
    let verdict = |verdict: u64| [verdict << 32 | RETURN, EXIT];
    match act {
        Act::LetBy => verdict(1).to_vec(),
        Act::Refuse => verdict(0).to_vec(),
        Act::LeadTo(to) => {
            /// `r2 = immediate`, 32 bits wide.
            const LOAD: u64 = 0x02b4;
            /// `*(u32 *)(r1 + offset) = r2`.
            const STORE: u64 = 0x2163;
            let load = |value: u32| u64::from(value) << 32 | LOAD;
            // Of `struct bpf_sock_addr`, both in network byte order.
            let (user_ip4, user_port) = (4_u64 << 16, 24_u64 << 16);
            let ip = u32::from_ne_bytes(to.ip().octets());
            let port = u32::from(to.port().to_be());
            let rewrite = [load(ip), user_ip4 | STORE, load(port), user_port | STORE];
            [&rewrite[..], &verdict(1)].concat()
        }
    }
}
