//! TCP segments in packets: read with every bound checked, changed with their checksums.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_F_PSEUDO_HDR,
    helpers::{bpf_csum_diff, bpf_csum_update, bpf_skb_change_tail, bpf_skb_load_bytes},
    programs::TcContext,
};
use balancer_common::{
    address::Address,
    http2::{
        flow::Http2Key,
        frame::HEAD_BYTES,
        grid::Bytes,
        shift::{FRAME, FRAME_BYTES, frame_sum},
    },
};
use core::ptr;

const ETH_P_IP_BE: u32 = 0x0800_u16.to_be() as u32;
const ETH_P_IPV6_BE: u32 = 0x86dd_u16.to_be() as u32;
const PROTOCOL_TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const IPV6_BYTES: u32 = 40;
const TCP_BYTES: u32 = 20;
/// More fragments, and where a fragment belongs (RFC 791, section 3.1).
const FRAGMENT: u16 = 0x3fff;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 1 << 1;
pub(super) const RST: u8 = 1 << 2;
const PSH: u8 = 1 << 3;
pub(super) const ACK: u8 = 1 << 4;
pub(super) const URG: u8 = 1 << 5;

/// Longest packet that is made longer. The kernel takes about 16,000 bytes from a program at once
/// (`SKB_MAX_ALLOC`, `net/core/filter.c`), and copies them.
const CHANGED_BYTES_MAX: u32 = 15_000;

/// Where the parts of a packet are, and what its TCP header says.
pub(super) struct Packet {
    ip_at: u32,
    pub(super) tcp_at: u32,
    pub(super) payload_at: u32,
    /// Behind the payload; what follows is padding.
    pub(super) end: u32,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) window: u32,
    pub(super) flags: u8,
    is_v6: bool,
    /// Neither options of IP nor fragments.
    pub(super) is_plain: bool,
}

/// Which way a packet goes, as the client's interface sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

impl Packet {
    /// A TCP segment and the connection that it belongs to.
    #[inline(always)]
    pub(super) fn read(ctx: &TcContext, way: Way, key: &mut Http2Key) -> Option<Self> {
        let skb = ctx.skb.skb;
        // SAFETY: the kernel passes a valid context, and all of these fields are readable in it.
        let (protocol, tagged, netns, ip_at) = unsafe {
            (
                ptr::read_volatile(&raw const (*skb).protocol),
                ptr::read_volatile(&raw const (*skb).vlan_present),
                u64::from(ptr::read_volatile(&raw const (*skb).cb[0]))
                    | (u64::from(ptr::read_volatile(&raw const (*skb).cb[1])) << 32),
                ptr::read_volatile(&raw const (*skb).cb[2]),
            )
        };
        // A tagged packet belongs to an interface above this one.
        if tagged != 0 || netns == 0 {
            return None;
        }
        key.netns = netns;
        key.reserved = 0;
        let mut packet = match protocol {
            ETH_P_IP_BE => Self::read_v4(ctx, ip_at, way, key)?,
            ETH_P_IPV6_BE => Self::read_v6(ctx, ip_at, way, key)?,
            _ => return None,
        };
        let tcp: [u8; TCP_BYTES as usize] = ctx.load(packet.tcp_at as usize).ok()?;
        let ports = [u16::from_ne_bytes([tcp[0], tcp[1]]), u16::from_ne_bytes([tcp[2], tcp[3]])];
        (key.client_port_be, key.server_port_be) = match way {
            Way::In => (ports[1], ports[0]),
            Way::Out => (ports[0], ports[1]),
        };
        packet.seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        packet.ack = u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]);
        packet.flags = tcp[13];
        packet.window = u32::from(u16::from_be_bytes([tcp[14], tcp[15]]));
        let header = u32::from(tcp[12] >> 4) * 4;
        packet.payload_at = packet.tcp_at + header;
        let fits = header >= TCP_BYTES && packet.payload_at <= packet.end && packet.end <= ctx.len();
        fits.then_some(packet)
    }

    #[inline(always)]
    fn read_v4(ctx: &TcContext, ip_at: u32, way: Way, key: &mut Http2Key) -> Option<Self> {
        let ip: [u8; 20] = ctx.load(ip_at as usize).ok()?;
        let header = u32::from(ip[0] & 0xf) * 4;
        let fragment = u16::from_be_bytes([ip[6], ip[7]]) & FRAGMENT;
        // Only a first fragment has a TCP header.
        if ip[0] >> 4 != 4 || header < 20 || ip[9] != PROTOCOL_TCP || fragment & 0x1fff != 0 {
            return None;
        }
        let length = u32::from(u16::from_be_bytes([ip[2], ip[3]]));
        let ends = [
            Address::from_v4(u32::from_ne_bytes([ip[12], ip[13], ip[14], ip[15]])),
            Address::from_v4(u32::from_ne_bytes([ip[16], ip[17], ip[18], ip[19]])),
        ];
        place_ends(key, way, ends);
        // Zero in packets of more than 65,535 bytes (Linux 6.3, "BIG TCP" for IPv4).
        let end = if length == 0 { ctx.len() } else { ip_at + length };
        Some(Self::new(ip_at, ip_at + header, end, false, header == 20 && fragment == 0 && length != 0))
    }

    #[inline(always)]
    fn read_v6(ctx: &TcContext, ip_at: u32, way: Way, key: &mut Http2Key) -> Option<Self> {
        let ip: [u8; IPV6_BYTES as usize] = ctx.load(ip_at as usize).ok()?;
        let length = u32::from(u16::from_be_bytes([ip[4], ip[5]]));
        let mut tcp_at = ip_at + IPV6_BYTES;
        let mut end = tcp_at + length;
        let is_plain = ip[6] == PROTOCOL_TCP;
        if !is_plain {
            // The one extension header that TCP gets: that of packets of more than 65,535 bytes (RFC
            // 2675; Linux 5.19, "BIG TCP").
            let option: [u8; 8] = ctx.load(tcp_at as usize).ok()?;
            if ip[6] != HOP_BY_HOP || option[0] != PROTOCOL_TCP || option[1] != 0 {
                return None;
            }
            tcp_at += 8;
            if length == 0 {
                end = ctx.len();
            }
        }
        let word = |at: usize| u32::from_ne_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
        let ends = [
            Address([word(8), word(12), word(16), word(20)]),
            Address([word(24), word(28), word(32), word(36)]),
        ];
        place_ends(key, way, ends);
        Some(Self::new(ip_at, tcp_at, end, true, is_plain))
    }

    #[inline(always)]
    fn new(ip_at: u32, tcp_at: u32, end: u32, is_v6: bool, is_plain: bool) -> Self {
        Self {
            ip_at,
            tcp_at,
            payload_at: tcp_at,
            end,
            seq: 0,
            ack: 0,
            window: 0,
            flags: 0,
            is_v6,
            is_plain,
        }
    }

    /// Bytes of payload.
    #[inline(always)]
    pub(super) fn length(&self) -> u32 {
        self.end - self.payload_at
    }

    /// Sequence number behind the payload.
    #[inline(always)]
    pub(super) fn end_seq(&self) -> u32 {
        self.seq.wrapping_add(self.length())
    }

    #[inline(always)]
    pub(super) fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Most bytes of payload when it is changed.
    #[inline(always)]
    pub(super) fn room(&self) -> u32 {
        CHANGED_BYTES_MAX.saturating_sub(self.payload_at)
    }

    /// Replaces the sequence number.
    #[inline(always)]
    pub(super) fn set_seq(&self, ctx: &TcContext, seq: u32) -> Result<(), i64> {
        self.replace(ctx, self.tcp_at + 4, self.seq, seq)
    }

    /// Replaces a number in the TCP header.
    #[inline(always)]
    pub(super) fn replace(&self, ctx: &TcContext, at: u32, old: u32, new: u32) -> Result<(), i64> {
        if old == new {
            return Ok(());
        }
        let (old_be, new_be) = (old.to_be(), new.to_be());
        ctx.l4_csum_replace(self.checksum_at(), u64::from(old_be), u64::from(new_be), 4)?;
        ctx.store(at as usize, &new_be, 0)
    }

    #[inline(always)]
    fn checksum_at(&self) -> usize {
        (self.tcp_at + 16) as usize
    }

    /// Cuts the payload to `length` bytes; then the frame follows, if `frame` says so.
    #[inline(never)]
    pub(super) fn keep(&self, ctx: &TcContext, length: u32, frame: bool) -> Result<(), i64> {
        let keep_end = self.payload_at + length;
        if keep_end < self.end {
            self.uncount(ctx, keep_end)?;
            self.replace_flags(ctx)?;
        }
        let end = if frame { keep_end + FRAME_BYTES } else { keep_end };
        // Padding goes first, so that the bytes in its place are new ones, which are zero.
        change_tail(ctx, keep_end)?;
        if frame {
            change_tail(ctx, end)?;
        }
        self.set_lengths(ctx, end)?;
        if !frame {
            return Ok(());
        }
        // Segments of the checksum begin with the TCP header, and headers have even lengths.
        let sum = frame_sum(length & 1 == 1);
        ctx.l4_csum_replace(self.checksum_at(), 0, u64::from(sum), 0)?;
        ctx.store(keep_end as usize, &FRAME, 0)
    }

    /// Bytes are cut off: the end of the sender's bytes and its wish for speed went with them.
    #[inline(always)]
    fn replace_flags(&self, ctx: &TcContext) -> Result<(), i64> {
        let at = (self.tcp_at + 12) as usize;
        let old: [u8; 2] = ctx.load(at)?;
        let new = [old[0], old[1] & !(FIN | PSH)];
        let (from, to) = (u16::from_ne_bytes(old), u16::from_ne_bytes(new));
        ctx.l4_csum_replace(self.checksum_at(), u64::from(from), u64::from(to), 2)?;
        ctx.store(at, &new, 0)
    }

    #[inline(always)]
    fn set_lengths(&self, ctx: &TcContext, end: u32) -> Result<(), i64> {
        let be = |length: u32| u64::from((length as u16).to_be());
        let (old, new) = (be(self.end - self.tcp_at), be(end - self.tcp_at));
        let pseudo = u64::from(BPF_F_PSEUDO_HDR) | 2;
        ctx.l4_csum_replace(self.checksum_at(), old, new, pseudo)?;
        if self.is_v6 {
            const RECOMPUTE_CSUM: u64 = 1;
            let at = (self.ip_at + 4) as usize;
            let length_be = ((end - self.ip_at - IPV6_BYTES) as u16).to_be();
            return ctx.store(at, &length_be, RECOMPUTE_CSUM);
        }
        let (old, new) = (be(self.end - self.ip_at), be(end - self.ip_at));
        ctx.l3_csum_replace((self.ip_at + 10) as usize, old, new, 2)?;
        ctx.store((self.ip_at + 2) as usize, &(new as u16), 0)
    }

    /// Takes the payload from `from` on out of the checksum.
    // VERIFIER: a function of its own, as are those below: their buffers are on no path together.
    #[inline(never)]
    fn uncount(&self, ctx: &TcContext, from: u32) -> Result<(), i64> {
        let mut sum = 0_u64;
        let mut at = from;
        // VERIFIER: a constant bound; a longer packet is dropped instead, for its sender to repeat.
        for _ in 0..CUT_CHUNKS_MAX {
            let left = self.end.wrapping_sub(at);
            if left == 0 || left > self.end {
                break;
            }
            let bytes = if left < CHUNK_BYTES { left } else { CHUNK_BYTES };
            sum += chunk_sum(ctx, at, bytes)?;
            at += bytes;
        }
        if at < self.end {
            return Err(-1);
        }
        let mut sum = fold(sum);
        if (from - self.payload_at) & 1 == 1 {
            sum = sum.rotate_left(8);
        }
        // RFC 1624: the difference is that of zeros and what was there.
        ctx.l4_csum_replace(self.checksum_at(), 0, u64::from(!u32::from(sum)), 0)?;
        // Where a driver has summed up the whole packet: the checksum field has changed.
        // SAFETY: the kernel passes a valid context.
        let _ = unsafe { bpf_csum_update(ctx.skb.skb, u32::from(sum)) };
        Ok(())
    }
}

/// The sum of at most [`CHUNK_BYTES`] bytes.
#[inline(never)]
fn chunk_sum(ctx: &TcContext, at: u32, bytes: u32) -> Result<u64, i64> {
    let mut chunk = [0_u64; CHUNK_BYTES as usize / 8];
    // VERIFIER: the size of what is read must have bounds.
    if bytes == 0 || bytes > CHUNK_BYTES {
        return Err(-1);
    }
    let to = chunk.as_mut_ptr();
    // SAFETY: the chunk has room for so many bytes; nothing is read through the null pointer.
    let sum = unsafe {
        let rc = bpf_skb_load_bytes(ctx.as_ptr(), at, to.cast(), bytes);
        if rc != 0 {
            return Err(rc);
        }
        bpf_csum_diff(ptr::null_mut(), 0, to.cast(), CHUNK_BYTES, 0)
    };
    if sum < 0 { Err(sum) } else { Ok(sum.cast_unsigned() & 0xffff_ffff) }
}

/// Bytes that the kernel sums up at once.
const CHUNK_BYTES: u32 = 64;
/// Enough for the largest packet there is.
const CUT_CHUNKS_MAX: u32 = 1_024;

#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[inline(always)]
fn change_tail(ctx: &TcContext, length: u32) -> Result<(), i64> {
    if ctx.len() == length {
        return Ok(());
    }
    // SAFETY: the kernel passes a valid context; no pointer into the packet is held.
    let rc = unsafe { bpf_skb_change_tail(ctx.skb.skb, length, 0) };
    if rc == 0 { Ok(()) } else { Err(rc) }
}

#[inline(always)]
fn place_ends(key: &mut Http2Key, way: Way, [source, destination]: [Address; 2]) {
    (key.client, key.server) = match way {
        Way::In => (destination, source),
        Way::Out => (source, destination),
    };
}

/// The payload as the walk over its frames reads it.
pub(super) struct Payload(pub(super) *mut core::ffi::c_void);

impl Bytes for Payload {
    #[inline(always)]
    fn byte(&self, at: u32) -> Option<u8> {
        load(self.0, at)
    }

    #[inline(always)]
    fn head(&self, at: u32) -> Option<[u8; HEAD_BYTES as usize]> {
        load(self.0, at)
    }
}

#[inline(always)]
fn load<T>(skb: *mut core::ffi::c_void, at: u32) -> Option<T> {
    TcContext::new(skb.cast()).load(at as usize).ok()
}

/// The context as the walk passes it on.
#[inline(always)]
pub(super) fn raw(ctx: &TcContext) -> *mut core::ffi::c_void {
    ctx.as_ptr()
}
