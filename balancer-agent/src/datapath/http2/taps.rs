//! Which interfaces lead to the programs: those of pods, each attached once, forgotten when they are gone.

use super::{super::bpffs::PinRoot, super::netns, super::sys, Attachment, entry, tap};
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use std::{collections::BTreeSet, fs, io, path::Path};

/// What stands behind the name of a pin of a classifier: no link, which would tell its interface.
pub(super) const FILTER: &str = "filter";

/// What was found, and led to the programs, of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taps {
    /// Cookies of its network namespaces, but for the agent's own.
    pub namespaces: BTreeSet<u64>,
    /// Interfaces that lead to the programs.
    pub interfaces: usize,
    /// What stood in the way.
    pub errors: Vec<String>,
}

/// Leads all interfaces of a client, told by its cgroup's directory, to the programs in force. The agent's own
/// network namespace, which is the node's, is left alone.
///
/// Enters namespaces on threads of their own, and blocks for some milliseconds.
pub fn tap_cgroup(pins: &PinRoot, cgroup: &Path, attachment: Attachment) -> Taps {
    let mut taps = Taps::default();
    for namespace in netns::of_cgroup(Some(cgroup), &mut taps.errors) {
        match netns::within(&namespace, || tap_all(pins, attachment)) {
            Ok(found) => {
                taps.namespaces.extend(found.namespaces);
                taps.interfaces += found.interfaces;
                taps.errors.extend(found.errors);
            }
            // Its process has ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                taps.errors.push(format!("network namespace {}: {error}", namespace.display()));
            }
        }
    }
    taps
}

/// Leads all interfaces of the calling thread's network namespace to the programs.
fn tap_all(pins: &PinRoot, attachment: Attachment) -> io::Result<Taps> {
    let mut taps = Taps { namespaces: BTreeSet::from([entry::netns_cookie()?]), ..Taps::default() };
    for interface in interfaces()? {
        match tap(pins, &interface, attachment) {
            Ok(()) => taps.interfaces += 1,
            Err(error) => taps.errors.push(error.to_string()),
        }
    }
    Ok(taps)
}

/// Every interface that is up, but for loopback: no backend that clients of others reach is behind that one.
fn interfaces() -> io::Result<BTreeSet<String>> {
    let is_meant = |flags: InterfaceFlags| {
        flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    let all = getifaddrs()?.filter(|it| is_meant(it.flags));
    Ok(all.map(|it| it.interface_name).collect())
}

/// How many interfaces, counted once for each direction, lead to programs of any version.
pub fn taps(pins: &PinRoot) -> usize {
    let versions = pins.http2_versions().into_iter();
    let pinned = versions.filter_map(|version| fs::read_dir(version.join("taps")).ok());
    pinned.flatten().flatten().count()
}

/// Removes pins of interfaces that are gone, and whatever an earlier version has left once its interfaces are.
/// `alive` are the namespaces of all clients, where they are known: without links (before Linux 6.6) nothing
/// else tells whether an interface is gone.
///
/// # Errors
/// As the kernel says.
pub fn sweep(pins: &PinRoot, alive: Option<&BTreeSet<u64>>) -> io::Result<()> {
    for version in pins.http2_versions() {
        let mut are_left = false;
        for pin in fs::read_dir(version.join("taps"))?.flatten().map(|entry| entry.path()) {
            if is_gone(&pin, alive) {
                fs::remove_file(&pin)?;
            } else {
                are_left = true;
            }
        }
        if !are_left && version != pins.http2() {
            fs::remove_dir_all(&version)?;
        }
    }
    Ok(())
}

fn is_gone(pin: &Path, alive: Option<&BTreeSet<u64>>) -> bool {
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    if name.ends_with(FILTER) {
        let netns = name.split('-').next().and_then(|cookie| u64::from_str_radix(cookie, 16).ok());
        return netns.is_some_and(|netns| alive.is_some_and(|alive| !alive.contains(&netns)));
    }
    // What cannot be asked stays.
    sys::open_pinned(pin).and_then(|link| sys::tcx_interface(&link)).is_ok_and(|index| index == 0)
}
