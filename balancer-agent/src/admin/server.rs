//! The agent's end of the admin socket.

use super::{Answer, Request};
use crate::datapath::{bpffs::PinRoot, trace::Tracer};
use futures_util::{SinkExt, StreamExt};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Mutex, Semaphore, mpsc, oneshot},
};
use tokio_util::codec::{Framed, LinesCodec};

/// Most clients at once; more wait.
const CLIENTS_MAX: usize = 16;
/// Longest request line in bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A request that the agent's main loop answers.
pub type Call = (Request, oneshot::Sender<Answer>);

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another agent answers there.
    #[error(
        "another agent listens on `{}`; hint: stop it first, or give this one a directory of its \
         own with --runtime-dir",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The socket or its directory cannot be made.
    #[error("open the admin socket `{}`: {cause}; hint: choose a writable --runtime-dir", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
}

/// A bound socket; removed when the agent ends in an orderly way.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    pins: PinRoot,
}

impl Server {
    /// Binds the socket, for root only. One that a killed agent left behind is replaced.
    ///
    /// # Errors
    /// [`ServerError`] names the socket and the fix.
    pub async fn bind(path: &Path, pins: PinRoot) -> Result<Self, ServerError> {
        let io_error = |cause| ServerError::Io { path: path.into(), cause };
        if UnixStream::connect(path).await.is_ok() {
            return Err(ServerError::InUse { path: path.into() });
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(io_error)?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
            _ => {}
        }
        // Bound under another name first: whoever sees the socket may use it at once.
        let draft = path.with_extension("draft");
        let _ = fs::remove_file(&draft);
        let listener = UnixListener::bind(&draft).map_err(io_error)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).map_err(io_error)?;
        fs::rename(&draft, path).map_err(io_error)?;
        Ok(Self { listener, path: path.into(), pins })
    }

    /// Answers clients until the main loop goes away.
    pub async fn serve(self, calls: mpsc::Sender<Call>) {
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        let tracing_turn = Arc::new(Mutex::new(()));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "accept on the admin socket");
                        continue;
                    }
                },
                () = calls.closed() => return,
            };
            let client = Client {
                calls: calls.clone(),
                pins: self.pins.clone(),
                tracing_turn: Arc::clone(&tracing_turn),
            };
            tokio::spawn(async move {
                if let Err(error) = client.answer(stream).await {
                    tracing::debug!(%error, "an admin client went away");
                }
                drop(place);
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

type Lines = Framed<UnixStream, LinesCodec>;

struct Client {
    calls: mpsc::Sender<Call>,
    pins: PinRoot,
    tracing_turn: Arc<Mutex<()>>,
}

impl Client {
    async fn answer(self, stream: UnixStream) -> anyhow::Result<()> {
        let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(LINE_BYTES_MAX));
        let Some(line) = lines.next().await else {
            return Ok(());
        };
        let request = match serde_json::from_str(&line?) {
            Ok(request) => request,
            Err(error) => {
                let error = format!("not a request: {error}; hint: use the agent's own commands");
                return send(&mut lines, &Answer::Failed { error }).await;
            }
        };
        if request == Request::Trace {
            return self.trace(&mut lines).await;
        }
        let (reply, answer) = oneshot::channel();
        self.calls.send((request, reply)).await?;
        send(&mut lines, &answer.await?).await
    }

    async fn trace(&self, lines: &mut Lines) -> anyhow::Result<()> {
        let Ok(_turn) = self.tracing_turn.try_lock() else {
            let error = "another `trace` is running; hint: end it first, there can be one".into();
            return send(lines, &Answer::Failed { error }).await;
        };
        let mut tracer = match Tracer::start(&self.pins) {
            Ok(tracer) => tracer,
            Err(error) => {
                return send(lines, &Answer::Failed { error: error.to_string() }).await;
            }
        };
        loop {
            tokio::select! {
                event = tracer.next() => {
                    let event = bytemuck::bytes_of(&event?).to_vec();
                    send(lines, &Answer::Trace { event }).await?;
                }
                // Whatever the client says now, or its end, ends the trace.
                _ = lines.next() => return Ok(()),
            }
        }
    }
}

async fn send(lines: &mut Lines, answer: &Answer) -> anyhow::Result<()> {
    Ok(lines.send(serde_json::to_string(answer)?).await?)
}
