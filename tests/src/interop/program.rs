//! The programs of the three implementations: started alike, and the process that tonic's one is.

use super::{
    client::{BytesClient, BytesPlan},
    server,
};
use crate::grpc::{
    load::Tally,
    pod::{Input, Report, enter, input, report},
};
use anyhow::{Context, bail};
use std::{
    env,
    ffi::OsString,
    fmt::{self, Display, Formatter},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::watch;

/// Names the directory that `cargo xtask test` fills with grpcio and the program in Go.
pub const DIRECTORY: &str = "BALANCER_INTEROP";

/// An implementation of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Implementation {
    /// tonic on hyper.
    Tonic,
    /// grpcio, the Python library on gRPC's C-core.
    Grpcio,
    /// grpc-go.
    Go,
}

impl Implementation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tonic, Self::Grpcio, Self::Go];
}

impl Display for Implementation {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tonic => "tonic",
            Self::Grpcio => "grpcio",
            Self::Go => "grpc-go",
        })
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    tonic: PathBuf,
    directory: PathBuf,
}

impl Programs {
    /// Finds them; `tonic` is this package's own `balancer-interop`.
    ///
    /// # Errors
    /// Says what is missing, and how to make it.
    pub fn find(tonic: &Path) -> anyhow::Result<Self> {
        let directory = directory()?;
        // Written when everything else is there.
        if !directory.join("STAMP").is_file() {
            bail!(
                "no grpcio and grpc-go in {}; hint: cargo xtask test installs them (needs Python and Go)",
                directory.display()
            );
        }
        Ok(Self { tonic: tonic.to_owned(), directory })
    }

    /// The words that start an implementation's program.
    pub fn words(&self, implementation: Implementation) -> Vec<OsString> {
        match implementation {
            Implementation::Tonic => vec![self.tonic.clone().into()],
            Implementation::Go => vec![self.directory.join("interop-go").into()],
            Implementation::Grpcio => self.script("interop.py"),
        }
    }

    /// The words that start a script of `tests/interop/`.
    pub fn script(&self, name: &str) -> Vec<OsString> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(name);
        vec![self.directory.join("python/bin/python").into(), script.into()]
    }
}

fn directory() -> anyhow::Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = set(DIRECTORY) {
        return Ok(directory);
    }
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")));
    let cache = cache.with_context(|| format!("find the home directory; hint: set {DIRECTORY}"))?;
    Ok(cache.join("balancer").join("interop"))
}

/// What a process is told to be.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum InteropCommand {
    /// Serve until standard input closes.
    Server {
        /// The address.
        #[arg(long)]
        listen: SocketAddr,
        /// Milliseconds after which connections get a GOAWAY; 0 is never.
        #[arg(long, default_value_t = 0)]
        age_ms: u64,
        /// Milliseconds after which one GOAWAY frame stands behind the server's bytes; 0 is never.
        #[arg(long, default_value_t = 0)]
        frame_ms: u64,
    },
    /// Dial, and make calls until standard input closes.
    Client {
        /// The cgroup to enter.
        #[arg(long)]
        pod: Option<PathBuf>,
        /// What to do in it.
        #[command(flatten)]
        plan: BytesPlan,
    },
}

/// Runs tonic's program to its end.
///
/// # Errors
/// When standard output is gone or the runtime cannot be made; everything else is reported.
pub fn run(command: &InteropCommand) -> anyhow::Result<()> {
    if let InteropCommand::Client { pod: Some(pod), .. } = command {
        enter(pod)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let last = runtime.block_on(async {
        let done = match command {
            InteropCommand::Server { listen, age_ms, frame_ms } => {
                serve(*listen, *age_ms, *frame_ms).await
            }
            InteropCommand::Client { plan, .. } => call(plan).await,
        };
        done.unwrap_or_else(|error| Report::Failed { error: format!("{error:#}") })
    });
    report(&last)
}

async fn serve(listen: SocketAddr, age_ms: u64, frame_ms: u64) -> anyhow::Result<Report> {
    let age = |ms| (ms > 0).then(|| Duration::from_millis(ms));
    let mut input = input();
    let server = server::serve(listen, age(age_ms), age(frame_ms)).await?;
    report(&Report::Ready)?;
    // A sender that is gone has said End before.
    let _ = input.wait_for(|input| *input == Input::End).await;
    server.abort();
    Ok(Report::Done { tally: Tally::default() })
}

async fn call(plan: &BytesPlan) -> anyhow::Result<Report> {
    let mut input = input();
    report(&Report::Ready)?;
    if input.wait_for(|input| *input != Input::Wait).await.is_err() {
        return Ok(Report::Done { tally: Tally::default() });
    }
    let client = BytesClient::connect(plan).await?;
    report(&Report::Connected { backends: Vec::new() })?;
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { client.run(&stopped).await });
    let _ = input.wait_for(|input| *input == Input::End).await;
    stop.send_replace(true);
    let tally = running.await.context("join the calls")??;
    Ok(Report::Done { tally })
}
