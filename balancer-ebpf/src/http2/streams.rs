//! Streams of a connection: opened and ended once each, with their time, and counted.

use super::{
    flows::{FlowRef, swap},
    totals,
};
use crate::context;
use balancer_common::http2::{
    counts::{LATENCY_BUCKETS, code_index, latency_bucket},
    frame::{GOAWAY, RST_STREAM, SETTINGS, Sender},
    gate::CALM_NS,
    streams::{self, Event, PROBES_MAX},
};
use core::{arch::asm, ptr};

/// SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113, section 6.5.2).
const MAX_CONCURRENT_STREAMS: u16 = 3;

/// In place of a slot's word.
const NO_SLOT: u64 = u64::MAX;

/// What a walk over frames adds up for its end, so that several streams in one segment cost little more than
/// one.
#[derive(Default)]
pub(super) struct Tally {
    /// The time, once it was asked for.
    now_ns: u64,
    /// Streams that were opened, less those that have ended.
    in_flight: i64,
}

// === impl Tally ===

impl Tally {
    #[inline(always)]
    fn now_ns(&mut self) -> u64 {
        if self.now_ns == 0 {
            self.now_ns = context::now_ns();
        }
        self.now_ns
    }
}

/// What became of a stream that was to be opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opened {
    Again,
    Counted,
    Uncounted,
}

impl FlowRef {
    #[inline(always)]
    fn slot(self, stream: u32, attempt: u32) -> *mut u64 {
        // SAFETY: the slot is below the table's length, and an aligned word of the map's memory.
        unsafe { (&raw mut (*self.0).streams).cast::<u64>().add(streams::slot(stream, attempt)) }
    }

    /// Remembers a stream, if there is room.
    // VERIFIER: functions of their own, as is `close`: each attempt would be verified on every path.
    #[inline(never)]
    fn open(self, stream: u32, now_ns: u64) -> Opened {
        let word = streams::slot_word(stream, now_ns);
        for attempt in 0..PROBES_MAX {
            let old = swap(self.slot(stream, attempt), 0, word);
            if old == 0 {
                return Opened::Counted;
            }
            if streams::is_slot_of(old, stream) {
                return Opened::Again;
            }
        }
        Opened::Uncounted
    }

    /// Forgets a stream; its slot, or [`NO_SLOT`] if it was not there.
    #[inline(never)]
    fn close(self, stream: u32) -> u64 {
        for attempt in 0..PROBES_MAX {
            let slot = self.slot(stream, attempt);
            // SAFETY: as in `slot`; volatile since others write.
            let word = unsafe { ptr::read_volatile(slot) };
            if streams::is_slot_of(word, stream) {
                // Ids are used once: if it is not there any more, the other side has taken it out.
                return if swap(slot, word, 0) == word { word } else { NO_SLOT };
            }
        }
        NO_SLOT
    }

    /// Ends a stream, unless it has ended before; whether it did.
    #[inline(always)]
    fn end(self, stream: u32, tally: &mut Tally) -> bool {
        if stream == 0 {
            return false;
        }
        let word = self.close(stream);
        if word == NO_SLOT {
            return false;
        }
        let mut bucket = latency_bucket(streams::open_ns(word, tally.now_ns()));
        // SAFETY: the mask keeps the bucket within the array, an aligned word of the map's memory.
        unsafe {
            // VERIFIER: in assembly, since the compiler knows that it changes nothing, and kernels before
            // 6.10 do not: to them, the union of two numbers is any number.
            asm!("{bucket} &= {mask}", bucket = inout(reg) bucket, mask = const LATENCY_BUCKETS - 1);
            let latency = (&raw mut (*self.0).counts.latency).cast::<u32>();
            increase(latency.add(bucket));
        }
        tally.in_flight -= 1;
        true
    }

    /// Counts what a frame head means; whether the error code in its payload is to be counted. The caller
    /// holds the sender's lock.
    #[inline(always)]
    pub(super) fn count(self, sender: Sender, event: Event, tally: &mut Tally) -> bool {
        let flow = self.0;
        // SAFETY: each counter is written under one of the two locks only, the one that is held.
        unsafe {
            match event {
                Event::None => true,
                Event::Opened(stream) => {
                    let now_ns = tally.now_ns();
                    match self.open(stream, now_ns) {
                        Opened::Again => return true,
                        Opened::Counted => tally.in_flight += 1,
                        Opened::Uncounted => (*flow).counts.uncounted += 1,
                    }
                    (*flow).counts.opened += 1;
                    ptr::write_volatile(&raw mut (*flow).requested_ns, now_ns);
                    true
                }
                Event::Ended(stream) => {
                    if self.end(stream, tally) {
                        (*flow).counts.ended += 1;
                        (*flow).answered_ns = tally.now_ns();
                    }
                    true
                }
                Event::Reset(stream) => {
                    let has_ended = self.end(stream, tally);
                    if has_ended {
                        match sender {
                            Sender::Client => (*flow).counts.reset_by_client += 1,
                            Sender::Server => {
                                (*flow).counts.reset_by_server += 1;
                                (*flow).answered_ns = tally.now_ns();
                            }
                        }
                    }
                    has_ended
                }
                Event::GoAway => {
                    let goaways = match sender {
                        Sender::Client => &mut (*flow).counts.goaways_by_client,
                        Sender::Server => &mut (*flow).counts.goaways_by_server,
                    };
                    *goaways += 1;
                    true
                }
            }
        }
    }

    /// Adds what was tallied of this connection to what others see.
    #[inline(always)]
    pub(super) fn take_in(self, tally: &Tally) {
        if tally.in_flight != 0 {
            // SAFETY: written before the entry is inserted, and never again.
            totals::count_in_flight(unsafe { (*self.0).backend }, tally.in_flight);
        }
    }

    /// Whether no stream was opened, and none answered, for a while.
    #[inline(always)]
    pub(super) fn is_calm(self) -> bool {
        // SAFETY: words of the map's memory; volatile since others write.
        let (requested_ns, answered_ns) = unsafe {
            (
                ptr::read_volatile(&raw const (*self.0).requested_ns),
                ptr::read_volatile(&raw const (*self.0).answered_ns),
            )
        };
        let latest_ns = if requested_ns > answered_ns { requested_ns } else { answered_ns };
        context::now_ns().saturating_sub(latest_ns) >= CALM_NS
    }

    /// Counts a number from a payload. The caller holds the sender's lock.
    #[inline(always)]
    pub(super) fn count_unit(self, sender: Sender, kind: u8, unit: u64) {
        let flow = self.0;
        // SAFETY: as in `count`; the index is below the arrays' length.
        unsafe {
            let codes = match (kind, sender) {
                (RST_STREAM, Sender::Client) => &raw mut (*flow).counts.client_resets,
                (RST_STREAM, Sender::Server) => &raw mut (*flow).counts.server_resets,
                (GOAWAY, Sender::Client) => &raw mut (*flow).counts.client_goaways,
                (GOAWAY, Sender::Server) => &raw mut (*flow).counts.server_goaways,
                (SETTINGS, Sender::Server) => {
                    if (unit >> 32) as u16 == MAX_CONCURRENT_STREAMS {
                        (*flow).streams_max = unit as u32;
                    }
                    return;
                }
                _ => return,
            };
            *codes.cast::<u32>().add(code_index(unit as u32)) += 1;
        }
    }

    /// Streams in flight; a little off while both sides' packets are handled at this moment.
    #[inline(always)]
    pub(super) fn in_flight(self) -> u32 {
        let read = |field: *const u32| {
            // SAFETY: pointers into the map's memory; volatile since others write.
            unsafe { ptr::read_volatile(field) }
        };
        // SAFETY: only addresses are taken.
        let (opened, uncounted, ended, client, server) = unsafe {
            (
                read(&raw const (*self.0).counts.opened),
                read(&raw const (*self.0).counts.uncounted),
                read(&raw const (*self.0).counts.ended),
                read(&raw const (*self.0).counts.reset_by_client),
                read(&raw const (*self.0).counts.reset_by_server),
            )
        };
        if uncounted != 0 {
            // It is not known when those end: never quiet.
            return u32::MAX;
        }
        opened.wrapping_sub(ended).wrapping_sub(client).wrapping_sub(server)
    }
}

/// Counts one in a word that both sides count in.
#[inline(always)]
fn increase(word: *mut u32) {
    // SAFETY: as in `swap`.
    unsafe {
        asm!("lock *(u32 *)(r1 + 0) += w2", in("r1") word, in("r2") 1_u64);
    }
}
