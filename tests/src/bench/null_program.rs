//! Programs of two instructions on the hooks that a connection passes: what the kernel charges for running any program.
//!
//! They must not be in the product's object, and are too small for a compiler: so they are assembled
//! here and loaded by themselves, which aya offers for whole objects only.

use crate::world::World;
use anyhow::Context;
use balancer_agent::datapath::sys::{self, Assembled, AttachType, ProgramType};
use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// `r0 = 1; exit`, each as opcode, registers, offset and a 32-bit immediate.
const INSTRUCTIONS: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];

/// Where a null program is attached.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// `connect()` of AF_INET sockets.
    Connect4,
    /// The TCP events of every socket.
    SockOps,
}

impl Hook {
    const fn types(self) -> (ProgramType, AttachType) {
        match self {
            Self::Connect4 => (ProgramType::SockAddr, AttachType::Connect4),
            Self::SockOps => (ProgramType::SockOps, AttachType::SockOps),
        }
    }
}

/// The program, attached for as long as this lives.
pub struct NullProgram {
    name: String,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl NullProgram {
    /// Loads it and attaches it to `cgroup`, by a link as every program of balancer.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn attach(cgroup: &Path, hook: Hook) -> anyhow::Result<Self> {
        let (kind, hook) = hook.types();
        let name = format!("null{}_{}", hook as u32, std::process::id());
        let program =
            Assembled { kind, hook: Some(hook), name: &name, instructions: &INSTRUCTIONS };
        let program = sys::load(&program).context("load the null program")?;
        let directory =
            File::open(cgroup).with_context(|| format!("open cgroup {}", cgroup.display()))?;
        let link =
            sys::attach_cgroup(&program, &directory, hook).context("attach the null program")?;
        Ok(Self { name, _program: program, _link: link })
    }

    /// Its runs, and the nanoseconds that they took.
    ///
    /// # Errors
    /// When the kernel does not show it.
    pub fn runs(&self) -> anyhow::Result<(u64, u64)> {
        let info = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .find(|info| info.name_as_str() == Some(self.name.as_str()))
            .context("the null program is not loaded")?;
        let ns = u64::try_from(info.run_time().as_nanos())?;
        Ok((info.run_count(), ns))
    }
}

/// A cgroup beside that of a world, in which no program of the product runs. Removed when dropped.
pub struct CgroupBeside(PathBuf);

impl CgroupBeside {
    /// Makes it.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn new(world: &World, name: &str) -> anyhow::Result<Self> {
        let path = world.cgroup().with_extension(name);
        fs::create_dir(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self(path))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for CgroupBeside {
    fn drop(&mut self) {
        // A process that is left in it keeps it; the next run has a name of its own.
        let _ = fs::remove_dir(&self.0);
    }
}
