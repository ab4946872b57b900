//! `run`: the daemon in the foreground.

use super::{
    arguments::{Global, LogFormat, Run},
    exit::Exit,
};
use crate::daemon::{self, Options};
use anyhow::Context;
use std::io::{self, IsTerminal};
use tracing_subscriber::EnvFilter;

pub(super) fn run(global: &Global, run: &Run) -> anyhow::Result<Exit> {
    start_log(run)?;
    let options = Options {
        config: run.config.clone(),
        pins: global.pins(),
        cgroup: global.cgroup()?,
        runtime: global.runtime_dir.clone(),
    };
    // One thread decides and writes; a second one is enough for files, DNS and commands.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(daemon::run(options))?;
    Ok(Exit::Ok)
}

fn start_log(run: &Run) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&run.log_filter).with_context(|| {
        format!("--log-filter `{}`; hint: use a level such as `info` or `debug`", run.log_filter)
    })?;
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
