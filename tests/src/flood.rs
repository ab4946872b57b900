//! Map writes faster than any agent makes them: many values of one array entry in one system call.

use std::{io, os::fd::AsRawFd, path::Path};

/// `enum bpf_cmd` (include/uapi/linux/bpf.h), since Linux 5.6.
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
struct BatchUpdate {
    first: u64,
    last: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Writes all `values`, one after the other, to entry `index` of the array pinned at `map`.
///
/// # Errors
/// As the kernel says.
pub fn write_all<T: bytemuck::Pod>(map: &Path, index: u32, values: &[T]) -> io::Result<()> {
    let map = balancer_agent::datapath::sys::open_pinned(map)?;
    let keys = vec![index; values.len()];
    let mut batch = BatchUpdate {
        first: 0,
        last: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(values.len()).map_err(io::Error::other)?,
        map_fd: map.as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `batch` is laid out as the command wants it, and keys and values outlive the call.
    // The map's values must be as large as `T`: `T` is the shared type that the map was made for.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_UPDATE_BATCH,
            &raw mut batch,
            size_of::<BatchUpdate>() as libc::c_ulong,
        )
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
