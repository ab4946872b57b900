//! Programs of two instructions on the hooks that a connection passes: what the kernel charges for running any program.
//!
//! They must not be in the product's object, and are too small for a compiler: so they are assembled
//! here and loaded by bpf(2), which aya offers for whole objects only.

use crate::world::World;
use anyhow::Context;
use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

// Commands, types and instructions of include/uapi/linux/bpf.h, which are stable ABI.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_PROG_TYPE_SOCK_OPS: u32 = 13;
const BPF_CGROUP_INET4_CONNECT: u32 = 10;
const BPF_CGROUP_SOCK_OPS: u32 = 3;
/// `r0 = 1; exit`, each as opcode, registers, offset and a 32-bit immediate.
const INSTRUCTIONS: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
const NAME_BYTES: usize = 16;

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_BYTES],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Where a null program is attached.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// `connect()` of AF_INET sockets.
    Connect4,
    /// The TCP events of every socket.
    SockOps,
}

impl Hook {
    const fn types(self) -> (u32, u32) {
        match self {
            Self::Connect4 => (BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT),
            Self::SockOps => (BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS),
        }
    }
}

/// The program, attached for as long as this lives.
pub struct NullProgram {
    name: String,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl NullProgram {
    /// Loads it and attaches it to `cgroup`, by a link as every program of balancer.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn attach(cgroup: &Path, hook: Hook) -> anyhow::Result<Self> {
        let (prog_type, attach_type) = hook.types();
        let name = format!("null{attach_type}_{}", std::process::id());
        let mut prog_name = [0; NAME_BYTES];
        prog_name[..name.len()].copy_from_slice(name.as_bytes());
        let license = c"GPL";
        let mut load = ProgLoad {
            prog_type,
            insn_cnt: 2,
            insns: INSTRUCTIONS.as_ptr() as u64,
            license: license.as_ptr() as u64,
            prog_name,
            expected_attach_type: attach_type,
            ..ProgLoad::default()
        };
        let program = bpf(BPF_PROG_LOAD, &mut load).context("load the null program")?;
        let directory =
            File::open(cgroup).with_context(|| format!("open cgroup {}", cgroup.display()))?;
        let mut create = LinkCreate {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            target_fd: directory.as_raw_fd().cast_unsigned(),
            attach_type,
            flags: 0,
        };
        let link = bpf(BPF_LINK_CREATE, &mut create).context("attach the null program")?;
        Ok(Self { name, _program: program, _link: link })
    }

    /// Its runs, and the nanoseconds that they took.
    ///
    /// # Errors
    /// When the kernel does not show it.
    pub fn runs(&self) -> anyhow::Result<(u64, u64)> {
        let info = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .find(|info| info.name_as_str() == Some(self.name.as_str()))
            .context("the null program is not loaded")?;
        let ns = u64::try_from(info.run_time().as_nanos())?;
        Ok((info.run_count(), ns))
    }
}

/// A cgroup beside that of a world, in which no program of the product runs. Removed when dropped.
pub struct CgroupBeside(PathBuf);

impl CgroupBeside {
    /// Makes it.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn new(world: &World, name: &str) -> anyhow::Result<Self> {
        let path = world.cgroup().with_extension(name);
        fs::create_dir(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self(path))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for CgroupBeside {
    fn drop(&mut self) {
        // A process that is left in it keeps it; the next run has a name of its own.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Calls bpf(2) for a command that makes a descriptor.
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is a live, initialised #[repr(C)] block of the given size, laid out as
    // `union bpf_attr` wants it for the command; callers keep what it points to alive.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>() as libc::c_ulong,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
