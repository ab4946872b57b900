//! `run`: the daemon in the foreground.

use super::{
    arguments::{Global, LogFormat, Run},
    exit::Exit,
};
use crate::{
    daemon::{self, Options},
    datapath::http2::Attachment,
};
use anyhow::Context;
use std::{
    io::{self, IsTerminal},
    time::Duration,
};
use tracing_subscriber::EnvFilter;

/// Threads of each runtime for what blocks: files, scrapes and sockets of pods.
const BLOCKING_THREADS_MAX: usize = 4;
/// What of kube's own is logged, unless the filter names it: both tell of every try, and of every error
/// that they give to the agent as well.
const KUBE_FILTERS: [(&str, &str); 2] =
    [("kube_runtime", "kube_runtime=error"), ("kube_client", "kube_client=off")];
/// How long a scrape that reads the maps is waited for at the end.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(1);

pub(super) fn run(global: &Global, run: &Run) -> anyhow::Result<Exit> {
    start_log(run)?;
    let options = Options {
        config: run.config.clone(),
        pins: global.pins(),
        cgroup: global.cgroup()?,
        runtime: global.runtime_dir.clone(),
        attachment: if run.clsact { Attachment::Filter } else { Attachment::Best },
    };
    // One thread hears, decides and writes: handing changes from thread to thread costs more than
    // most changes do. Another one answers commands and scrapes meanwhile.
    let answers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .context("start the async runtime of the answers")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let result = runtime.block_on(daemon::run(options, answers.handle()));
    answers.shutdown_timeout(SHUTDOWN_PATIENCE);
    result?;
    Ok(Exit::Ok)
}

fn start_log(run: &Run) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&run.log_filter).with_context(|| {
        format!("--log-filter `{}`; hint: use a level such as `info` or `debug`", run.log_filter)
    })?;
    // The agent tells of each trouble of a watch once.
    let quiet = KUBE_FILTERS.iter().filter(|(named, _)| !run.log_filter.contains(named));
    let directives = quiet.filter_map(|(_, directive)| directive.parse().ok());
    let filter = directives.fold(filter, EnvFilter::add_directive);
    let log = tracing_subscriber::fmt()
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match run.log_format {
        LogFormat::Text => log.with_target(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    }
    .map_err(|error| anyhow::anyhow!("start the log: {error}"))
}
