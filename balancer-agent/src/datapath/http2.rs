//! Leads packets of pods' interfaces to the programs that follow HTTP/2 frames, and asks for moves.
//!
//! An interface gets two *entries*: programs of a few instructions that note the network namespace down
//! and go on to the program in force, which stands in the map `HTTP2_PROGRAMS`. So a new agent replaces
//! the programs of all interfaces by two writes. Links are pinned: connections that were moved go on
//! being shifted while no agent runs.

mod entry;
mod taps;

pub use self::taps::{Taps, sweep, tap_cgroup, taps};

use self::entry::{Entry, LinkLayer};
use super::{
    bpffs::PinRoot,
    loader::{Loaded, chain},
    sys::{self, TcxHook},
};
use aya::{
    TestRun, TestRunOptions,
    maps::{Map, MapData, MapError, ProgramArray},
    pin::PinError,
    programs::{
        Program, ProgramError, SchedClassifier,
        tc::{self, NlOptions, TcAttachOptions, TcAttachType},
    },
};
use balancer_common::{
    abi::map,
    http2::{Http2Request, PROGRAM_INBOUND, PROGRAM_OUTBOUND, REQUEST_TAKEN},
};
use std::{fs, io, os::fd::OwnedFd, path::Path};

/// Why HTTP/2 connections cannot be followed or moved.
#[derive(Debug, thiserror::Error)]
pub enum Http2Error {
    /// The kernel cannot run the programs.
    #[error(
        "HTTP/2 connections cannot be followed on this kernel; hint: `balancer-agent check` tells why"
    )]
    Unsupported,
    /// The table of programs.
    #[error("put the programs into map `{}`: {}", map::HTTP2_PROGRAMS, chain(.0))]
    Programs(#[source] MapError),
    /// A program that was loaded.
    #[error("use program `{name}`: {}", chain(cause))]
    Program {
        /// The program.
        name: &'static str,
        /// What aya or the kernel said.
        cause: ProgramError,
    },
    /// The interface is none that is known.
    #[error("look at interface `{interface}`: {cause}; hint: is it in this network namespace?")]
    Interface {
        /// The interface.
        interface: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The namespace has no cookie.
    #[error("ask for the cookie of the network namespace: {0}; hint: it takes Linux 5.14")]
    Namespace(#[source] io::Error),
    /// The entry cannot be attached.
    #[error("attach to interface `{interface}`: {cause}; hint: it takes CAP_NET_ADMIN and CAP_BPF")]
    Attach {
        /// The interface.
        interface: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The classifier cannot be attached by netlink.
    #[error("attach to interface `{interface}`: {}", chain(cause))]
    Filter {
        /// The interface.
        interface: String,
        /// What aya or the kernel said.
        cause: ProgramError,
    },
    /// A pin.
    #[error("pin for interface `{interface}`: {}", chain(cause))]
    Pin {
        /// The interface.
        interface: String,
        /// What the kernel said.
        cause: PinError,
    },
}

/// How interfaces lead to the programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attachment {
    /// By links where the kernel has them (tcx, Linux 6.6), otherwise by filters.
    #[default]
    Best,
    /// By filters of the `clsact` queueing discipline, as on kernels that have nothing else.
    Filter,
}

/// Both directions, with the index of the program in force and the names of hooks.
const WAYS: [(u32, &str, TcxHook, TcAttachType); 2] = [
    (PROGRAM_INBOUND, "in", TcxHook::Ingress, TcAttachType::Ingress),
    (PROGRAM_OUTBOUND, "out", TcxHook::Egress, TcAttachType::Egress),
];

/// Puts the loaded programs in force for all interfaces that lead to them.
///
/// # Errors
/// [`Http2Error`] names the step.
pub fn install(loaded: &Loaded, pins: &PinRoot) -> Result<(), Http2Error> {
    let mut programs = open_programs(pins)?;
    for (index, (name, variant)) in (0..).zip(loaded.http2.iter().take(WAYS.len())) {
        let Some(Program::SchedClassifier(program)) = loaded.ebpf.program(variant) else {
            return Err(Http2Error::Unsupported);
        };
        let fd = program.fd().map_err(|cause| Http2Error::Program { name, cause })?;
        programs.set(index, fd, 0).map_err(Http2Error::Programs)?;
    }
    if loaded.http2.is_empty() { Err(Http2Error::Unsupported) } else { Ok(()) }
}

fn open_programs(pins: &PinRoot) -> Result<ProgramArray<MapData>, Http2Error> {
    let path = pins.http2_maps().join(map::HTTP2_PROGRAMS);
    MapData::from_pin(path)
        .and_then(Map::from_map_data)
        .and_then(ProgramArray::try_from)
        .map_err(Http2Error::Programs)
}

/// Leads an interface of the calling thread's network namespace to the programs in force. Once is enough,
/// whoever asks again: links that are pinned stay as they are.
///
/// # Errors
/// [`Http2Error`] names the step.
pub fn tap(pins: &PinRoot, interface: &str, attachment: Attachment) -> Result<(), Http2Error> {
    let interface_error = |cause| Http2Error::Interface { interface: interface.to_owned(), cause };
    let index =
        nix::net::if_::if_nametoindex(interface).map_err(|errno| interface_error(errno.into()))?;
    let link_layer = LinkLayer::of(interface).map_err(interface_error)?;
    let netns = entry::netns_cookie().map_err(Http2Error::Namespace)?;
    let programs = sys::open_pinned(&pins.http2_maps().join(map::HTTP2_PROGRAMS))
        .map_err(|cause| Http2Error::Attach { interface: interface.to_owned(), cause })?;
    for (program, way, hook, filter) in WAYS {
        let pin = pins.taps().join(format!("{netns:x}-{index}-{way}"));
        let filter_pin = pins.taps().join(format!("{netns:x}-{index}-{way}-{}", taps::FILTER));
        if pin.exists() || filter_pin.exists() {
            continue;
        }
        let attach_error = |cause| Http2Error::Attach { interface: interface.to_owned(), cause };
        let entry = Entry { netns, link_layer, program };
        let entry = entry.load(&programs).map_err(attach_error)?;
        let link = match attachment {
            Attachment::Best => attach_link(&entry, index, hook).map_err(attach_error)?,
            Attachment::Filter => None,
        };
        match link {
            Some(link) => sys::pin(&link, &pin).map_err(attach_error)?,
            None => attach_filter(&entry, &filter_pin, interface, filter)?,
        }
    }
    Ok(())
}

/// Attaches by a link, where the kernel has such links.
fn attach_link(entry: &OwnedFd, interface: u32, hook: TcxHook) -> io::Result<Option<OwnedFd>> {
    match sys::attach_tcx(entry, interface, hook) {
        Ok(link) => Ok(Some(link)),
        // Without tcx, `link_create()` knows no such way to attach.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Attaches a filter of the `clsact` queueing discipline, for kernels before 6.6. It stays until the
/// interface goes, or until somebody takes it away.
fn attach_filter(
    entry: &OwnedFd,
    pin: &Path,
    interface: &str,
    way: TcAttachType,
) -> Result<(), Http2Error> {
    let attach_error = |cause| Http2Error::Attach { interface: interface.to_owned(), cause };
    let filter_error = |cause| Http2Error::Filter { interface: interface.to_owned(), cause };
    // Another's filters may be on it already; if it is not there, attaching says so.
    let _ = tc::qdisc_add_clsact(interface);
    sys::pin(entry, pin).map_err(attach_error)?;
    let attach = || {
        let mut program = SchedClassifier::from_pin(pin)?;
        let options = TcAttachOptions::Netlink(NlOptions::default());
        let id = program.attach_with_options(interface, way, options)?;
        // aya takes a filter away together with its record of it.
        program.take_link(id).map(std::mem::forget)
    };
    attach().map_err(|cause| {
        // It would say that the interface leads to the programs already.
        let _ = fs::remove_file(pin);
        filter_error(cause)
    })
}

/// Asks for a move, by a program that the kernel runs for us; whether the connection was there.
///
/// # Errors
/// [`Http2Error`] names the step.
pub fn request(loaded: &Loaded, request: &Http2Request) -> Result<bool, Http2Error> {
    const NAME: &str = "http2_request";
    const ETHERNET_BYTES: usize = 14;
    let Some(Program::SchedClassifier(program)) = loaded.ebpf.program(NAME) else {
        return Err(Http2Error::Unsupported);
    };
    let mut packet = vec![0; ETHERNET_BYTES];
    packet.extend(bytemuck::bytes_of(request));
    let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() };
    let result =
        program.test_run(options).map_err(|cause| Http2Error::Program { name: NAME, cause })?;
    Ok(result.return_value == REQUEST_TAKEN)
}
