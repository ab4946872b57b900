//! The kubelets of all nodes, and the scheduler, played: they make of each Pod object a network
//! namespace, a cgroup and a server, tell its status, and end it with its grace period.

mod container;
mod life;
mod status;

use self::life::{Life, Wanted};
use super::{
    briefly::Briefly,
    network::Network,
    node::Node,
    sandbox::{Plan, Sandbox},
    workload::Inside,
};
use anyhow::Context;
use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{Binding, Pod, PodSpec};
use kube::{
    Api, Client, ResourceExt,
    api::PostParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// The annotation by which a test says that a pod's readiness probe fails: `false`.
pub const READY: &str = "balancer.test/ready";

/// Longest wait until nothing is left of a pod whose object is gone.
const GONE_S_MAX: u64 = 30;

/// Where a running pod is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its network namespace and its container's cgroup.
    pub inside: Inside,
}

/// All running pods, by namespace and name.
#[derive(Clone, Default)]
pub struct Places(Arc<watch::Sender<BTreeMap<(String, String), Place>>>);

/// The running kubelets. Everything in their pods ends when this is dropped.
pub struct Kubelet {
    places: Places,
    task: JoinHandle<()>,
}

struct Loop {
    client: Client,
    nodes: Vec<Node>,
    network: Arc<Network>,
    cgroups: PathBuf,
    places: Places,
    /// What is wanted of each pod that lives, by uid.
    wanted: BTreeMap<String, watch::Sender<Wanted>>,
    lives: JoinSet<(String, anyhow::Result<()>)>,
    bound: usize,
}

// === impl Places ===

impl Places {
    fn put(&self, plan: &Plan, sandbox: &Sandbox) {
        let place = Place { addresses: sandbox.addresses(), inside: sandbox.inside() };
        let key = (plan.namespace.clone(), plan.name.clone());
        self.0.send_modify(|places| drop(places.insert(key, place)));
    }

    fn remove(&self, plan: &Plan) {
        let key = (plan.namespace.clone(), plan.name.clone());
        self.0.send_modify(|places| drop(places.remove(&key)));
    }
}

// === impl Kubelet ===

impl Kubelet {
    /// Starts them on the current runtime, whose threads must be in the world's namespace. The
    /// cgroups of pods go below `cgroups`.
    pub fn start(client: Client, nodes: Vec<Node>, network: Network, cgroups: PathBuf) -> Self {
        let places = Places::default();
        let kubelets = Loop {
            client,
            nodes,
            network: Arc::new(network),
            cgroups,
            places: places.clone(),
            wanted: BTreeMap::new(),
            lives: JoinSet::new(),
            bound: 0,
        };
        Self { places, task: tokio::spawn(kubelets.run()) }
    }

    /// Where a pod runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn place(&self, namespace: &str, name: &str) -> anyhow::Result<Place> {
        let places = self.places.0.borrow();
        let place = places.get(&(namespace.to_owned(), name.to_owned()));
        place.cloned().with_context(|| format!("no pod {namespace}/{name} runs"))
    }

    /// Waits until nothing is left of a pod: its object may be gone before.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn until_gone(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut places = self.places.0.subscribe();
        let gone = places.wait_for(|places| !places.contains_key(&key));
        let waited = timeout(Duration::from_secs(GONE_S_MAX), gone).await;
        waited.with_context(|| format!("pod {namespace}/{name} goes on"))?.map(drop)?;
        Ok(())
    }

    /// Ends everything in the pods, without a word to the API server.
    pub async fn stop(mut self) {
        self.task.abort();
        // Aborted, or a panic that was printed.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Loop ===

impl Loop {
    async fn run(mut self) {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let events = watcher::watcher(pods, watcher::Config::default()).backoff(Briefly);
        let mut events = std::pin::pin!(events);
        let mut listed = BTreeSet::new();
        loop {
            tokio::select! {
                event = events.try_next() => match event {
                    Ok(Some(event)) => self.take(event, &mut listed).await,
                    Ok(None) => return,
                    // The API server is away; the watcher tries again.
                    Err(_) => {}
                },
                Some(ended) = self.lives.join_next() => match ended {
                    Ok((uid, result)) => {
                        self.wanted.remove(&uid);
                        if let Err(error) = result {
                            eprintln!("kubelet: {error:#}");
                        }
                    }
                    Err(error) => eprintln!("kubelet: {error}"),
                },
            }
        }
    }

    async fn take(&mut self, event: Event<Pod>, listed: &mut BTreeSet<String>) {
        let taken = match event {
            Event::Init => {
                listed.clear();
                Ok(())
            }
            Event::InitApply(pod) => {
                listed.extend(pod.uid());
                self.apply(&pod).await
            }
            Event::InitDone => {
                let gone = self.wanted.iter().filter(|(uid, _)| !listed.contains(*uid));
                gone.for_each(|(_, wanted)| forget(wanted));
                Ok(())
            }
            Event::Apply(pod) => self.apply(&pod).await,
            Event::Delete(pod) => {
                pod.uid().and_then(|uid| self.wanted.get(&uid)).into_iter().for_each(forget);
                Ok(())
            }
        };
        if let Err(error) = taken {
            eprintln!("kubelet: {error:#}");
        }
    }

    async fn apply(&mut self, pod: &Pod) -> anyhow::Result<()> {
        let spec = pod.spec.as_ref().context("a Pod has a spec")?;
        let Some(node) = &spec.node_name else { return self.bind(pod).await };
        let wanted = wanted(pod)?;
        let plan = Plan::of(pod)?;
        if let Some(sender) = self.wanted.get(&plan.uid) {
            sender.send_if_modified(|old| std::mem::replace(old, wanted) != wanted);
            return Ok(());
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let Some(node) = self.nodes.iter().find(|it| it.name == *node) else { return Ok(()) };
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Ok(());
        }
        let (sender, receiver) = watch::channel(wanted);
        let uid = plan.uid.clone();
        let life = Life {
            client: self.client.clone(),
            plan,
            node: node.clone(),
            network: Arc::clone(&self.network),
            cgroups: self.cgroups.clone(),
            places: self.places.clone(),
            wanted: receiver,
        };
        self.wanted.insert(uid.clone(), sender);
        self.lives.spawn(async move {
            let name = life.plan.name.clone();
            (uid, life.live().await.with_context(|| format!("pod {name}")))
        });
        Ok(())
    }

    /// The scheduler: one node after the other, unless the pod names one.
    async fn bind(&mut self, pod: &Pod) -> anyhow::Result<()> {
        let node = match pod.spec.as_ref().and_then(named_node) {
            Some(name) => name.clone(),
            None if self.nodes.is_empty() => return Ok(()),
            None => self.nodes[self.bound % self.nodes.len()].name.clone(),
        };
        self.bound += 1;
        let name = pod.name_any();
        let namespace = pod.namespace().context("a Pod has a namespace")?;
        let binding: Binding = serde_json::from_value(json!({
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }))?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let parameters = PostParams::default();
        let bound: kube::Result<serde_json::Value> =
            pods.create_subresource("binding", &name, &parameters, &binding).await;
        match bound {
            // It was bound before, and the event is an old one; or it is gone.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("bind pod {name} to {node}")),
            Ok(_) => Ok(()),
        }
    }
}

/// The node that a pod names: by its label, or by its name, as DaemonSets do.
fn named_node(spec: &PodSpec) -> Option<&String> {
    let selected = spec.node_selector.as_ref().and_then(|it| it.get("kubernetes.io/hostname"));
    let required = || {
        let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let terms = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
        let fields = terms.node_selector_terms.first()?.match_fields.as_ref()?;
        fields.iter().find(|it| it.key == "metadata.name")?.values.as_ref()?.first()
    };
    selected.or_else(required)
}

fn wanted(pod: &Pod) -> anyhow::Result<Wanted> {
    let meta = &pod.metadata;
    let grace_s = meta.deletion_grace_period_seconds.unwrap_or(0).try_into()?;
    let terminate = meta.deletion_timestamp.is_some().then_some(Duration::from_secs(grace_s));
    let is_ready = pod.annotations().get(READY).is_none_or(|value| value != "false");
    Ok(Wanted { is_ready, terminate, is_gone: false })
}

/// Its object is gone: it is no longer anybody's.
fn forget(wanted: &watch::Sender<Wanted>) {
    wanted.send_modify(|wanted| wanted.is_gone = true);
}
