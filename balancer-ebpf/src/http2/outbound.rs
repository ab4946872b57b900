//! What a client sends: followed, and its acknowledgements brought back to the server's numbers.

use super::{
    DROP, PASS,
    flows::{self, FlowRef},
    packet::{ACK, FIN, Packet, RST, SYN, Way},
    totals, walk,
};
use aya_ebpf::programs::TcContext;
use balancer_common::http2::{
    flow::Http2Key,
    gate::{
        self, ACKED, CLOSED, DEAD, ENDED, FAR, INJECTED, LOCKED_OUT, MISSED_OUT, OPAQUE, SETTLED,
    },
    shift::Injection,
    track::{BROKEN, MISSED, UNREADABLE},
};
use core::ptr;

/// Kinds of TCP options (RFC 9293, section 3.2; RFC 2018).
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_SACK: u8 = 5;
const TCP_BYTES: u32 = 20;
/// Options in one header: 40 bytes, of two or more each, but for padding.
const OPTIONS_MAX: u32 = 24;
/// Edges of blocks in one option: "a SACK option that specifies n blocks will have a length of 8*n+2
/// bytes, so the 40 bytes available for TCP options can specify a maximum of 4 blocks" (RFC 2018).
const EDGES_MAX: u32 = 8;

/// A packet that goes out.
#[inline(always)]
pub(crate) fn outbound<const LOOP: bool>(ctx: &TcContext) -> i32 {
    let mut key = Http2Key::default();
    let mut packet = Packet::default();
    if !packet.read(ctx, Way::Out, &mut key) {
        return PASS;
    }
    let Some(flow) = flows::find(&key) else {
        return PASS;
    };
    let tag = gate::tag(&key);
    let gate = flow.gate();
    if !flows::is_of(gate, tag) {
        return PASS;
    }
    if packet.has(SYN) {
        // A new connection between the same ends.
        flow.set(DEAD);
        return PASS;
    }
    if packet.has(FIN | RST) && gate & ENDED == 0 {
        flow.set(ENDED);
    }
    if gate & INJECTED == 0 && packet.has(ACK) {
        // SAFETY: words of the map's memory. They may be of two packets; they only tell whether a moment
        // is a good one.
        unsafe {
            ptr::write_volatile(&raw mut (*flow.0).client_ack, packet.ack);
            ptr::write_volatile(&raw mut (*flow.0).client_window, packet.window);
        }
    }
    if packet.length() != 0 && gate & OPAQUE == 0 {
        follow::<LOOP>(ctx, flow, &packet, tag);
    }
    match gate::injection(gate) {
        Some(injection) if packet.has(ACK) => unshift(ctx, flow, &packet, injection),
        _ => PASS,
    }
}

#[inline(always)]
fn follow<const LOOP: bool>(ctx: &TcContext, flow: FlowRef, packet: &Packet, tag: u64) {
    let attempt = flow.lock::<LOOP>(LOCKED_OUT);
    if !attempt.is_held {
        flow.set(MISSED_OUT);
        return;
    }
    let mut is_in_sync = true;
    if flows::is_of(attempt.gate, tag) {
        // SAFETY: the lock for this track is held.
        let track = unsafe { &mut (*flow.0).outbound };
        if attempt.gate & MISSED_OUT != 0 {
            track.lose(MISSED);
        }
        if packet.is_plain {
            let silent = attempt.gate & (SETTLED | CLOSED) != 0;
            walk::follow::<LOOP, true>(ctx, flow, packet, silent);
        } else {
            track.lose(UNREADABLE);
        }
        if track.flags & BROKEN != 0 && attempt.gate & INJECTED == 0 {
            flow.set(OPAQUE);
        }
        is_in_sync = track.is_in_sync();
    }
    totals::release(flow, LOCKED_OUT, tag, is_in_sync);
}

/// Tells the server what it knows by its own numbers.
#[inline(always)]
fn unshift(ctx: &TcContext, flow: FlowRef, packet: &Packet, injection: Injection) -> i32 {
    let now = injection.acknowledged(packet.ack);
    if now.acked && !injection.acked {
        flow.set(ACKED);
    }
    if now.far && !injection.far {
        flow.set(FAR);
    }
    let ack = injection.outbound(packet.ack);
    if packet.replace(ctx, packet.tcp_at + 8, packet.ack, ack).is_err() {
        return DROP;
    }
    if packet.payload_at > packet.tcp_at + TCP_BYTES
        && unshift_blocks(ctx, packet, injection).is_err()
    {
        return DROP;
    }
    PASS
}

/// Brings the edges of selective acknowledgements back.
#[inline(never)]
fn unshift_blocks(ctx: &TcContext, packet: &Packet, injection: Injection) -> Result<(), i64> {
    let mut at = packet.tcp_at + TCP_BYTES;
    // VERIFIER: constant bounds.
    for _ in 0..OPTIONS_MAX {
        if at + 2 > packet.payload_at {
            break;
        }
        let [kind, length]: [u8; 2] = ctx.load(at as usize)?;
        match kind {
            OPTION_END => break,
            OPTION_NOP => {
                at += 1;
                continue;
            }
            _ if length < 2 => break,
            OPTION_SACK => {
                for edge in 0..EDGES_MAX {
                    let edge_at = at + 2 + 4 * edge;
                    if 2 + 4 * (edge + 1) > u32::from(length) || edge_at + 4 > packet.payload_at {
                        break;
                    }
                    let old = u32::from_be_bytes(ctx.load(edge_at as usize)?);
                    packet.replace(ctx, edge_at, old, injection.outbound(old))?;
                }
            }
            _ => {}
        }
        at += u32::from(length);
    }
    Ok(())
}
