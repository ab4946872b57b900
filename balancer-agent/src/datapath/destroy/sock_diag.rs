//! The kernel's socket diagnosis (sock_diag(7)) for TCP, in the network namespace of the calling thread.

use super::Target;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::SocketAddr,
};

/// Most messages that an answer may have: one holds dozens of sockets.
const MESSAGES_MAX: usize = 65_536;

/// A socket, with what the kernel wants to be told to find it again.
#[derive(Clone, Debug)]
pub(super) struct Found {
    family: u8,
    id: SocketId,
}

/// What became of a request to destroy a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Destroyed,
    /// It ended by itself.
    NotFound,
}

/// A connection to the kernel.
pub(super) struct SockDiag(Socket);

impl SockDiag {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddress::new(0, 0))?;
        // The kernel answers while it is asked: an answer that would have to be waited for is none.
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Those of the targets that are connections here, by cookie.
    pub(super) fn find(&self, targets: &BTreeMap<u64, Target>) -> io::Result<BTreeMap<u64, Found>> {
        let mut found = BTreeMap::new();
        let backends: std::collections::BTreeSet<_> =
            targets.values().map(|target| target.backend).collect();
        for backend in backends {
            // AF_INET6 sockets reach IPv4 backends, too (IPv4-mapped).
            let families: &[u8] =
                if backend.is_ipv4() { &[AF_INET, AF_INET6] } else { &[AF_INET6] };
            for family in families {
                self.dump(*family, backend, |id| {
                    let cookie = cookie(&id);
                    if targets.get(&cookie).is_some_and(|target| target.backend == backend) {
                        found.insert(cookie, Found { family: *family, id });
                    }
                })?;
            }
        }
        Ok(found)
    }

    /// Tells of every connection of a family to an address.
    fn dump(&self, family: u8, to: SocketAddr, mut tell: impl FnMut(SocketId)) -> io::Result<()> {
        let mut id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        // The kernel filters by port, but not by address.
        id.destination_port = to.port();
        let request = request(family, id);
        self.send(SockDiagMessage::InetRequest(request), NLM_F_REQUEST | NLM_F_DUMP)?;
        self.receive(|message: SockDiagMessage| {
            if let SockDiagMessage::InetResponse(response) = message {
                let id = response.header.socket_id;
                let address =
                    SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
                if address == to {
                    tell(id);
                }
            }
        })
    }

    /// Destroys the very socket that was found: its cookie is part of the request, and the kernel
    /// compares it (`sock_diag_check_cookie()`).
    pub(super) fn destroy(&self, found: &Found) -> io::Result<Outcome> {
        let request = SockDiagMessage::InetRequest(request(found.family, found.id.clone()));
        self.send(SockDiagDestroy::new(request), NLM_F_REQUEST | NLM_F_ACK)?;
        match self.receive(|_: SockDiagDestroy| ()) {
            Ok(()) => Ok(Outcome::Destroyed),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Outcome::NotFound),
            Err(error) => Err(error),
        }
    }

    /// Asks the kernel to destroy a socket that cannot be: port 0, cookie 0.
    pub(super) fn probe(&self) -> io::Result<()> {
        self.destroy(&Found { family: AF_INET, id: SocketId::new_v4() }).map(drop)
    }

    fn send<T>(&self, message: T, flags: u16) -> io::Result<()>
    where
        T: NetlinkSerializable,
    {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        self.0.send(&buffer, 0).map(drop)
    }

    /// Reads an answer to its end.
    fn receive<T>(&self, mut tell: impl FnMut(T)) -> io::Result<()>
    where
        T: NetlinkDeserializable,
    {
        for _ in 0..MESSAGES_MAX {
            let (bytes, _) = self.0.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let packet = NetlinkMessage::<T>::deserialize(rest).map_err(io::Error::other)?;
                let length = (packet.header.length as usize).next_multiple_of(4);
                match packet.payload {
                    NetlinkPayload::InnerMessage(message) => tell(message),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(()),
                            Some(code) => {
                                Err(io::Error::from_raw_os_error(code.get().saturating_neg()))
                            }
                        };
                    }
                    _ => {}
                }
                rest = rest.get(length.max(1)..).unwrap_or_default();
            }
        }
        Err(io::Error::other("the kernel's answer has no end"))
    }
}

/// A request for connections, which neither listen nor have ended.
fn request(family: u8, socket_id: SocketId) -> InetRequest {
    let ended = StateFlags::LISTEN | StateFlags::TIME_WAIT | StateFlags::CLOSE;
    InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all().difference(ended),
        socket_id,
    }
}

/// The cookie as kernel programs see it: the kernel writes its halves, the lower first
/// (`sock_diag_save_cookie()`).
fn cookie(id: &SocketId) -> u64 {
    let half = |at: usize| u32::from_ne_bytes(std::array::from_fn(|index| id.cookie[at + index]));
    let (low, high) = (half(0), half(4));
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_whole_numbers() {
        let mut id = SocketId::new_v4();
        id.cookie[..4].copy_from_slice(&7_u32.to_ne_bytes());
        id.cookie[4..].copy_from_slice(&1_u32.to_ne_bytes());
        assert_eq!(cookie(&id), (1 << 32) + 7);
    }

    #[test]
    fn the_kernel_finds_a_socket_by_its_backend_and_cookie_only() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(backend).unwrap();
        let mut own = 0_u64;
        let mut length = 8;
        // SAFETY: the kernel writes a u64 (SO_COOKIE of socket(7)), for which there is room.
        let rc = unsafe {
            libc::getsockopt(
                std::os::fd::AsRawFd::as_raw_fd(&client),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut own).cast(),
                &raw mut length,
            )
        };
        assert_eq!(rc, 0);
        let Ok(diag) = SockDiag::open() else { return };
        let found = |cookie, backend| {
            let targets = BTreeMap::from([(cookie, Target { backend })]);
            diag.find(&targets).unwrap().into_keys().collect::<Vec<_>>()
        };
        assert_eq!(found(own, backend), [own]);
        assert!(found(own + 1, backend).is_empty());
        let elsewhere = SocketAddr::from(([127, 0, 0, 2], backend.port()));
        assert!(found(own, elsewhere).is_empty());
    }
}
