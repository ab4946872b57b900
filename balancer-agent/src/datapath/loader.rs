//! Loads the kernel object: makes or adopts the pinned maps, and picks the programs this kernel can run.

use super::{
    bpffs::{BpffsError, PinRoot, layout_of},
    maps::{self, Maps, OpenError},
};
use crate::core::write::Limits;
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{Program, ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported},
};
use balancer_common::{
    abi::{self, map},
    flow::seats_of,
};
use std::{fs, path::Path};

/// The compiled kernel programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/balancer.o"));

/// The compiled kernel object, as it is embedded.
pub fn object() -> &'static [u8] {
    OBJECT
}

/// Why the datapath cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The pin directory.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// The object or one of its maps.
    #[error("load the kernel object: {}; hint: `balancer-agent check` tells what is missing", chain(.0))]
    Object(#[from] EbpfError),
    /// One program.
    #[error(
        "load program `{name}`: {}; hint: `balancer-agent check` tells what is missing",
        chain(cause)
    )]
    Program {
        /// The program.
        name: &'static str,
        /// What the verifier or the kernel said.
        cause: ProgramError,
    },
    /// Neither a program nor its stand-in.
    #[error("{first}; and the stand-in for older kernels: {second}")]
    Neither {
        /// What became of the program.
        first: Box<LoadError>,
        /// What became of its stand-in.
        second: Box<LoadError>,
    },
    /// A program that must be in the object is not.
    #[error(
        "the kernel object has no program `{name}`; hint: build again with `cargo xtask build`"
    )]
    NoProgram {
        /// The program.
        name: &'static str,
    },
    /// A pinned map.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The settings record.
    #[error("read map `{}`: {}", map::SETTINGS, chain(.0))]
    Settings(#[from] MapError),
    /// The settings record is of another version than its directory.
    #[error(
        "the maps in `{directory}` carry ABI version {found} instead of {}; hint: \
         `balancer-agent unload`, then start again",
        abi::ABI_VERSION
    )]
    Abi {
        /// The directory.
        directory: String,
        /// The version found.
        found: u32,
    },
}

/// An error with all of its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.trim_end().replace('\n', " ")
}

/// A program, and the one that stands in for it on kernels that refuse it.
#[derive(Clone, Copy, Debug)]
pub struct ProgramSpec {
    /// Its name in the object.
    pub name: &'static str,
    /// The stand-in, and what is lost with it.
    pub compat: Option<(&'static str, &'static str)>,
}

const CURSOR_LOSS: &str = "two connections made at the same instant on two CPUs may take the same \
    turn (atomic fetch instructions exist from Linux 5.12 on)";

const SEAT_LOSS: &str = "each connection of a tracked service costs some 0.2 µs more (atomic exchange \
    instructions exist from Linux 5.12 on)";

const HTTP2_LOSS: &str = "HTTP/2 connections are not followed and cannot be moved (network \
    namespaces have no cookies for TCP events before Linux 5.15)";

/// Every program that is attached, in the order of attachment: first those that follow
/// connections, then those that make them.
pub const PROGRAMS: [ProgramSpec; 6] = [
    ProgramSpec { name: "tcp_events", compat: Some(("tcp_events_compat", HTTP2_LOSS)) },
    ProgramSpec { name: "socket_released", compat: Some(("socket_released_compat", SEAT_LOSS)) },
    ProgramSpec { name: "getpeername4", compat: None },
    ProgramSpec { name: "getpeername6", compat: None },
    ProgramSpec { name: "connect4", compat: Some(("connect4_compat", CURSOR_LOSS)) },
    ProgramSpec { name: "connect6", compat: Some(("connect6_compat", CURSOR_LOSS)) },
];

const STEPS_LOSS: &str = "segments with more than 256 HTTP/2 frames end the tracking of their \
    connection (loops of any length exist from Linux 5.17 on)";

/// The programs that follow HTTP/2 frames. Without them everything else works.
pub const HTTP2_PROGRAMS: [ProgramSpec; 3] = [
    ProgramSpec { name: "http2_inbound", compat: Some(("http2_inbound_bounded", STEPS_LOSS)) },
    ProgramSpec { name: "http2_outbound", compat: Some(("http2_outbound_bounded", STEPS_LOSS)) },
    ProgramSpec { name: "http2_request", compat: None },
];

/// What loading found.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// The layout of the maps.
    pub layout: String,
    /// Whether the maps were there already.
    pub adopted: bool,
    /// Features that this kernel lacks, and what is lost by that.
    pub degraded: Vec<String>,
}

/// Loaded programs, not yet attached, and their maps.
pub struct Loaded {
    /// Programs by name.
    pub ebpf: Ebpf,
    /// The name under which each of [`PROGRAMS`] was loaded, in the same order.
    pub chosen: Vec<(&'static str, &'static str)>,
    /// The same for [`HTTP2_PROGRAMS`]; empty when this kernel cannot run them.
    pub http2: Vec<(&'static str, &'static str)>,
    /// The pinned maps.
    pub maps: Maps,
    /// What was found.
    pub report: LoadReport,
}

/// Loads everything. Programs that run already go on running: nothing is attached yet.
///
/// # Errors
/// [`LoadError`] names the step, the cause and the fix.
pub fn load(pins: &PinRoot, limits: &Limits, log_level: u8) -> Result<Loaded, LoadError> {
    let layout = layout_of(limits);
    let directory = pins.maps(&layout);
    let adopted = maps::is_in_force(pins, &layout);
    if !adopted && directory.exists() {
        // An earlier start broke off before its programs took over: half a state at best.
        pins.remove_layout(&layout)?;
    }
    for directory in [&directory, &pins.http2_maps(), &pins.taps()] {
        fs::create_dir_all(directory).map_err(|cause| BpffsError::Io {
            act: "create",
            path: directory.clone(),
            cause,
        })?;
    }
    let mut report = LoadReport { layout, adopted, degraded: Vec::new() };
    let has_pid =
        is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_get_current_pid_tgid)
            .unwrap_or(false);
    if !has_pid {
        report.degraded.push(
            "traces do not name the client's process (this kernel keeps \
             bpf_get_current_pid_tgid from socket hooks)"
                .into(),
        );
    }
    let has_netns = is_helper_supported(ProgramType::SockOps, BpfHelper::BPF_FUNC_get_netns_cookie)
        .unwrap_or(false);
    let seats = if has_exchange() { seats_of(limits.flows) } else { 1 };
    let http2 = pins.http2_maps();
    let mut ebpf = load_object([&directory, &http2], limits, log_level, has_pid, has_netns, seats)?;
    let mut chosen = Vec::new();
    for spec in &PROGRAMS {
        chosen.push((spec.name, load_program(&mut ebpf, spec, &mut report)?));
    }
    let http2 = if has_netns && is_in_full(&chosen) {
        load_http2(&mut ebpf, &mut report)
    } else {
        Vec::new()
    };
    if !has_netns {
        report.degraded.push(HTTP2_LOSS.into());
    }
    report.degraded.sort();
    report.degraded.dedup();
    let maps = Maps::open(pins, &report.layout)?;
    check_settings(&maps, &report.layout)?;
    Ok(Loaded { ebpf, chosen, http2, maps, report })
}

/// Whether programs can seat flows. Nothing tells so directly: this helper came with the atomic
/// exchange instructions, in Linux 5.12. Where the guess is wrong, flows are in the table instead.
fn has_exchange() -> bool {
    is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_check_mtu)
        .unwrap_or(false)
}

fn load_object(
    [directory, http2]: [&Path; 2],
    limits: &Limits,
    log_level: u8,
    has_pid: bool,
    has_netns: bool,
    seats: u32,
) -> Result<Ebpf, EbpfError> {
    let seat_mask = seats - 1;
    let (has_pid, has_netns) = (u8::from(has_pid), u8::from(has_netns));
    let mut loader = EbpfLoader::new();
    // No program reads kernel structures, so that there is nothing to relocate against the
    // kernel's own type information, whose parsing would cost megabytes.
    loader.btf(None);
    loader.override_global("HAS_CURRENT_PID", &has_pid, true);
    loader.override_global("HAS_NETNS_COOKIE", &has_netns, true);
    loader.override_global("SEAT_MASK", &seat_mask, true);
    loader.override_global(aya_log::LEVEL, &log_level, false);
    for name in map::PINNED {
        loader.map_pin_path(name, directory.join(name));
    }
    for name in map::HTTP2 {
        loader.map_pin_path(name, http2.join(name));
    }
    let sizes = [
        (map::FRONTENDS_V4, limits.frontends),
        (map::FRONTENDS_V6, limits.frontends),
        (map::SERVICES, limits.services),
        (map::SERVICE_NAMES, limits.services),
        (map::SERVICE_STATS, limits.services),
        (map::CURSORS, limits.services),
        (map::SLOTS, limits.chunks),
        (map::BACKENDS, limits.backends),
        (map::BACKEND_STATS, limits.backends),
        (map::POD_CURSORS, limits.pod_services),
        (map::AFFINITIES, limits.pod_services),
        (map::SEATS, seats),
        (map::FLOWS, (limits.flows - seats).max(1)),
    ];
    for (name, entries) in sizes {
        loader.map_max_entries(name, entries);
    }
    loader.load(OBJECT)
}

/// Whether the TCP events tell of connections whose frames are to be followed.
fn is_in_full(chosen: &[(&str, &str)]) -> bool {
    chosen.contains(&("tcp_events", "tcp_events"))
}

/// Loads the programs that follow frames: all of them, or none.
fn load_http2(ebpf: &mut Ebpf, report: &mut LoadReport) -> Vec<(&'static str, &'static str)> {
    let mut chosen = Vec::new();
    for spec in &HTTP2_PROGRAMS {
        match load_program(ebpf, spec, report) {
            Ok(variant) => chosen.push((spec.name, variant)),
            Err(error) => {
                let loss = "HTTP/2 connections are not followed and cannot be moved";
                report.degraded.push(format!("{loss} ({error})"));
                return Vec::new();
            }
        }
    }
    chosen
}

/// Loads a program, or its stand-in where the kernel refuses it.
fn load_program(
    ebpf: &mut Ebpf,
    spec: &ProgramSpec,
    report: &mut LoadReport,
) -> Result<&'static str, LoadError> {
    let first = match load_one(ebpf, spec.name) {
        Ok(()) => return Ok(spec.name),
        Err(error) => error,
    };
    let Some((compat, loss)) = spec.compat else {
        return Err(first);
    };
    if let Err(second) = load_one(ebpf, compat) {
        return Err(LoadError::Neither { first: Box::new(first), second: Box::new(second) });
    }
    report.degraded.push(loss.into());
    Ok(compat)
}

fn load_one(ebpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::NoProgram { name })?;
    let loaded = match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => return Err(LoadError::NoProgram { name }),
    };
    loaded.map_err(|cause| LoadError::Program { name, cause })
}

/// Refuses maps that somebody else wrote to. New ones carry no version until they are in force.
fn check_settings(maps: &Maps, layout: &str) -> Result<(), LoadError> {
    let found = maps.settings.get(&0, 0)?.0.abi_version;
    if found != 0 && found != abi::ABI_VERSION {
        return Err(LoadError::Abi { directory: layout.into(), found });
    }
    Ok(())
}
