//! The few bpf(2) commands that aya does not offer: open, inspect and update links; query hooks.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

// Command numbers of `enum bpf_cmd` and attach types of `enum bpf_attach_type`
// (include/uapi/linux/bpf.h), which are stable ABI.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `BPF_OBJ_NAME_LEN`, with the zero at the end.
const NAME_BYTES: usize = 16;

/// Most programs that one hook of a cgroup is asked for; the kernel's own limit is 64.
const QUERY_MAX: usize = 64;

/// What a program is run for (`enum bpf_prog_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ProgramType {
    /// Packets of an interface, `BPF_PROG_TYPE_SCHED_CLS`.
    Classifier = 3,
    /// TCP events, `BPF_PROG_TYPE_SOCK_OPS`.
    SockOps = 13,
    /// Addresses of `connect()` and the like, `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
    SockAddr = 18,
}

/// A program that is too small for a compiler.
#[derive(Clone, Copy, Debug)]
pub struct Assembled<'p> {
    /// What it is run for.
    pub kind: ProgramType,
    /// Where it will be attached, if that is a cgroup.
    pub hook: Option<AttachType>,
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: &'p str,
    /// Its instructions, each as opcode, registers, offset and a 32-bit immediate.
    pub instructions: &'p [u64],
}

/// Where a program attaches to a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    /// `BPF_CGROUP_SOCK_OPS` (4.13).
    SockOps = 3,
    /// `BPF_CGROUP_INET4_CONNECT` (4.17).
    Connect4 = 10,
    /// `BPF_CGROUP_INET6_CONNECT` (4.17).
    Connect6 = 11,
    /// `BPF_CGROUP_INET4_GETPEERNAME` (5.8).
    Getpeername4 = 29,
    /// `BPF_CGROUP_INET6_GETPEERNAME` (5.8).
    Getpeername6 = 30,
    /// `BPF_CGROUP_INET_SOCK_RELEASE` (5.9).
    SockRelease = 34,
}

/// Where a program attaches to an interface (Linux 6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TcxHook {
    /// `BPF_TCX_INGRESS`.
    Ingress = 46,
    /// `BPF_TCX_EGRESS`.
    Egress = 47,
}

/// What the kernel tells of a cgroup link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The program that runs.
    pub program_id: u32,
    /// The cgroup it runs for; zero when that cgroup is gone.
    pub cgroup_id: u64,
}

#[repr(C)]
#[derive(Default)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

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
    /// A descriptor or the index of an interface.
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info`, the part for cgroup links.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    cgroup_id: u64,
    attach_type: u32,
    padding_end: u32,
}

#[repr(C)]
struct ProgQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// Calls bpf(2) with an attribute block that the kernel may write to.
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is a live, initialised #[repr(C)] block of the given size, laid out as
    // `union bpf_attr` wants it for the command; callers keep what it points to alive.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>() as libc::c_ulong,
        )
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

fn raw(fd: &impl AsFd) -> u32 {
    // File descriptors of a process are never negative.
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// Takes a descriptor that the kernel has just made.
fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: callers pass what bpf(2) returned for a command that makes a descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Loads a program from its instructions.
///
/// # Errors
/// As the kernel says; `EACCES` or `EINVAL` when the verifier refuses it.
pub fn load(program: &Assembled<'_>) -> io::Result<OwnedFd> {
    let Assembled { kind, hook, name, instructions } = program;
    let mut prog_name = [0; NAME_BYTES];
    prog_name.iter_mut().zip(name.bytes()).take(NAME_BYTES - 1).for_each(|(to, from)| *to = from);
    let mut attributes = ProgLoad {
        prog_type: *kind as u32,
        insn_cnt: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        prog_name,
        expected_attach_type: hook.map_or(0, |hook| hook as u32),
        ..ProgLoad::default()
    };
    own(bpf(BPF_PROG_LOAD, &mut attributes)?)
}

/// Attaches a program to an interface of the calling thread's network namespace, by a link (Linux 6.6).
///
/// # Errors
/// As the kernel says; `EINVAL` where it has no such links.
pub fn attach_tcx(program: &impl AsFd, interface: u32, hook: TcxHook) -> io::Result<OwnedFd> {
    attach(program, interface, hook as u32)
}

/// Attaches a program to a cgroup, by a link (Linux 5.7).
///
/// # Errors
/// As the kernel says.
pub fn attach_cgroup(
    program: &impl AsFd,
    cgroup: &impl AsFd,
    hook: AttachType,
) -> io::Result<OwnedFd> {
    attach(program, raw(cgroup), hook as u32)
}

fn attach(program: &impl AsFd, target: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate { prog_fd: raw(program), target, attach_type, flags: 0 };
    own(bpf(BPF_LINK_CREATE, &mut attributes)?)
}

/// Pins an object, so that it outlives this process.
///
/// # Errors
/// As the kernel says.
pub fn pin(object: &impl AsFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes =
        ObjGet { pathname: path.as_ptr() as u64, bpf_fd: raw(object), ..ObjGet::default() };
    bpf(BPF_OBJ_PIN, &mut attributes).map(drop)
}

/// Opens a pinned object.
///
/// # Errors
/// As the kernel says; `NotFound` when nothing is pinned there.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjGet { pathname: path.as_ptr() as u64, ..ObjGet::default() };
    own(bpf(BPF_OBJ_GET, &mut attributes)?)
}

/// Replaces the program of a link, atomically (Linux 5.7, `cgroup_bpf_replace()`).
///
/// # Errors
/// As the kernel says; `EINVAL` when the program is of another type.
pub fn update_link(link: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    let mut attributes =
        LinkUpdate { link_fd: raw(link), new_prog_fd: raw(program), flags: 0, old_prog_fd: 0 };
    bpf(BPF_LINK_UPDATE, &mut attributes).map(drop)
}

/// Detaches the program of a link at once (Linux 5.9), whoever holds the link.
///
/// # Errors
/// As the kernel says.
pub fn detach_link(link: &impl AsFd) -> io::Result<()> {
    let mut link_fd = raw(link);
    bpf(BPF_LINK_DETACH, &mut link_fd).map(drop)
}

/// What a cgroup link runs, and where.
///
/// # Errors
/// As the kernel says.
pub fn link_info(link: &impl AsFd) -> io::Result<LinkInfo> {
    let mut info = RawLinkInfo::default();
    let mut attributes = InfoByFd {
        bpf_fd: raw(link),
        info_len: u32::try_from(size_of::<RawLinkInfo>()).map_err(io::Error::other)?,
        info: &raw mut info as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(LinkInfo { program_id: info.prog_id, cgroup_id: info.cgroup_id })
}

/// The index of the interface that a tcx link is attached to; zero when that interface is gone.
///
/// # Errors
/// As the kernel says.
pub fn tcx_interface(link: &impl AsFd) -> io::Result<u32> {
    let info = link_info(link)?;
    // `struct { __u32 ifindex; __u32 attach_type; } tcx` stands where cgroup links have their id.
    let [a, b, c, d, ..] = info.cgroup_id.to_ne_bytes();
    Ok(u32::from_ne_bytes([a, b, c, d]))
}

/// The ids of all programs that are attached to a hook of this cgroup itself.
///
/// # Errors
/// As the kernel says.
pub fn query_programs(cgroup: &impl AsFd, attach_type: AttachType) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; QUERY_MAX];
    let mut attributes = ProgQuery {
        target_fd: raw(cgroup),
        attach_type: attach_type as u32,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: u32::try_from(QUERY_MAX).map_err(io::Error::other)?,
        padding: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attributes)?;
    Ok(ids.into_iter().take(attributes.prog_cnt as usize).collect())
}
