//! What the acts on Kubernetes need: the Deployment, its Services, clients that count, the agent.

use super::NODE;
use crate::{
    cluster::{
        Cluster,
        caller::{CallPlan, Caller, Style as Dialling},
        objects::{self, ECHO_PORT, NAMESPACE},
    },
    demo::{
        agent::{Agent, AgentFiles},
        screen::{Screen, Style},
        spread::Spread,
        stage::painted,
        table::{self, PodRow},
    },
    grpc::load::Tally,
    manifests::{self, Mode},
};
use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

/// The Deployment, and the Service with an address of its own.
pub(super) const SHOP: &str = "shop";
/// The headless Service.
pub(super) const HEADLESS: &str = "shop-headless";
/// The policy that both ask for: the one for clients whose connections last for one call.
pub(super) const POLICY: &str = "round-robin";
/// Where `deploy/` says what the agent's account may do.
const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/base");
/// How long a server may take to end.
const GRACE_S: u32 = 30;
/// How often clients are listened to, and a table is drawn anew.
const LISTEN_MS: u64 = 100;
/// Longest wait for clients to get where an act wants them.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that plays. The agent ends before the cluster does.
pub(super) struct Stage<'c> {
    cluster: &'c Cluster,
    callers: Vec<(Dialling, Caller)>,
    /// What clients with a connection for each call were answered, by pod.
    replies: BTreeMap<String, u64>,
    agent: Option<Agent>,
    files: AgentFiles,
}

// === impl Stage ===

impl<'c> Stage<'c> {
    /// An empty one.
    pub(super) fn new(cluster: &'c Cluster) -> anyhow::Result<Self> {
        let executable = std::env::current_exe().context("find the demo's own binary")?;
        let files = AgentFiles::new(cluster.world(), &executable)?;
        Ok(Self { cluster, callers: Vec::new(), replies: BTreeMap::new(), agent: None, files })
    }

    /// A Deployment, a Service with an address and a headless one, and pods for clients.
    pub(super) async fn deploy(&self, pods: u32, clients: u32) -> anyhow::Result<()> {
        let client = self.cluster.client();
        objects::deploy_echo(&client, SHOP, pods, GRACE_S).await?;
        // Its port is called `grpc`: that is enough to be balanced.
        let annotations = json!({"balancer.dev/policy": POLICY});
        let addressed = json!({"metadata": {"annotations": annotations}});
        objects::expose(&client, SHOP, addressed).await?;
        let annotations = json!({"balancer.dev/policy": POLICY, "balancer.dev/balance": "true"});
        let headless = json!({
            "metadata": {"annotations": annotations},
            "spec": {"clusterIP": "None", "selector": {"app": SHOP}},
        });
        objects::expose(&client, HEADLESS, headless).await?;
        for number in 1..=clients {
            objects::run_idle(&client, &client_pod(number), NODE).await?;
        }
        Ok(())
    }

    /// The addresses of the headless name, once there are so many.
    pub(super) async fn resolve(&self, pods: u32) -> anyhow::Result<Vec<SocketAddr>> {
        let client = self.cluster.client();
        let ips = objects::until_ready(&client, HEADLESS, pods as usize).await?;
        Ok(ips.into_iter().map(|ip| SocketAddr::from((ip, ECHO_PORT))).collect())
    }

    /// What clients of the other Service dial.
    pub(super) async fn cluster_ip(&self) -> anyhow::Result<SocketAddr> {
        let ip = objects::cluster_ip(&self.cluster.client(), SHOP).await?;
        Ok(SocketAddr::from((ip, ECHO_PORT)))
    }

    /// The names of the pods.
    pub(super) async fn pods(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(objects::pods(&self.cluster.client(), SHOP).await?.into_iter().collect())
    }

    /// Sets how many pods there are.
    pub(super) async fn scale(&self, pods: u32) -> anyhow::Result<()> {
        objects::scale(&self.cluster.client(), SHOP, pods).await
    }

    /// Replaces every pod, one after the other, and waits for the last one's end.
    pub(super) async fn roll(&self, revision: &str) -> anyhow::Result<()> {
        let client = self.cluster.client();
        let old = self.pods().await?;
        objects::roll(&client, SHOP, revision).await?;
        let label = format!("app={SHOP}");
        let replaced = objects::until::<Pod>(&client, &label, |pods| {
            pods.len() == old.len() && !pods.keys().any(|name| old.contains(name))
        });
        replaced.await.context("replace the pods")?;
        self.resolve(u32::try_from(old.len())?).await.map(drop)
    }

    /// Starts the agent of the node, as the account that the manifests give it.
    #[expect(clippy::await_holding_refcell_ref, reason = "nobody replaces the API server here")]
    pub(super) async fn start_agent(&mut self) -> anyhow::Result<()> {
        let client = self.cluster.client();
        for object in manifests::render(Path::new(BASE))? {
            let kind = object["kind"].as_str().unwrap_or_default();
            if kind == "Namespace" || kind == "ServiceAccount" || kind.starts_with("Cluster") {
                manifests::apply(&client, &object, Mode::Real).await?;
            }
        }
        let account = ("balancer-system", "balancer-agent");
        let control_plane = self.cluster.control_plane();
        let kubeconfig = control_plane.account_kubeconfig(account.0, account.1).await?;
        self.files.configure_kubernetes(NODE, &kubeconfig)?;
        self.agent = Some(self.files.start().await?);
        Ok(())
    }

    /// Whether the agent calls itself healthy, and all that it says.
    pub(super) async fn status(&self) -> anyhow::Result<(bool, String)> {
        self.files.ask(&["status", "--output", "json"]).await
    }

    /// Starts a client in each of so many pods; `targets` is what its name had, once and for all.
    pub(super) fn call(
        &mut self,
        clients: u32,
        dialling: Dialling,
        targets: &[SocketAddr],
    ) -> anyhow::Result<()> {
        for number in 1..=clients {
            let place = self.cluster.kubelet().place(NAMESPACE, &client_pod(number))?;
            let plan = CallPlan { targets: targets.to_vec(), style: dialling, pause_ms: 10 };
            self.callers.push((dialling, Caller::start(&place, &plan)?));
        }
        Ok(())
    }

    /// Waits until each client has made so many more calls, whatever came of them.
    pub(super) async fn go_on(&mut self, calls: usize) -> anyhow::Result<()> {
        let mut made = vec![0; self.callers.len()];
        self.listen_until(|_, heard| {
            made.iter_mut().zip(heard).for_each(|(made, heard)| *made += heard);
            made.iter().all(|made| *made >= calls)
        })
        .await
        .context("the clients do not get on")
    }

    /// Waits until each of these pods has replied to somebody; tells how long that took.
    pub(super) async fn until_reached(
        &mut self,
        pods: &BTreeSet<String>,
    ) -> anyhow::Result<Duration> {
        let started = Instant::now();
        self.listen_until(|replies, _| pods.iter().all(|pod| replies.contains_key(pod)))
            .await
            .with_context(|| format!("not all of {pods:?} are reached"))?;
        Ok(started.elapsed())
    }

    /// Shows for some seconds how the requests of clients with a connection for each call are
    /// spread over the pods, and returns the rows.
    pub(super) async fn watch(
        &mut self,
        screen: &mut Screen,
        seconds: f64,
        new: &BTreeSet<String>,
    ) -> anyhow::Result<Vec<PodRow>> {
        let pods = self.pods().await?;
        self.listen()?;
        let before = self.replies.clone();
        let (started, window) = (Instant::now(), Duration::from_secs_f64(seconds));
        let mut redraw = tokio::time::interval(Duration::from_millis(LISTEN_MS));
        while started.elapsed() < window {
            redraw.tick().await;
            self.listen()?;
            let mut lines =
                painted(screen, table::pod_lines(&rows(&pods, &self.replies, &before, new)));
            let elapsed = started.elapsed().min(window).as_secs_f64();
            let bar = format!("  load {elapsed:.1} s {}", table::bar(elapsed / seconds));
            lines.push(screen.paint(Style::Dim, &bar));
            screen.live(&lines);
        }
        let rows = rows(&pods, &self.replies, &before, new);
        let mut lines = painted(screen, table::pod_lines(&rows));
        let spread = Spread::of(rows.iter().map(|row| row.requests));
        lines.push(screen.paint(Style::Dim, &format!("  {}", table::summary(&spread))));
        screen.print(&lines);
        Ok(rows)
    }

    /// Ends all clients, and adds up what they tell. Replies are counted from nothing again.
    pub(super) async fn stop_callers(&mut self) -> anyhow::Result<Tally> {
        let stops = std::mem::take(&mut self.callers)
            .into_iter()
            .map(|(_, caller)| tokio::task::spawn_blocking(|| caller.stop()));
        let mut tally = Tally::default();
        for stopped in futures_util::future::join_all(stops).await {
            tally.add(stopped.context("join the end of a client")??);
        }
        self.replies.clear();
        ensure!(tally.replied() + tally.failed() > 0, "the clients made no call");
        Ok(tally)
    }

    /// What the agent had to say, for when something went wrong.
    pub(super) fn log(&self) -> Vec<String> {
        self.files.log_tail()
    }

    /// Takes in what clients did, and tells how many calls each of them made.
    fn listen(&mut self) -> anyhow::Result<Vec<usize>> {
        let mut made = Vec::with_capacity(self.callers.len());
        for (dialling, caller) in &self.callers {
            let calls = caller.calls()?;
            made.push(calls.len());
            for server in calls.into_iter().flatten().filter(|_| *dialling == Dialling::Each) {
                *self.replies.entry(server).or_default() += 1;
            }
        }
        Ok(made)
    }

    async fn listen_until(
        &mut self,
        mut wanted: impl FnMut(&BTreeMap<String, u64>, &[usize]) -> bool,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(LISTEN_MS / 10));
        loop {
            ticks.tick().await;
            let heard = self.listen()?;
            if wanted(&self.replies, &heard) {
                return Ok(());
            }
            ensure!(started.elapsed() < PATIENCE, "after {} s: {:?}", PATIENCE.as_secs(), heard);
        }
    }
}

fn client_pod(number: u32) -> String {
    format!("client-{number}")
}

fn rows(
    pods: &BTreeSet<String>,
    replies: &BTreeMap<String, u64>,
    before: &BTreeMap<String, u64>,
    new: &BTreeSet<String>,
) -> Vec<PodRow> {
    let count =
        |counts: &BTreeMap<String, u64>, pod: &String| counts.get(pod).copied().unwrap_or(0);
    let row = |pod: &String| PodRow {
        name: pod.clone(),
        requests: count(replies, pod).saturating_sub(count(before, pod)),
        remark: if new.contains(pod) { "new" } else { "" },
    };
    pods.iter().map(row).collect()
}
