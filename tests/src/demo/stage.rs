//! The demo's stage: the world, its servers and clients, and the windows in which requests count.

use super::{
    agent::{Agent, AgentFiles, Member},
    screen::{Screen, Style},
    spread::Spread,
    table::{self, Row},
};
use crate::{
    cluster::{
        cgroup_name::{self, Driver, Runtime},
        network::{Network, PodNetwork},
    },
    grpc::{
        load::{LoadPlan, Tally},
        pod::PodCommand,
        process::PodProcess,
        server::EchoServer,
    },
    world::World,
};
use anyhow::Context;
use balancer_agent::cli::bar::is_bar;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// What clients dial.
pub const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), PORT);
const PORT: u16 = 50_051;
/// Calls per second of each client.
const RATE: u32 = 20;
/// Calls at a time of each client.
const STREAMS: u32 = 1;
/// How often a table is drawn anew while requests are counted.
const REDRAW_MS: u64 = 150;

/// Everything that plays. Fields are dropped in their order: clients first, the world last.
pub struct Stage {
    clients: Vec<PodProcess>,
    /// The agent, while it lives.
    pub agent: Option<Agent>,
    /// The backends.
    pub servers: Vec<EchoServer>,
    /// The agent's files and commands.
    pub files: AgentFiles,
    /// What stopped clients have told.
    pub tally: Tally,
    executable: PathBuf,
    /// Streams that each client that is added from now on keeps open.
    pub held: u32,
    pods: u32,
    pod_networks: Vec<PodNetwork>,
    network: Option<Network>,
    /// Namespace, cgroups and pins.
    pub world: World,
}

impl Stage {
    /// A world without servers and clients, and no agent yet.
    ///
    /// # Errors
    /// Names the step that failed.
    pub fn new() -> anyhow::Result<Self> {
        Self::of("demo", &std::env::current_exe().context("find the demo's own binary")?)
    }

    fn of(purpose: &str, executable: &Path) -> anyhow::Result<Self> {
        let world = World::new(purpose)?;
        let files = AgentFiles::new(&world, executable)?;
        Ok(Self {
            clients: Vec::new(),
            agent: None,
            servers: Vec::new(),
            files,
            tally: Tally::default(),
            executable: executable.to_owned(),
            held: 0,
            pods: 0,
            pod_networks: Vec::new(),
            network: None,
            world,
        })
    }

    /// The same where each client is in a network namespace of its own, as in a pod.
    ///
    /// # Errors
    /// Names the step that failed.
    pub fn with_networks() -> anyhow::Result<Self> {
        Self::of_pods("demo", &std::env::current_exe().context("find the demo's own binary")?)
    }

    /// As [`Self::with_networks`], with another purpose and the demo's binary elsewhere.
    ///
    /// # Errors
    /// Names the step that failed.
    pub fn of_pods(purpose: &str, executable: &Path) -> anyhow::Result<Self> {
        let mut stage = Self::of(purpose, executable)?;
        stage.network = Some(Network::new()?);
        Ok(stage)
    }

    /// Starts the next backend, at the next address.
    ///
    /// # Errors
    /// Names the step that failed.
    pub async fn add_server(&mut self) -> anyhow::Result<()> {
        let number = u8::try_from(self.servers.len() + 1).context("number a backend")?;
        let ip = Ipv4Addr::new(10, 1, 0, number);
        self.world.add_address(IpAddr::V4(ip))?;
        let address = SocketAddr::new(ip.into(), PORT);
        self.servers.push(EchoServer::start(&format!("b{number}"), address).await?);
        Ok(())
    }

    /// The backends as the configuration names them; `draining` is one's name.
    pub fn members(&self, draining: Option<&str>) -> Vec<Member> {
        let member = |server: &EchoServer| Member {
            address: server.address(),
            draining: draining == Some(server.name()),
        };
        self.servers.iter().map(member).collect()
    }

    /// Starts clients, a pod each, lets all of them dial at once, and waits for their connections.
    /// The next of `targets` in turn is what each one dials.
    ///
    /// # Errors
    /// When one does not connect.
    pub async fn add_clients(
        &mut self,
        number: u32,
        targets: &[SocketAddr],
    ) -> anyhow::Result<Vec<String>> {
        let waiting = self.start_clients(number, targets).await?;
        self.dial(waiting).await
    }

    /// Starts clients, a pod each, which wait. The next of `targets` in turn is what each one will dial.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start_clients(
        &mut self,
        number: u32,
        targets: &[SocketAddr],
    ) -> anyhow::Result<Vec<PodProcess>> {
        let mut starts = JoinSet::new();
        for target in targets.iter().cycle().take(number as usize) {
            let plan = LoadPlan {
                target: *target,
                connections: 1,
                streams: STREAMS,
                rate: Some(RATE),
                payload_bytes: 32,
                held: self.held,
            };
            let (name, pod, netns) = self.pod()?;
            let command = PodCommand::Client { pod: Some(pod), netns, plan };
            let (executable, log) = (self.executable.clone(), self.log());
            starts
                .spawn(async move { PodProcess::start(&name, &executable, &command, &log).await });
        }
        let mut new = Vec::new();
        while let Some(started) = starts.join_next().await {
            new.push(started.context("join the start of a client")??);
        }
        Ok(new)
    }

    /// Lets waiting clients dial at once, and waits for their connections.
    ///
    /// # Errors
    /// When one does not connect.
    pub async fn dial(&mut self, mut waiting: Vec<PodProcess>) -> anyhow::Result<Vec<String>> {
        for client in &mut waiting {
            client.dial().await?;
        }
        let mut backends = Vec::new();
        for client in &mut waiting {
            backends.extend(client.connected().await?);
        }
        self.clients.append(&mut waiting);
        Ok(backends)
    }

    /// Starts a pod that waits, and then dials until it reaches the backend named `until`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_probe(&mut self, until: &str) -> anyhow::Result<PodProcess> {
        let (name, pod, _) = self.pod()?;
        let command = PodCommand::Probe {
            pod: Some(pod),
            target: VIP.into(),
            until: until.into(),
            dials_max: 1_000_000,
        };
        PodProcess::start(&name, &self.executable, &command, &self.log()).await
    }

    /// Ends one client in order, and adds up what it tells.
    ///
    /// # Errors
    /// When it does not end by itself.
    pub async fn stop_client(&mut self) -> anyhow::Result<()> {
        let client = self.clients.pop().context("there is no client")?;
        self.tally.add(client.stop().await?);
        Ok(())
    }

    /// Ends all clients in order, and adds up what they tell.
    ///
    /// # Errors
    /// When one does not end by itself.
    pub async fn stop_clients(&mut self) -> anyhow::Result<()> {
        let mut stops = JoinSet::new();
        for client in self.clients.drain(..) {
            stops.spawn(client.stop());
        }
        while let Some(stopped) = stops.join_next().await {
            self.tally.add(stopped.context("join the end of a client")??);
        }
        Ok(())
    }

    /// Live connections, as the servers see them: the name of the server and the client's address.
    pub fn connections(&self) -> BTreeSet<(String, SocketAddr)> {
        let of = |server: &EchoServer| {
            let name = server.name().to_owned();
            server.live().into_keys().map(move |peer| (name.clone(), peer))
        };
        self.servers.iter().flat_map(of).collect()
    }

    /// Live connections to one backend.
    pub fn connections_to(&self, name: &str) -> u64 {
        self.servers
            .iter()
            .filter(|server| server.name() == name)
            .map(|server| server.live().len() as u64)
            .sum()
    }

    /// Counts requests for a while, drawing the table meanwhile, and returns what it shows last.
    pub async fn watch(
        &self,
        screen: &mut Screen,
        seconds: f64,
        remark: (&str, &'static str),
    ) -> Vec<Row> {
        let before: Vec<u64> = self.servers.iter().map(EchoServer::requests).collect();
        let window = Duration::from_secs_f64(seconds);
        let started = Instant::now();
        let mut redraw = tokio::time::interval(Duration::from_millis(REDRAW_MS));
        let end = tokio::time::sleep(window);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => break,
                _ = redraw.tick() => {}
            }
            let mut lines = painted(screen, table::lines(&self.rows(&before, remark)));
            let elapsed = started.elapsed().min(window);
            let bar = table::bar(elapsed.as_secs_f64() / seconds);
            let bar = format!("  load {:.1} s {bar}", elapsed.as_secs_f64());
            lines.push(screen.paint(Style::Dim, &bar));
            screen.live(&lines);
        }
        let rows = self.rows(&before, remark);
        let mut lines = painted(screen, table::lines(&rows));
        let spread = Spread::of(rows.iter().map(|row| row.requests));
        lines.push(screen.paint(Style::Dim, &format!("  {}", table::summary(&spread))));
        screen.print(&lines);
        rows
    }

    fn rows(&self, before: &[u64], remark: (&str, &'static str)) -> Vec<Row> {
        let row = |(server, before): (&EchoServer, &u64)| Row {
            name: server.name().to_owned(),
            address: server.address().to_string(),
            connections: server.live().len() as u64,
            requests: server.requests().saturating_sub(*before),
            remark: if server.name() == remark.0 { remark.1 } else { "" },
        };
        self.servers.iter().zip(before).map(row).collect()
    }

    /// A cgroup for the next client, and its network if it is to have one of its own.
    fn pod(&mut self) -> anyhow::Result<(String, PathBuf, Option<PathBuf>)> {
        self.pods += 1;
        let name = format!("client-{}", self.pods);
        let Some(network) = &self.network else {
            let pod = self.world.pod(&name)?;
            return Ok((name, pod, None));
        };
        // As a kubelet calls it, so that the agent sees a pod.
        let (driver, runtime) = (Driver::default(), Runtime::default());
        let path = cgroup_name::path(driver, runtime, "BestEffort", &uid(self.pods), &name);
        let pod = self.world.cgroup().join(path);
        std::fs::create_dir_all(&pod).with_context(|| format!("create {}", pod.display()))?;
        let connected = network.connect()?;
        let netns = connected.path();
        self.pod_networks.push(connected);
        Ok((name, pod, Some(netns)))
    }

    fn log(&self) -> PathBuf {
        self.world.runtime().join("clients.log")
    }

    /// What the agent and the clients had to say, for when something went wrong.
    pub fn logs(&self) -> Vec<String> {
        let mut lines = self.files.log_tail();
        lines.extend(tail(&self.log()));
        lines
    }
}

/// The uid of a pod that no API server knows.
fn uid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn tail(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().rev().take(4).map(str::to_owned).collect()
}

/// A table with its header dim and its bars coloured, below an empty line.
pub(super) fn painted(screen: &Screen, mut lines: Vec<String>) -> Vec<String> {
    lines.insert(0, String::new());
    for (number, line) in lines.iter_mut().enumerate().skip(1) {
        if number == 1 {
            *line = screen.paint(Style::Dim, line);
        } else if let Some(start) = line.find(is_bar) {
            let bar = line.split_off(start);
            line.push_str(&screen.paint(Style::Cyan, &bar));
        }
    }
    lines
}
