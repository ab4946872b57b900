//! All maps of the kernel programs. Sizes are defaults: the agent sets its limits when it makes them.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
    macros::btf_map,
};
use balancer_common::{
    abi,
    backend::{Backend, BackendStats},
    flow::{Flow, Seat},
    frontend::{Frontend, FrontendKeyV4, FrontendKeyV6},
    hierarchy::Hierarchy,
    http2::{
        self,
        counts::{Http2Totals, Http2TotalsKey},
        flow::{Http2Closed, Http2Flow, Http2Key},
        held::Held,
    },
    pod::{Affinity, PodServiceKey, Skip},
    reason::REASONS_MAX,
    service::{Service, ServiceName, ServiceStats, SlotChunk},
    settings::Settings,
    trace::TraceEvent,
};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;
/// The agent adds to counters in use by atomics of its own (Linux 5.5).
const SHARED: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
pub(crate) static FRONTENDS_V4: HashMap<
    FrontendKeyV4,
    Frontend,
    { abi::FRONTENDS_MAX },
    ON_DEMAND,
> = HashMap::new();

#[btf_map]
pub(crate) static FRONTENDS_V6: HashMap<
    FrontendKeyV6,
    Frontend,
    { abi::FRONTENDS_MAX },
    ON_DEMAND,
> = HashMap::new();

#[btf_map]
pub(crate) static SERVICES: Array<Service, { abi::SERVICES_MAX }> = Array::new();

#[btf_map]
pub(crate) static SERVICE_NAMES: HashMap<u32, ServiceName, { abi::SERVICES_MAX }, ON_DEMAND> =
    HashMap::new();

#[btf_map]
pub(crate) static SERVICE_STATS: Array<ServiceStats, { abi::SERVICES_MAX }> = Array::new();

#[btf_map]
pub(crate) static CURSORS: Array<u64, { abi::SERVICES_MAX }> = Array::new();

#[btf_map]
pub(crate) static SLOTS: Array<SlotChunk, { abi::CHUNKS_MAX }> = Array::new();

#[btf_map]
pub(crate) static BACKENDS: Array<Backend, { abi::BACKENDS_MAX }> = Array::new();

#[btf_map]
pub(crate) static BACKEND_STATS: Array<BackendStats, { abi::BACKENDS_MAX }, SHARED> = Array::new();

// Only a pod's first connection to a service inserts; every other one looks up, which is as cheap
// in an LRU map as in a plain one.
#[btf_map]
pub(crate) static POD_CURSORS: LruHashMap<PodServiceKey, u64, { abi::POD_SERVICES_MAX }> =
    LruHashMap::new();

#[btf_map]
pub(crate) static AFFINITIES: LruHashMap<PodServiceKey, Affinity, { abi::POD_SERVICES_MAX }> =
    LruHashMap::new();

// An insert into a hash map takes two locks and touches a bucket that is in no cache: it was half of
// what a tracked `connect()` cost.
#[btf_map]
pub(crate) static SEATS: Array<Seat, { abi::SEATS_MAX }, SHARED> = Array::new();

// Flows whose seat is taken, and all of kernels before 5.12. Preallocated and not LRU: allocation and
// eviction were measured to cost twice as much.
#[btf_map]
pub(crate) static FLOWS: HashMap<u64, Flow, { abi::FLOWS_MAX / 2 }> = HashMap::new();

#[btf_map]
pub(crate) static REASONS: PerCpuArray<u64, { REASONS_MAX }> = PerCpuArray::new();

#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map]
pub(crate) static HIERARCHY: Array<Hierarchy, 1> = Array::new();

#[btf_map]
pub(crate) static SKIPPED_PODS: HashMap<u64, Skip, { abi::SKIPPED_PODS_MAX }, ON_DEMAND> =
    HashMap::new();

#[btf_map]
pub(crate) static TRACES: RingBuf<TraceEvent, { abi::TRACES_BYTES }> = RingBuf::new();

// Only connections of services that follow frames have an entry, of two kilobytes.
#[btf_map]
pub(crate) static HTTP2_FLOWS: HashMap<Http2Key, Http2Flow, { abi::HTTP2_FLOWS_MAX }, ON_DEMAND> =
    HashMap::new();

#[btf_map]
pub(crate) static HTTP2_PODS: LruHashMap<u64, u64, { abi::HTTP2_PODS_MAX }> = LruHashMap::new();

#[btf_map]
pub(crate) static HTTP2_CLOSED: Array<Http2Closed, { abi::HTTP2_CLOSED_MAX }> = Array::new();

#[btf_map]
pub(crate) static HTTP2_TURNS: Array<u64, 1> = Array::new();

// A new entry is made up here: it is larger than a program's stack.
#[btf_map]
pub(crate) static HTTP2_DRAFT: PerCpuArray<Http2Flow, 1> = PerCpuArray::new();

#[btf_map]
pub(crate) static HTTP2_TOTALS: HashMap<
    Http2TotalsKey,
    Http2Totals,
    { abi::HTTP2_TOTALS_MAX },
    ON_DEMAND,
> = HashMap::new();

// Of one size whatever the limits, since connections outlive a change of those.
#[btf_map]
pub(crate) static HTTP2_IN_FLIGHT: Array<u64, { abi::HTTP2_IN_FLIGHT_MAX }> = Array::new();

// Memory of its own size from the start, since a packet cannot wait for some.
#[btf_map]
pub(crate) static HTTP2_HELD: Array<Held, { abi::HTTP2_HELD_MAX }> = Array::new();

// Never written to: new totals, which are larger than a program's stack.
#[btf_map]
pub(crate) static HTTP2_ZERO: Array<Http2Totals, 1> = Array::new();

#[btf_map]
pub(crate) static HTTP2_PROGRAMS: ProgramArray<{ http2::PROGRAMS }> = ProgramArray::new();

/// The length of `SEATS`, a power of two, less one.
#[unsafe(no_mangle)]
pub(crate) static SEAT_MASK: Global<u32> = Global::new(0);

/// Whether `bpf_get_netns_cookie` may be called from TCP hooks, which the agent probes.
#[unsafe(no_mangle)]
pub(crate) static HAS_NETNS_COOKIE: Global<u8> = Global::new(0);

/// Whether `bpf_get_current_pid_tgid` may be called from socket hooks, which the agent probes. Set when the
/// programs are loaded; the verifier then drops the branch that is not taken.
#[unsafe(no_mangle)]
pub(crate) static HAS_CURRENT_PID: Global<u8> = Global::new(0);
