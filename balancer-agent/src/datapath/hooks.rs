//! Attaches the programs to a cgroup by pinned links, or replaces the programs of links that are there.

use super::{
    bpffs::PinRoot,
    cgroup::{self, CgroupError},
    loader::{Loaded, chain},
    sys::{self, AttachType},
};
use aya::{
    maps::MapError,
    pin::PinError,
    programs::{
        CgroupAttachMode, Program, ProgramError, ProgramFd, links::FdLink, links::LinkError,
    },
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Why a hook cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The cgroup's directory cannot be opened.
    #[error("open cgroup `{}`: {cause}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The program cannot be attached.
    #[error(
        "attach `{name}`: {}; hint: `balancer-agent check` tells what is missing",
        chain(cause)
    )]
    Attach {
        /// The program.
        name: &'static str,
        /// What the kernel said.
        cause: ProgramError,
    },
    /// The link cannot be handled.
    #[error("take the link of `{name}`: {cause}")]
    Link {
        /// The program.
        name: &'static str,
        /// What aya said.
        cause: LinkError,
    },
    /// The link cannot be pinned.
    #[error("pin the link of `{name}`: {}", chain(cause))]
    Pin {
        /// The program.
        name: &'static str,
        /// What the kernel said.
        cause: PinError,
    },
    /// The program of a link cannot be replaced.
    #[error("replace the program of `{name}`: {cause}")]
    Replace {
        /// The program.
        name: &'static str,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The maps cannot be marked as those that programs run on.
    #[error("mark the maps as in force: {}", chain(.0))]
    Settings(#[from] MapError),
    /// The loaded program is not there or of an unexpected type.
    #[error("the kernel object has no attachable program `{name}`; hint: `cargo xtask build`")]
    NoProgram {
        /// The program.
        name: &'static str,
    },
}

/// How a program came to its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Newly attached.
    Attached,
    /// A link was there: its program was replaced in one step.
    Replaced,
    /// A link was there whose program runs on other maps: both run, until [`retire`].
    Joined,
    /// A link to another or vanished cgroup was there: attached anew, then the old link removed.
    Moved,
}

/// Every program's hook.
pub const HOOKS: [(&str, AttachType); 6] = [
    ("connect4", AttachType::Connect4),
    ("connect6", AttachType::Connect6),
    ("getpeername4", AttachType::Getpeername4),
    ("getpeername6", AttachType::Getpeername6),
    ("tcp_events", AttachType::SockOps),
    ("socket_released", AttachType::SockRelease),
];

/// The programs that follow connections which others make.
const FOLLOWERS: [&str; 2] = ["tcp_events", "socket_released"];

/// Attaches every loaded program to `cgroup`. Programs of other owners stay where they are.
///
/// # Errors
/// [`HookError`] names the program, the act and the cause. What was attached before stays.
pub fn attach(
    loaded: &mut Loaded,
    pins: &PinRoot,
    cgroup: &Path,
) -> Result<Vec<(&'static str, Taken)>, HookError> {
    let id = cgroup::id(cgroup)?;
    let directory =
        File::open(cgroup).map_err(|cause| HookError::Open { path: cgroup.into(), cause })?;
    // A take-over that broke off is ended first.
    retire(pins)?;
    loaded.maps.put_in_force()?;
    let other_maps = !loaded.report.adopted;
    let mut taken = Vec::new();
    for (name, variant) in loaded.chosen.clone() {
        let program = loaded.ebpf.program_mut(variant).ok_or(HookError::NoProgram { name })?;
        // Programs that follow connections have to see those on the old maps to their end.
        let beside = other_maps && FOLLOWERS.contains(&name);
        let how = attach_one(program, name, pins, &directory, id, beside)?;
        taken.push((name, how));
    }
    Ok(taken)
}

fn attach_one(
    program: &mut Program,
    name: &'static str,
    pins: &PinRoot,
    cgroup: &File,
    cgroup_id: u64,
    beside: bool,
) -> Result<Taken, HookError> {
    let pin = pins.link(name);
    let replace_error = |cause| HookError::Replace { name, cause };
    let existing = match sys::open_pinned(&pin) {
        Ok(link) => Some(link),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(replace_error(error)),
    };
    let pin_error = |cause| HookError::Pin { name, cause };
    let Some(existing) = existing else {
        let link = new_link(program, name, cgroup)?;
        link.pin(&pin).map_err(pin_error)?;
        return Ok(Taken::Attached);
    };
    let stays = sys::link_info(&existing).map_err(replace_error)?.cgroup_id == cgroup_id;
    if stays && !beside {
        sys::update_link(&existing, program_fd(program, name)?).map_err(replace_error)?;
        return Ok(Taken::Replaced);
    }
    // Pinned beside the old one, to be renamed over it: there is no moment at which the end of
    // this process would take the new link with it.
    let link = new_link(program, name, cgroup)?;
    link.pin(next_pin(pins, name)).map_err(pin_error)?;
    if stays {
        return Ok(Taken::Joined);
    }
    // Both run for a moment where one cgroup lies below the other; the first to rewrite a
    // destination leaves no frontend for the second.
    retire_one(pins, name)?;
    Ok(Taken::Moved)
}

/// Where a link waits that is to take the place of another.
fn next_pin(pins: &PinRoot, name: &str) -> PathBuf {
    pins.link(&format!("{name}-next"))
}

/// Ends what [`attach`] has left running beside the new programs ([`Taken::Joined`]).
///
/// # Errors
/// [`HookError::Replace`] names the program.
pub fn retire(pins: &PinRoot) -> Result<(), HookError> {
    HOOKS.iter().try_for_each(|(name, _)| retire_one(pins, name))
}

fn retire_one(pins: &PinRoot, name: &'static str) -> Result<(), HookError> {
    let (pin, next) = (pins.link(name), next_pin(pins, name));
    if !next.exists() {
        return Ok(());
    }
    let old = sys::open_pinned(&pin);
    fs::rename(&next, &pin).map_err(|cause| HookError::Replace { name, cause })?;
    // Where the kernel cannot (before 5.9), it detaches a while after the last descriptor is gone.
    let _ = old.and_then(|old| sys::detach_link(&old));
    Ok(())
}

fn program_fd<'a>(program: &'a Program, name: &'static str) -> Result<&'a ProgramFd, HookError> {
    match program {
        Program::CgroupSockAddr(program) => program.fd(),
        Program::CgroupSock(program) => program.fd(),
        Program::SockOps(program) => program.fd(),
        _ => return Err(HookError::NoProgram { name }),
    }
    .map_err(|cause| HookError::Attach { name, cause })
}

/// Attaches by a link of its own. Links are always "multi": they join what others attached.
fn new_link(program: &mut Program, name: &'static str, cgroup: &File) -> Result<FdLink, HookError> {
    let mode = CgroupAttachMode::Single;
    let attach_error = |cause| HookError::Attach { name, cause };
    let link_error = |cause| HookError::Link { name, cause };
    match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(cgroup, mode).map_err(attach_error)?;
            program.take_link(id).map_err(attach_error)?.try_into().map_err(link_error)
        }
        Program::CgroupSock(program) => {
            let id = program.attach(cgroup, mode).map_err(attach_error)?;
            program.take_link(id).map_err(attach_error)?.try_into().map_err(link_error)
        }
        Program::SockOps(program) => {
            let id = program.attach(cgroup, mode).map_err(attach_error)?;
            program.take_link(id).map_err(attach_error)?.try_into().map_err(link_error)
        }
        _ => Err(HookError::NoProgram { name }),
    }
}

/// Whether the link of a program is pinned, and what it runs where.
///
/// # Errors
/// As the kernel says; a missing link is `None`.
pub fn link_info(pins: &PinRoot, name: &str) -> io::Result<Option<sys::LinkInfo>> {
    match sys::open_pinned(&pins.link(name)) {
        Ok(link) => sys::link_info(&link).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
