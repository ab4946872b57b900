//! A cgroup beside that of a world, for what the kernel charges where none of the product's programs run.

use crate::world::World;
use anyhow::Context;
use std::{
    fs,
    path::{Path, PathBuf},
};

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
