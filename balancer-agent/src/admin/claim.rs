//! One agent for each runtime directory: claimed before anything is touched, so that an agent that
//! cannot have its admin socket has not attached anything yet.

use super::server::ServerError;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use std::{
    fs::{self, File},
    path::Path,
};

/// The file in the runtime directory that is locked. It stays: to remove it would let a third agent
/// lock another file of that name.
const LOCK: &str = "agent.lock";

/// Held while an agent uses a runtime directory; the kernel lets go of it when the agent dies.
#[derive(Debug)]
pub struct RuntimeClaim(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl RuntimeClaim {
    /// Takes the directory for this process, and makes it where it is missing.
    ///
    /// # Errors
    /// [`ServerError::InUse`] while another agent has it.
    pub fn take(runtime: &Path) -> Result<Self, ServerError> {
        let path = runtime.join(LOCK);
        let io_error = |cause| ServerError::Io { path: path.clone(), cause };
        fs::create_dir_all(runtime).map_err(io_error)?;
        let file = File::create(&path).map_err(io_error)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self(lock)),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(ServerError::InUse { path: super::socket_path(runtime) })
            }
            Err((_, errno)) => Err(io_error(errno.into())),
        }
    }
}
