//! The entry of an interface: notes down which network namespace it is in, and goes on to the program in force.
//!
//! Packets do not tell their namespace before Linux 6.15, and addresses of different namespaces may be the
//! same. So each interface has an entry of its own, put together here: a dozen instructions, which
//! no compiler is needed for.

use super::super::sys::{self, Assembled, ProgramType};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// `SO_NETNS_COOKIE` (include/uapi/asm-generic/socket.h, Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;
/// Where a program finds its notes in `struct __sk_buff`: `cb`.
const NOTES_AT: u16 = 48;
/// `bpf_tail_call`.
const TAIL_CALL: u32 = 12;

/// What stands before the IP header of an interface's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkLayer {
    /// Fourteen bytes.
    Ethernet,
    /// Nothing.
    None,
}

impl LinkLayer {
    /// That of an interface in the calling thread's network namespace.
    pub(super) fn of(interface: &str) -> io::Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        // SAFETY: plain numbers, for which zeros are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in
            request.ifr_name.iter_mut().zip(interface.bytes().take(libc::IFNAMSIZ - 1))
        {
            *to = from.cast_signed();
        }
        // SAFETY: the kernel reads the name and writes the address, which both are in the record.
        let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call that succeeded has written this member.
        let kind = unsafe { request.ifr_ifru.ifru_hwaddr.sa_family };
        let ethernet = [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(&kind);
        Ok(if ethernet { Self::Ethernet } else { Self::None })
    }

    const fn bytes(self) -> u32 {
        match self {
            Self::Ethernet => 14,
            Self::None => 0,
        }
    }
}

/// What an entry notes down, and where it leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) netns: u64,
    pub(super) link_layer: LinkLayer,
    /// Index in `HTTP2_PROGRAMS`.
    pub(super) program: u32,
}

impl Entry {
    /// Loads it; `programs` is the map `HTTP2_PROGRAMS`.
    pub(super) fn load(self, programs: &OwnedFd) -> io::Result<OwnedFd> {
        let instructions = self.instructions(programs.as_fd().as_raw_fd().cast_unsigned());
        let (kind, name) = (ProgramType::Classifier, "http2_entry");
        sys::load(&Assembled { kind, hook: None, name, instructions: &instructions })
    }

    fn instructions(self, programs: u32) -> [u64; 12] {
        // Opcodes of include/uapi/linux/bpf.h: a move of 32 bits, a store of 32 bits, a load of 64 bits.
        const MOVE: u8 = 0xb4;
        const MOVE_64: u8 = 0xb7;
        const STORE: u8 = 0x63;
        const LOAD_64: u8 = 0x18;
        const CALL: u8 = 0x85;
        const EXIT: u8 = 0x95;
        const PSEUDO_MAP_FD: u8 = 1;
        // `TC_ACT_UNSPEC`: where no program is in force, packets go by.
        const PASS: u32 = u32::MAX;
        let note = |index: u16, value: u32| {
            [instruction(MOVE, 2, 0, 0, value), instruction(STORE, 1, 2, NOTES_AT + 4 * index, 0)]
        };
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of it")]
        let [low, high] = [note(0, self.netns as u32), note(1, (self.netns >> 32) as u32)];
        let link = note(2, self.link_layer.bytes());
        [
            low[0],
            low[1],
            high[0],
            high[1],
            link[0],
            link[1],
            instruction(LOAD_64, 2, PSEUDO_MAP_FD, 0, programs),
            0,
            instruction(MOVE, 3, 0, 0, self.program),
            instruction(CALL, 0, 0, 0, TAIL_CALL),
            instruction(MOVE_64, 0, 0, 0, PASS),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    }
}

/// `struct bpf_insn`.
fn instruction(opcode: u8, to: u8, from: u8, offset: u16, immediate: u32) -> u64 {
    let registers = to | (from << 4);
    let [o0, o1] = offset.to_ne_bytes();
    let [i0, i1, i2, i3] = immediate.to_ne_bytes();
    u64::from_ne_bytes([opcode, registers, o0, o1, i0, i1, i2, i3])
}

/// The cookie of the calling thread's network namespace.
pub(super) fn netns_cookie() -> io::Result<u64> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most eight bytes, which `cookie` has.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if rc == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
