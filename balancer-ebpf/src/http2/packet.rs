//! TCP segments in packets: read with every bound checked, changed with their checksums.

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR},
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
use core::{mem::MaybeUninit, ptr};

const ETH_P_IP_BE: u32 = 0x0800_u16.to_be() as u32;
const ETH_P_IPV6_BE: u32 = 0x86dd_u16.to_be() as u32;
const PROTOCOL_TCP: u32 = 6;
const HOP_BY_HOP: u32 = 0;
const IPV6_BYTES: u32 = 40;
const TCP_BYTES: u32 = 20;
/// A TCP header without its options.
type Tcp = [u32; TCP_BYTES as usize / 4];
/// More fragments, and where a fragment belongs (RFC 791, section 3.1).
const FRAGMENT: u32 = 0x3fff;
const OFFSET: u32 = 0x1fff;

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
#[derive(Default)]
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
    /// A TCP segment and the connection that it belongs to; whether there is one.
    // VERIFIER: a function of its own, so that its buffers are on no path with those of others. It returns
    // no option of a packet: the kernel refuses type information in which a flag of such a union does not
    // stand at its beginning.
    #[inline(never)]
    pub(super) fn read(&mut self, ctx: &TcContext, way: Way, key: &mut Http2Key) -> bool {
        self.try_read(ctx, way, key).is_some()
    }

    #[inline(always)]
    fn try_read(&mut self, ctx: &TcContext, way: Way, key: &mut Http2Key) -> Option<()> {
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
        self.ip_at = ip_at;
        let (source, destination) = match way {
            Way::In => (&mut key.server, &mut key.client),
            Way::Out => (&mut key.client, &mut key.server),
        };
        let tcp = match protocol {
            ETH_P_IP_BE => self.read_v4(ctx, source, destination)?,
            ETH_P_IPV6_BE => self.read_v6(ctx, source, destination)?,
            _ => return None,
        };
        let [ports, seq, ack, rest, _] = tcp.map(u32::from_be);
        let (source_be, destination_be) = (((ports >> 16) as u16).to_be(), (ports as u16).to_be());
        (key.client_port_be, key.server_port_be) = match way {
            Way::In => (destination_be, source_be),
            Way::Out => (source_be, destination_be),
        };
        self.seq = seq;
        self.ack = ack;
        self.flags = (rest >> 16) as u8;
        self.window = rest & 0xffff;
        let header = (rest >> 28) * 4;
        self.payload_at = self.tcp_at + header;
        let fits = header >= TCP_BYTES && self.payload_at <= self.end && self.end <= ctx.len();
        fits.then_some(())
    }

    #[inline(always)]
    fn read_v4(
        &mut self,
        ctx: &TcContext,
        source: &mut Address,
        destination: &mut Address,
    ) -> Option<Tcp> {
        // Most often the TCP header follows: one read for both.
        let (mut ip, mut tcp) = ([0_u32; 10], Tcp::default());
        load_into(ctx, self.ip_at, &mut ip)?;
        let first = u32::from_be(ip[0]);
        let header = (first >> 24 & 0xf) * 4;
        let fragment = u32::from_be(ip[1]) & FRAGMENT;
        let protocol = u32::from_be(ip[2]) >> 16 & 0xff;
        // Only a first fragment has a TCP header.
        if first >> 28 != 4 || header < 20 || protocol != PROTOCOL_TCP || fragment & OFFSET != 0 {
            return None;
        }
        let length = first & 0xffff;
        *source = Address::from_v4(ip[3]);
        *destination = Address::from_v4(ip[4]);
        // Zero in packets of more than 65,535 bytes (Linux 6.3, "BIG TCP" for IPv4).
        self.end = if length == 0 { ctx.len() } else { self.ip_at + length };
        self.tcp_at = self.ip_at + header;
        self.is_v6 = false;
        self.is_plain = header == 20 && fragment == 0 && length != 0;
        if header == 20 {
            tcp.copy_from_slice(&ip[5..]);
        } else {
            load_into(ctx, self.tcp_at, &mut tcp)?;
        }
        Some(tcp)
    }

    #[inline(always)]
    fn read_v6(
        &mut self,
        ctx: &TcContext,
        source: &mut Address,
        destination: &mut Address,
    ) -> Option<Tcp> {
        let (mut ip, mut tcp) = ([0_u32; 15], Tcp::default());
        load_into(ctx, self.ip_at, &mut ip)?;
        source.0.copy_from_slice(&ip[2..6]);
        destination.0.copy_from_slice(&ip[6..10]);
        let second = u32::from_be(ip[1]);
        let (length, next) = (second >> 16, second >> 8 & 0xff);
        self.tcp_at = self.ip_at + IPV6_BYTES;
        self.end = self.tcp_at + length;
        self.is_v6 = true;
        self.is_plain = next == PROTOCOL_TCP;
        if self.is_plain {
            tcp.copy_from_slice(&ip[10..]);
            return Some(tcp);
        }
        // The one extension header that TCP gets: that of packets of more than 65,535 bytes (RFC 2675; Linux
        // 5.19, "BIG TCP").
        let option = u32::from_be(ip[10]) >> 16;
        if next != HOP_BY_HOP || option != PROTOCOL_TCP << 8 {
            return None;
        }
        self.tcp_at += 8;
        if length == 0 {
            self.end = ctx.len();
        }
        load_into(ctx, self.tcp_at, &mut tcp)?;
        Some(tcp)
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
    #[inline(always)]
    fn uncount(&self, ctx: &TcContext, from: u32) -> Result<(), i64> {
        // SAFETY: the context is ours.
        let sum = unsafe { http2_sum(ctx.skb.skb, from, self.end) };
        if sum == UNREADABLE {
            return Err(-1);
        }
        let mut sum = sum as u16;
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

/// The sum of 16-bit words of a packet's bytes `from..end`; all ones when they cannot be read.
///
/// # Safety
/// The context is that of the calling program.
// VERIFIER: a global function, which is verified once and by itself, and not on every path.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn http2_sum(skb: *mut __sk_buff, from: u32, end: u32) -> u64 {
    let mut chunk = MaybeUninit::<[u64; CHUNK_BYTES as usize / 8]>::uninit();
    let to: *mut u64 = chunk.as_mut_ptr().cast();
    let mut sum = 0_u64;
    let mut at = from;
    // VERIFIER: a constant bound; a longer packet is dropped instead, for its sender to repeat.
    for _ in 0..CUT_CHUNKS_MAX {
        if at >= end {
            return u64::from(fold(sum));
        }
        let left = end - at;
        // VERIFIER: what is read has a size between one and that of the chunk, whatever was passed.
        let bytes = if left >= CHUNK_BYTES {
            CHUNK_BYTES
        } else {
            (left.wrapping_sub(1) & (CHUNK_BYTES - 1)) + 1
        };
        // SAFETY: the chunk has room for so many bytes; nothing is read through the null pointer.
        unsafe {
            // VERIFIER: word by word, since a function that fills memory would be a loop over bytes.
            for index in 0..CHUNK_BYTES as usize / 8 {
                ptr::write_volatile(to.add(index), 0);
            }
            if bpf_skb_load_bytes(skb.cast(), at, to.cast(), bytes) != 0 {
                return UNREADABLE;
            }
            let added = bpf_csum_diff(ptr::null_mut(), 0, to.cast(), CHUNK_BYTES, 0);
            sum += added.cast_unsigned() & 0xffff_ffff;
        }
        at += bytes;
    }
    UNREADABLE
}

/// In place of a sum.
const UNREADABLE: u64 = u64::MAX;

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

/// Reads into memory that is there already: another copy would be stack.
#[inline(always)]
fn load_into<T>(ctx: &TcContext, at: u32, to: &mut T) -> Option<()> {
    let to: *mut T = to;
    // SAFETY: the kernel writes as many bytes as the target has, and only types of plain numbers are read.
    let rc = unsafe { bpf_skb_load_bytes(ctx.as_ptr(), at, to.cast(), size_of::<T>() as u32) };
    (rc == 0).then_some(())
}

/// The payload as the walk over its frames reads it.
pub(super) struct Payload(pub(super) *mut __sk_buff);

impl Bytes for Payload {
    #[inline(always)]
    fn byte(&self, at: u32) -> Option<u8> {
        TcContext::new(self.0).load(at as usize).ok()
    }

    #[inline(always)]
    fn head(&self, at: u32) -> Option<[u8; HEAD_BYTES as usize]> {
        TcContext::new(self.0).load(at as usize).ok()
    }
}
