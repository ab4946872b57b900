//! What comes in at a client's interface: followed, given the frame when wanted, and shifted from then on.

use super::{
    DROP, PASS,
    flows::{self, FlowRef},
    packet::{FIN, Packet, RST, SYN, URG, Way},
    totals, walk,
};
use crate::context;
use aya_ebpf::programs::TcContext;
use balancer_common::http2::{
    flow::Http2Key,
    gate::{
        self, CLOSED, INJECTED, LOCKED_IN, MISSED_IN, OPAQUE, PASSED, RESET, SETTLED, WANTED,
        WANTED_NOW,
    },
    grid::STARTED,
    shift::{self, FRAME_BYTES, Inbound, Segment},
    track::{BROKEN, FINISHED, MISSED, UNREADABLE, distance},
};
use core::ptr;

/// How often publishing the frame is tried against changes of other bits of the gate.
const PUBLISH_ATTEMPTS: u32 = 8;

/// A packet that comes in.
#[inline(always)]
pub(crate) fn inbound<const LOOP: bool>(ctx: &TcContext) -> i32 {
    let mut key = Http2Key::default();
    let mut packet = Packet::default();
    if !packet.read(ctx, Way::In, &mut key) {
        return PASS;
    }
    let Some(flow) = flows::find(&key) else {
        return PASS;
    };
    let tag = gate::tag(&key);
    let mut gate = flow.gate();
    if !flows::is_of(gate, tag) || packet.has(SYN) {
        return PASS;
    }
    let wanted = gate & (WANTED | WANTED_NOW) != 0;
    let is_bare = packet.length() == 0 && !packet.has(FIN);
    if gate & INJECTED == 0 && (gate & OPAQUE != 0 || packet.has(RST) || (is_bare && !wanted)) {
        return PASS;
    }
    if gate & OPAQUE == 0 && (!is_bare || wanted) {
        gate = follow::<LOOP>(ctx, flow, &packet, tag, gate);
    }
    match gate::injection(gate) {
        Some(_) => shifted(ctx, flow, &packet, gate),
        None => PASS,
    }
}

/// Walks the frames, and puts the frame in if this is the moment; returns the gate after that.
#[inline(always)]
fn follow<const LOOP: bool>(
    ctx: &TcContext,
    flow: FlowRef,
    packet: &Packet,
    tag: u64,
    gate: u64,
) -> u64 {
    let attempt = flow.lock::<LOOP>(LOCKED_IN);
    if !attempt.is_held {
        // A bare acknowledgement has no bytes that could be missed.
        return if packet.length() == 0 && !packet.has(FIN) {
            gate | attempt.gate
        } else {
            flow.set(MISSED_IN)
        };
    }
    if !flows::is_of(attempt.gate, tag) {
        flow.clear(LOCKED_IN);
        return 0;
    }
    // SAFETY: the lock for this track is held.
    let track = unsafe { &mut (*flow.0).inbound };
    if attempt.gate & MISSED_IN != 0 {
        track.lose(MISSED);
    }
    if packet.is_plain {
        let silent = attempt.gate & (SETTLED | CLOSED) != 0;
        walk::follow::<LOOP, false>(ctx, flow, packet, silent);
    } else {
        track.lose(UNREADABLE);
    }
    if packet.has(FIN) {
        track.flags |= FINISHED;
    }
    if track.flags & BROKEN != 0 && attempt.gate & INJECTED == 0 {
        flow.set(OPAQUE);
    }
    let is_wanted = attempt.gate & (WANTED | WANTED_NOW) != 0;
    if attempt.gate & INJECTED == 0
        && (is_wanted || is_sample(packet.end_seq()))
        && may_inject(flow, packet, attempt.gate)
    {
        publish(flow, packet.end_seq());
    }
    let is_in_sync = track.is_in_sync();
    totals::release(flow, LOCKED_IN, tag, is_in_sync)
}

/// Whether to learn from this segment which scale the client's window has: one in sixteen will do. What the
/// client's packets write has to be fetched from the processor that handled them.
#[inline(always)]
const fn is_sample(end_seq: u32) -> bool {
    end_seq.wrapping_mul(0x9e37_79b1) >> 28 == 0
}

/// Whether the frame may follow this segment. The caller holds the lock.
#[inline(always)]
fn may_inject(flow: FlowRef, packet: &Packet, gate: u64) -> bool {
    let flow_in = flow.0;
    // SAFETY: pointers into the map's memory; what the other side's lock is for is read as volatile, and
    // only decides whether this is a good moment.
    let (track, sent, ack, window, scale, goaways) = unsafe {
        (
            &(*flow_in).inbound,
            ptr::read_volatile(&raw const (*flow_in).outbound.grid.flags),
            ptr::read_volatile(&raw const (*flow_in).client_ack),
            ptr::read_volatile(&raw const (*flow_in).client_window),
            ptr::read_volatile(&raw const (*flow_in).window_scale),
            (*flow_in).counts.goaways_by_server,
        )
    };
    let end = packet.end_seq();
    let scale = shift::scale_shown(ack, window, scale, end);
    // SAFETY: written under this lock only.
    unsafe { (*flow_in).window_scale = scale };
    gate::is_wanted(gate, flow.in_flight() == 0, gate & WANTED_NOW != 0 && flow.is_calm())
        && track.takes_frame()
        && track.grid.next_seq == end
        && sent & STARTED != 0
        // "Endpoints MUST NOT increase the value they send in the last stream identifier" (RFC 9113,
        // section 6.8).
        && goaways == 0
        && !packet.has(RST | FIN | URG)
        && packet.is_plain
        && packet.length() + FRAME_BYTES <= packet.room()
        && distance(ack, end) >= 0
        && shift::has_room(ack, window, scale, end.wrapping_add(FRAME_BYTES))
}

/// Lets everybody know that the frame stands before `seq`; the third invariant of the gate.
#[inline(always)]
fn publish(flow: FlowRef, seq: u32) {
    let mut gate = flow.gate();
    // VERIFIER: a constant bound.
    for _ in 0..PUBLISH_ATTEMPTS {
        let Some(new) = gate::injected(gate, seq) else { return };
        let found = flow.swap(gate, new);
        if found == gate {
            // SAFETY: written under the lock that is held.
            unsafe { (*flow.0).moved_ns = context::now_ns() };
            return;
        }
        gate = found;
    }
}

/// A segment of a connection that the frame was put into.
#[inline(always)]
fn shifted(ctx: &TcContext, flow: FlowRef, packet: &Packet, gate: u64) -> i32 {
    let Some(injection) = gate::injection(gate) else {
        return PASS;
    };
    let starts_behind = packet.seq == injection.seq && packet.length() != 0;
    let again = if injection.acked {
        false
    } else if packet.has(RST) {
        flow.flip(RESET) & RESET != 0
    } else {
        starts_behind && flow.set(PASSED) & PASSED != 0
    };
    let segment = Segment {
        seq: packet.seq,
        length: packet.length(),
        fin: packet.has(FIN),
        rst: packet.has(RST),
        again,
        room: packet.room(),
    };
    match injection.inbound(&segment) {
        Inbound::Pass => PASS,
        Inbound::Shift => match packet.set_seq(ctx, packet.seq.wrapping_add(FRAME_BYTES)) {
            Ok(()) => PASS,
            Err(_) => dropped(flow),
        },
        Inbound::Keep { length, frame } => {
            if packet.keep(ctx, length, frame).is_err() {
                return dropped(flow);
            }
            if frame {
                flow.count_frame();
            }
            PASS
        }
    }
}

/// Half a change must not go on. The server sends the segment once more.
#[inline(always)]
fn dropped(flow: FlowRef) -> i32 {
    flow.count_dropped();
    DROP
}
