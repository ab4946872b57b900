//! How a command ends.

use std::{io, process::ExitCode};

/// The exit codes of every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, and all is well.
    Ok = 0,
    /// Done, and something is not well.
    Unhealthy = 1,
    /// Could not be done.
    Failure = 2,
    /// The arguments make no sense (`EX_USAGE` of sysexits.h).
    Usage = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Writes an error to standard error and says how to exit. A reader that has gone away
/// (`balancer-agent services | head`) is no failure.
pub fn report(error: &anyhow::Error) -> Exit {
    let broken_pipe = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return Exit::Ok;
    }
    eprintln!("error: {}", format!("{error:#}").replace("; hint: ", "\nhint: "));
    Exit::Failure
}
