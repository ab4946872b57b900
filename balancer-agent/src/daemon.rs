//! The daemon: sources in, core in the middle, maps out; and everything that must go on meanwhile.

mod answers;
mod drain;
pub mod drained;
mod engine;
mod http2;
mod kubernetes;
mod log_forwarding;
mod memory;
mod pods;
mod signals;
mod startup;
mod supervision;
mod vitals;

use self::{
    engine::Engine, kubernetes::Kubernetes, memory::Memory, signals::Signals, startup::Started,
};
use crate::{
    admin::{self, Answer, ConfigStatus, claim::RuntimeClaim, server::Server},
    config::{Config, DnsSettings},
    core::{
        Core,
        event::{Event, Source},
    },
    datapath::{bpffs::PinRoot, capabilities, http2::Attachment, self_test::SelfTest},
    http,
    sources::{
        dns::{DnsHealth, DnsSource, Wanted},
        file::{FileHandle, FileSource, FileUpdate, Services},
        kubernetes::Update,
    },
};
use anyhow::{Context, bail};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
};

/// Events that wait for the core at most; sources wait beyond that.
const EVENTS_MAX: usize = 1_024;
/// Calls of commands that wait at most.
const CALLS_MAX: usize = 16;
/// How often idle backends that are gone are looked for, and failed writes are tried again.
const SWEEP: Duration = Duration::from_secs(5);
/// How often the hooks are looked after.
const HOOK_CHECK: Duration = Duration::from_secs(30);

/// What the command line decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Where programs and maps are pinned.
    pub pins: PinRoot,
    /// The cgroup whose connections are balanced.
    pub cgroup: PathBuf,
    /// Where the admin socket is.
    pub runtime: PathBuf,
    /// How interfaces of pods lead to the programs that follow HTTP/2.
    pub attachment: Attachment,
}

struct Daemon {
    options: Options,
    started_at: Instant,
    started: Started,
    engine: Engine,
    self_test: SelfTest,
    config_status: ConfigStatus,
    file: FileHandle,
    wanted: watch::Sender<Wanted>,
    dns_health: DnsHealth,
    kubernetes: Kubernetes,
    hooks_repaired: u64,
    pods: pods::Pods,
    drainer: drain::Drainer,
    http2: http2::Http2,
    /// Whether much was allocated and freed since memory was given back.
    memory: Memory,
    reload_replies: Vec<oneshot::Sender<Answer>>,
}

/// Runs until SIGTERM or SIGINT. Programs and maps stay when it ends, however it ends. Commands and
/// scrapes are answered on the runtime `answers`, so that they do not hold changes up.
///
/// # Errors
/// What kept it from starting, with cause and hint. After that nothing stops it.
pub async fn run(options: Options, answers: &Handle) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("listen for signals")?;
    let (source, file) = FileSource::new(&options.config)?;
    let (updates, mut file_updates) = mpsc::channel(1);
    tokio::spawn(source.run(updates));
    let (config, services) = first_config(&mut file_updates).await?;
    let _claim = RuntimeClaim::take(&options.runtime)?;
    capabilities::require()?;
    startup::lift_memlock_limit();
    let (kubernetes, mut cluster_updates) = Kubernetes::start(&config).await?;
    let started = startup::start(&options, &config)?;
    let dns = DnsSource::default();
    let dns_health = dns.health();
    let (wanted, wanted_receiver) = watch::channel(Wanted::default());
    let (events, mut dns_events) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(dns.run(wanted_receiver, events));

    let maps = started.open_maps(&options)?;
    let (asks, mut pending_asks) = mpsc::channel(http::ASKS_MAX);
    http::start(answers, config.http, asks, dns_health.clone(), maps);

    let mut cgroups = pods::watch_cgroups(&options)?;
    let mut daemon = Daemon::new(options, started, &config, file, wanted, dns_health)?;
    let mut pod_objects = kubernetes.pods();
    daemon.know_cluster(kubernetes, &config);
    daemon.cgroups_changed(&mut cgroups);
    daemon.adopt(&config, services);
    daemon.await_first_answers(&mut dns_events, &mut cluster_updates).await;
    daemon.take_over().await?;
    // What the kernel object and the verifier took is not needed any more.
    daemon.memory.sweep();
    let (calls, mut pending_calls) = mpsc::channel(CALLS_MAX);
    // Last: whoever sees the socket finds an agent that is ready.
    let socket = admin::socket_path(&daemon.options.runtime);
    let pins = daemon.options.pins.clone();
    let server = answers.spawn(async move { Server::bind(&socket, pins).await }).await??;
    answers.spawn(server.serve(calls));
    tracing::info!(self_test = daemon.self_test.passed, "ready");

    let mut sweep = tokio::time::interval(SWEEP);
    let mut hook_check = tokio::time::interval(HOOK_CHECK);
    hook_check.reset();
    let mut drain = drain::ticks();
    loop {
        tokio::select! {
            Some(update) = file_updates.recv() => daemon.file_changed(update),
            Some(event) = dns_events.recv() => daemon.observe(event, &mut dns_events),
            Some(update) = cluster_updates.recv() => daemon.cluster_changed(update),
            Some((request, reply)) = pending_calls.recv() => daemon.answer(request, reply),
            Some(ask) = pending_asks.recv() => drop(ask.send(daemon.vitals())),
            Ok(()) = cgroups.changed() => daemon.cgroups_changed(&mut cgroups),
            Ok(()) = pod_objects.changed() => daemon.pod_objects_changed(&mut pod_objects),
            _ = drain.tick() => daemon.drain().await,
            () = tokio::time::sleep_until(daemon.http2_due()) => daemon.follow_http2().await,
            _ = sweep.tick() => daemon.sweep(),
            _ = hook_check.tick() => daemon.check_hooks().await,
            signal = signals.next() => match signal {
                signals::Signal::Reload => {
                    daemon.file.reload();
                    daemon.check_hooks().await;
                }
                signals::Signal::Stop(name) => {
                    tracing::info!(signal = name, "stopping; what is pinned goes on balancing");
                    return Ok(());
                }
            },
        }
    }
}

async fn first_config(
    updates: &mut mpsc::Receiver<FileUpdate>,
) -> anyhow::Result<(Arc<Config>, Services)> {
    match updates.recv().await {
        Some(FileUpdate::Loaded { config, services, .. }) => Ok((config, services)),
        Some(FileUpdate::Rejected(error)) => bail!("{error}"),
        Some(FileUpdate::Unchanged) | None => bail!("the configuration was not read"),
    }
}

impl Daemon {
    fn new(
        options: Options,
        mut started: Started,
        config: &Config,
        file: FileHandle,
        wanted: watch::Sender<Wanted>,
        dns_health: DnsHealth,
    ) -> anyhow::Result<Self> {
        let maps = started.take_maps()?;
        let engine = Engine::new(maps, config)?;
        let pods = pods::Pods::adopt(&engine.maps)?;
        let http2 = http2::Http2::new(config, options.attachment);
        let config_status =
            ConfigStatus { path: options.config.clone(), ..ConfigStatus::default() };
        Ok(Self {
            options,
            started_at: Instant::now(),
            started,
            engine,
            self_test: SelfTest { passed: false, detail: "it has not run yet".into(), hint: None },
            config_status,
            file,
            wanted,
            dns_health,
            kubernetes: Kubernetes::default(),
            hooks_repaired: 0,
            pods,
            drainer: drain::Drainer::new(),
            http2,
            memory: Memory::default(),
            reload_replies: Vec::new(),
        })
    }

    /// What the daemon needs of the source for Kubernetes, and what users have drained on this node.
    fn know_cluster(&mut self, kubernetes: Kubernetes, config: &Config) {
        self.drainer.kubernetes = kubernetes.authority(config.kubernetes.gone_grace);
        self.kubernetes = kubernetes;
        self.engine.core.set_drained(drained::read(&self.options.runtime));
    }

    /// Applies a configuration: its services go to the core, its lookups to the DNS source.
    fn adopt(&mut self, config: &Config, services: Services) {
        let at = Instant::now();
        let source = Source::File;
        match services {
            Services::All(services) => self.engine.observe(Event::Snapshot { source, services }),
            Services::Changes { changed, removed } => {
                for name in removed {
                    self.engine.observe(Event::ServiceRemoved { source, name });
                }
                for service in changed {
                    self.engine.observe(Event::ServiceChanged { source, service });
                }
            }
        }
        self.prepare_http2();
        self.engine.settle(at);
        self.want_lookups(Some(&config.dns));
        self.kubernetes.set_defaults(config.defaults);
        self.memory.is_due = true;
    }

    /// Tells the DNS source which sets services need now.
    fn want_lookups(&self, settings: Option<&DnsSettings>) {
        let core = &self.engine.core;
        self.wanted.send_if_modified(|wanted| {
            let known = |lookup| wanted.lookups.contains(lookup);
            let differs = core.lookups().count() != wanted.lookups.len()
                || !core.lookups().all(known)
                || settings.is_some_and(|settings| *settings != wanted.settings);
            if differs {
                wanted.lookups = core.lookups().cloned().collect();
                if let Some(settings) = settings {
                    wanted.settings = settings.clone();
                }
            }
            differs
        });
    }

    /// What can wait for a quiet moment.
    fn sweep(&mut self) {
        self.engine.sweep();
        self.pods.sweep(&mut self.engine.maps);
        self.memory.sweep();
    }

    /// Maps of another ABI version cannot be read: before they are left behind, DNS and Kubernetes
    /// get a moment to answer, so that no service is unbalanced in between.
    async fn await_first_answers(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        updates: &mut mpsc::Receiver<Update>,
    ) {
        let deadline = tokio::time::Instant::now() + startup::ANSWERS_PATIENCE;
        let waits = |core: &Core| core.awaits_sources() || core.waits();
        while self.started.awaits_answers() && waits(&self.engine.core) {
            tokio::select! {
                Some(event) = events.recv() => self.observe(event, events),
                Some(update) = updates.recv() => self.cluster_changed(update),
                () = tokio::time::sleep_until(deadline) => {
                    tracing::warn!("some services are not known yet; going on without them");
                    return;
                }
            }
        }
    }

    fn file_changed(&mut self, update: FileUpdate) {
        self.config_status.rejections = self.file.rejected();
        let answer = match update {
            FileUpdate::Loaded { config, services, restart_needed } => {
                self.config_status.rejected = None;
                self.config_status.restart_needed =
                    restart_needed.iter().map(|key| (*key).to_owned()).collect();
                if !restart_needed.is_empty() {
                    tracing::warn!(keys = restart_needed.join(", "), "in force after a restart");
                }
                self.adopt(&config, services);
                tracing::info!("configuration applied");
                Answer::Reloaded { changed: true }
            }
            FileUpdate::Unchanged => Answer::Reloaded { changed: false },
            FileUpdate::Rejected(error) => {
                tracing::error!(%error, "configuration refused; the last good one stays in force");
                self.config_status.rejected = Some(error.to_string());
                Answer::Failed { error: error.to_string() }
            }
        };
        for reply in self.reload_replies.drain(..) {
            // Whoever asked may have gone away.
            let _ = reply.send(answer.clone());
        }
    }

    /// Takes in an event and all that wait behind it, then plans once.
    fn observe(&mut self, event: Event, more: &mut mpsc::Receiver<Event>) {
        let at = Instant::now();
        self.engine.observe(event);
        for _ in 0..EVENTS_MAX {
            match more.try_recv() {
                Ok(event) => self.engine.observe(event),
                Err(_) => break,
            }
        }
        self.engine.settle(at);
    }
}
