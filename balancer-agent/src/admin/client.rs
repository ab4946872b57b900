//! The commands' end of the admin socket.

use super::{Answer, Request};
use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest wait for the first line of an answer.
const ANSWER_S_MAX: u64 = 10;

/// Why the agent does not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No agent runs there.
    #[error("no agent answers on `{}`: {cause}; hint: is `balancer-agent run` up, with this --runtime-dir?", path.display())]
    Down {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The agent was reached, but the exchange failed.
    #[error("talk to the agent on `{}`: {cause}", path.display())]
    Exchange {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        cause: io::Error,
    },
    /// The agent said no.
    #[error("{0}")]
    Refused(String),
}

/// A connection with one request on its way.
pub struct Exchange {
    lines: io::Lines<BufReader<UnixStream>>,
    /// The same socket, for its options.
    stream: UnixStream,
    path: PathBuf,
}

impl Exchange {
    /// Sends a request.
    ///
    /// # Errors
    /// [`ClientError::Down`] when no agent runs.
    pub fn start(path: &Path, request: &Request) -> Result<Self, ClientError> {
        let mut stream = UnixStream::connect(path)
            .map_err(|cause| ClientError::Down { path: path.into(), cause })?;
        let exchange_error = |cause| ClientError::Exchange { path: path.into(), cause };
        if *request != Request::Trace {
            let patience = Some(Duration::from_secs(ANSWER_S_MAX));
            stream.set_read_timeout(patience).map_err(exchange_error)?;
        }
        let line = serde_json::to_string(request).map_err(|error| exchange_error(error.into()))?;
        writeln!(stream, "{line}").map_err(exchange_error)?;
        let reader = stream.try_clone().map_err(exchange_error)?;
        Ok(Self { lines: BufReader::new(reader).lines(), stream, path: path.into() })
    }

    /// As [`Self::receive`], but waits no longer than `patience`; `None` when that is over, too.
    /// Nothing can be read after that.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_within(&mut self, patience: Duration) -> Result<Option<Answer>, ClientError> {
        // A time-out of zero would mean none.
        let patience = patience.max(Duration::from_millis(1));
        if let Err(cause) = self.stream.set_read_timeout(Some(patience)) {
            let path = self.path.clone();
            return Err(ClientError::Exchange { path, cause });
        }
        match self.receive() {
            Err(ClientError::Exchange { cause, .. })
                if cause.kind() == io::ErrorKind::WouldBlock =>
            {
                Ok(None)
            }
            answer => answer,
        }
    }

    /// The next line of the answer; `None` at its end.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the agent says why it can't.
    pub fn receive(&mut self) -> Result<Option<Answer>, ClientError> {
        let exchange_error = |cause| ClientError::Exchange { path: self.path.clone(), cause };
        let Some(line) = self.lines.next() else {
            return Ok(None);
        };
        let line = line.map_err(exchange_error)?;
        match serde_json::from_str(&line).map_err(|error| exchange_error(error.into()))? {
            Answer::Failed { error } => Err(ClientError::Refused(error)),
            answer => Ok(Some(answer)),
        }
    }
}

/// One request with one line as its answer.
///
/// # Errors
/// As [`Exchange::start`] and [`Exchange::receive`].
pub fn ask(path: &Path, request: &Request) -> Result<Answer, ClientError> {
    Exchange::start(path, request)?.receive()?.ok_or_else(|| ClientError::Exchange {
        path: path.into(),
        cause: io::ErrorKind::UnexpectedEof.into(),
    })
}
