//! The real programs in the real kernel, run on packets that never were on a wire (`BPF_PROG_TEST_RUN`).

use super::segment::{Ends, Segment};
use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions,
    maps::{Array, HashMap, Map, MapData},
    programs::SchedClassifier,
};
use balancer_agent::datapath::raw::Raw;
use balancer_common::{
    abi::map,
    http2::{
        Http2Request, REQUEST_TAKEN,
        counts::{Http2Totals, Http2TotalsKey},
        flow::{Http2Flow, Http2Key},
        frame::Sender,
        gate,
        held::Held,
        track::Track,
    },
};
use bytemuck::Zeroable;
use std::sync::atomic::{AtomicU64, Ordering};

const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
/// `struct __sk_buff` up to and with `cb`, and where that is (include/uapi/linux/bpf.h).
const SKB_BYTES: usize = 192;
const CB_AT: usize = 48;
const ETHERNET_BYTES: u32 = 14;
/// Where the agent's requests stand in their packet.
const REQUEST_AT: usize = 14;

/// A place for bytes behind a hole.
pub(crate) struct Place {
    /// The cookie of the connection that has it; zero if nobody does.
    pub(crate) owner: u64,
}

/// Loaded programs with maps of their own.
pub(crate) struct Kernel {
    ebpf: Ebpf,
    flows: HashMap<MapData, Raw<Http2Key>, Raw<Http2Flow>>,
    totals: HashMap<MapData, Raw<Http2TotalsKey>, Raw<Http2Totals>>,
    in_flight: Array<MapData, Raw<u64>>,
    held: Array<MapData, [u8; size_of::<Held>()]>,
    bounded: bool,
    packets: AtomicU64,
}

impl Kernel {
    /// Loads the programs from a compiled object; `bounded` takes those for kernels without `bpf_loop`.
    pub(crate) fn load(object: &[u8], bounded: bool) -> Self {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        loader.override_global("HAS_CURRENT_PID", &1_u8, true);
        loader.override_global("HAS_NETNS_COOKIE", &1_u8, true);
        loader.map_max_entries(map::HTTP2_FLOWS, 512);
        loader.map_max_entries(map::FLOWS, 64);
        let mut ebpf = loader.load(object).unwrap();
        for name in [Self::name("http2_inbound", bounded), Self::name("http2_outbound", bounded)] {
            Self::program(&mut ebpf, name).load().unwrap();
        }
        Self::program(&mut ebpf, "http2_request").load().unwrap();
        let flows = ebpf.take_map(map::HTTP2_FLOWS).unwrap();
        assert!(matches!(flows, Map::HashMap(_)));
        let totals = ebpf.take_map(map::HTTP2_TOTALS).unwrap().try_into().unwrap();
        let in_flight = ebpf.take_map(map::HTTP2_IN_FLIGHT).unwrap().try_into().unwrap();
        let flows = flows.try_into().unwrap();
        let held = ebpf.take_map(map::HTTP2_HELD).unwrap().try_into().unwrap();
        Self { ebpf, flows, totals, in_flight, held, bounded, packets: AtomicU64::new(0) }
    }

    const fn name(name: &'static str, bounded: bool) -> &'static str {
        match (name.as_bytes(), bounded) {
            (_, false) => name,
            (b"http2_inbound", true) => "http2_inbound_bounded",
            (_, true) => "http2_outbound_bounded",
        }
    }

    fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
        ebpf.program_mut(name).unwrap().try_into().unwrap()
    }

    fn loaded(&self, name: &str) -> &SchedClassifier {
        self.ebpf.program(name).unwrap().try_into().unwrap()
    }

    /// How many packets went through.
    pub(crate) fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Begins to follow a connection, as the TCP hooks do.
    pub(crate) fn establish(
        &mut self,
        key: Http2Key,
        cookie: u64,
        client_seq: u32,
        server_seq: u32,
    ) {
        let flow = Http2Flow {
            gate: gate::tag(&key),
            cookie,
            inbound: Track::new(Sender::Server, server_seq),
            outbound: Track::new(Sender::Client, client_seq),
            client_ack: server_seq,
            ..Http2Flow::zeroed()
        };
        self.flows.insert(Raw(key), Raw(flow), 0).unwrap();
    }

    /// What is kept of a connection.
    pub(crate) fn flow(&self, key: Http2Key) -> Http2Flow {
        self.flows.get(&Raw(key), 0).unwrap().0
    }

    /// What connections of a backend counted that were settled.
    pub(crate) fn totals(&self, key: Http2TotalsKey) -> Http2Totals {
        self.totals.get(&Raw(key), 0).unwrap().0
    }

    /// Streams of a backend that are in flight.
    pub(crate) fn in_flight(&self, backend: u32) -> u64 {
        self.in_flight.get(&backend, 0).unwrap().0
    }

    /// Places for bytes behind a hole.
    pub(crate) fn places(&self) -> Vec<Place> {
        let place = |index| {
            let bytes = self.held.get(&index, 0).unwrap();
            Place { owner: u64::from_ne_bytes(bytes[..8].try_into().unwrap()) }
        };
        on_a_large_stack(|| (0..self.held.len()).map(place).collect())
    }

    /// Makes a place one that was not touched since the machine was started.
    pub(crate) fn forget_place(&mut self, index: usize) {
        let index = u32::try_from(index).unwrap();
        on_a_large_stack(|| {
            let mut bytes = self.held.get(&index, 0).unwrap();
            bytes[std::mem::offset_of!(Held, kept_ns)..][..8].fill(0);
            self.held.set(index, bytes, 0).unwrap();
        });
    }

    /// Changes what is kept, while no program runs.
    pub(crate) fn change(&mut self, key: Http2Key, change: impl FnOnce(&mut Http2Flow)) {
        let mut flow = self.flow(key);
        change(&mut flow);
        self.flows.insert(Raw(key), Raw(flow), 0).unwrap();
    }

    /// Forgets a connection.
    pub(crate) fn forget(&mut self, key: Http2Key) {
        self.flows.remove(&Raw(key)).unwrap();
    }

    /// Asks for a move; whether the connection was there.
    pub(crate) fn request(&self, key: Http2Key, cookie: u64, wanted: u64) -> bool {
        let mut packet = vec![0; REQUEST_AT];
        packet.extend(bytemuck::bytes_of(&Http2Request { key, cookie, wanted }));
        let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() };
        self.loaded("http2_request").test_run(options).unwrap().return_value == REQUEST_TAKEN
    }

    /// A packet from the server on its way in; nothing when it was dropped.
    pub(crate) fn inbound(&self, netns: u64, packet: &[u8]) -> Option<Vec<u8>> {
        self.run(Self::name("http2_inbound", self.bounded), netns, packet)
    }

    /// A packet from the client on its way out.
    pub(crate) fn outbound(&self, netns: u64, packet: &[u8]) -> Option<Vec<u8>> {
        self.run(Self::name("http2_outbound", self.bounded), netns, packet)
    }

    /// A segment from the server, as the client gets it.
    pub(crate) fn deliver(&self, netns: u64, segment: &Segment, ends: Ends) -> Option<Segment> {
        let padding = 46_usize.saturating_sub(40 + segment.payload.len());
        let packet = segment.encode(ends, padding);
        let out = self.inbound(netns, &packet)?;
        // Untouched packets keep their padding.
        let out = if out == packet { &out[..out.len() - padding] } else { &out[..] };
        let out = strip(out, ends);
        Some(Segment::decode(out, ends))
    }

    /// A segment from the client, as the server gets it.
    pub(crate) fn send(&self, netns: u64, segment: &Segment, ends: Ends) -> Option<Segment> {
        let out = self.outbound(netns, &segment.encode(ends, 0))?;
        Some(Segment::decode(&out, ends))
    }

    fn run(&self, name: &str, netns: u64, packet: &[u8]) -> Option<Vec<u8>> {
        self.packets.fetch_add(1, Ordering::Relaxed);
        let mut context = [0_u8; SKB_BYTES];
        context[CB_AT..CB_AT + 8].copy_from_slice(&netns.to_ne_bytes());
        context[CB_AT + 8..CB_AT + 12].copy_from_slice(&ETHERNET_BYTES.to_ne_bytes());
        let mut out = vec![0; packet.len() + 64];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = self.loaded(name).test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        match result.return_value {
            TC_ACT_UNSPEC => Some(out),
            TC_ACT_SHOT => None,
            other => panic!("{name} returned {other}"),
        }
    }
}

/// A packet without the padding behind its IP payload.
fn strip(packet: &[u8], ends: Ends) -> &[u8] {
    let ip = &packet[ETHERNET_BYTES as usize..];
    let length = if ends.source.0.is_ipv4() {
        usize::from(u16::from_be_bytes([ip[2], ip[3]]))
    } else {
        usize::from(u16::from_be_bytes([ip[4], ip[5]])) + 40
    };
    &packet[..ETHERNET_BYTES as usize + length]
}

/// For values of maps that would fill the stack of a test's thread.
fn on_a_large_stack<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let roomy = std::thread::Builder::new().stack_size(64 * size_of::<Held>());
    std::thread::scope(|scope| roomy.spawn_scoped(scope, act).unwrap().join().unwrap())
}
