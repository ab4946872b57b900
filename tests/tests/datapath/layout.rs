//! Shared types mean the same to both compilers: the object's BTF against this build's layout.

use balancer_agent::datapath::loader;
use balancer_common::{
    backend::{Backend, BackendStats},
    flow::{Flow, Seat},
    frontend::{Frontend, FrontendKeyV4, FrontendKeyV6},
    hierarchy::Hierarchy,
    http2::{
        counts::{Http2Counts, Http2Sums, Http2Totals, Http2TotalsKey},
        flow::{Http2Closed, Http2Flow, Http2Key},
        frame::FrameHead,
        grid::Grid,
        held::{Held, Range, Ranges},
        track::Track,
    },
    pod::{Affinity, PodServiceKey, Skip},
    service::{Bank, Schedule, Service, ServiceName, ServiceStats, SlotChunk},
    settings::Settings,
    trace::TraceEvent,
};
use object::{Object, ObjectSection};
use std::collections::BTreeMap;

/// Size, then offset by field.
type Layout = (usize, BTreeMap<String, usize>);

macro_rules! shared {
    ($kind:ident { $($field:ident),+ $(,)? }) => {
        (stringify!($kind), (
            size_of::<$kind>(),
            BTreeMap::from([$((stringify!($field).to_owned(), std::mem::offset_of!($kind, $field))),+]),
        ))
    };
}

/// Records that programs and agent share.
fn records() -> [(&'static str, Layout); 11] {
    [
        shared!(Backend {
            address,
            port_be,
            family,
            state,
            service,
            incarnation,
            weight,
            reserved
        }),
        shared!(BackendStats {
            active,
            picked,
            ejected_until_ns,
            failures,
            ejections,
            established,
            closed,
            reset,
            refused,
            timed_out,
            abandoned,
            retransmits,
            srtt_us
        }),
        shared!(Flow {
            pod,
            started_ns,
            frontend,
            frontend_port_be,
            frontend_family,
            service,
            backend,
            incarnation,
            state,
            flags,
            srtt_us,
            retransmits,
            samples,
            reserved
        }),
        shared!(Seat { cookie, elsewhere, flow }),
        shared!(Service {
            banks,
            generation,
            flags,
            user_timeout_ms,
            keepalive_idle_s,
            keepalive_interval_s,
            keepalive_probes,
            reserved
        }),
        shared!(ServiceName { bytes }),
        shared!(ServiceStats { untouched, socket_option_failures }),
        shared!(SlotChunk { backends }),
        shared!(Hierarchy {
            kubepods,
            burstable,
            besteffort,
            level,
            search_levels,
            skipping,
            reserved
        }),
        shared!(Skip { reason }),
        shared!(Settings { abi_version, reserved, trace_until_ns }),
    ]
}

/// Keys and parts of records.
fn keys_and_parts() -> [(&'static str, Layout); 8] {
    [
        shared!(TraceEvent {
            time_ns,
            pod,
            cookie,
            frontend,
            frontend_port_be,
            family,
            reason,
            service,
            backend,
            generation,
            slot,
            slots,
            pid
        }),
        shared!(Frontend { service, reserved }),
        shared!(FrontendKeyV4 { address_be, port_be, reserved }),
        shared!(FrontendKeyV6 { address, port_be, reserved }),
        shared!(Affinity { used_ns, backend, incarnation }),
        shared!(PodServiceKey { pod, service, reserved }),
        shared!(Bank { v4, v6, policy, affinity_s }),
        shared!(Schedule { chunk, slots }),
    ]
}

/// What they count.
fn http2_counts() -> [(&'static str, Layout); 4] {
    [
        shared!(Http2Counts {
            ended,
            reset_by_server,
            goaways_by_server,
            reserved,
            server_resets,
            server_goaways,
            latency,
            client_resets,
            client_goaways,
            opened,
            uncounted,
            reset_by_client,
            goaways_by_client
        }),
        shared!(Http2Sums {
            ended,
            reset_by_server,
            goaways_by_server,
            reserved,
            server_resets,
            server_goaways,
            latency,
            client_resets,
            client_goaways,
            opened,
            uncounted,
            reset_by_client,
            goaways_by_client
        }),
        shared!(Http2Totals { connections, refused, sent_bytes, received_bytes, sums }),
        shared!(Http2TotalsKey { service, backend, incarnation, reserved }),
    ]
}

/// What is kept of connections whose frames are followed.
fn http2() -> [(&'static str, Layout); 9] {
    [
        shared!(Http2Key { netns, client, server, client_port_be, server_port_be, reserved }),
        shared!(Http2Flow {
            gate,
            service,
            backend,
            incarnation,
            reserved,
            inbound,
            received_bytes,
            answered_ns,
            window_scale,
            streams_max,
            counts,
            client_ack,
            client_window,
            requested_ns,
            outbound,
            sent_bytes,
            cookie,
            pod,
            moved_ns,
            dropped,
            frames,
            streams
        }),
        shared!(Http2Closed { key, cookie }),
        shared!(FrameHead { length, stream, kind, flags, filled, reserved }),
        shared!(Grid {
            next_seq,
            preface_left,
            payload_left,
            block,
            head,
            last_stream,
            flags,
            unit_left,
            unit_kind,
            units_left,
            unit
        }),
        shared!(Track { grid, held, flags }),
        shared!(Range { from, to }),
        shared!(Ranges { ranges }),
        shared!(Held { owner, kept_ns, ranges, bytes }),
    ]
}

#[test]
fn the_kernel_object_and_the_agent_agree_on_every_shared_type() {
    let found = structs();
    for (name, layout) in
        records().into_iter().chain(keys_and_parts()).chain(http2()).chain(http2_counts())
    {
        assert_eq!(found.get(name), Some(&layout), "{name}");
    }
}

// `enum btf_kind` and the layout of .BTF: Documentation/bpf/btf.rst of the kernel.
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// Every named structure of the object.
fn structs() -> BTreeMap<String, Layout> {
    let file = object::File::parse(loader::object()).unwrap();
    let section = file.section_by_name(".BTF").expect("the object carries BTF");
    let btf = section.data().unwrap();
    let word = |at: usize| u32::from_le_bytes(btf[at..at + 4].try_into().unwrap());
    let [header, types, types_len, strings] =
        [word(4) as usize, word(8) as usize, word(12) as usize, word(16) as usize];
    let name = |offset: u32| {
        let text = &btf[header + strings + offset as usize..];
        let end = text.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8_lossy(&text[..end]).into_owned()
    };
    let mut found = BTreeMap::new();
    let mut at = header + types;
    while at < header + types + types_len {
        let (info, size) = (word(at + 4), word(at + 8) as usize);
        let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        let members = at + 12;
        if kind == KIND_STRUCT {
            let fields = (0..count).map(|index| {
                let member = members + 12 * index;
                (name(word(member)), word(member + 8) as usize / 8)
            });
            found.insert(name(word(at)), (size, fields.collect()));
        }
        at = members
            + match kind {
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
                KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
                _ => 0,
            };
    }
    found
}
