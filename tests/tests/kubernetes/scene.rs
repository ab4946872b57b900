//! What tests with an agent need: a cluster with two nodes, the agent of the first of them, and a
//! client pod there.

use anyhow::{Context, ensure};
use balancer_agent::datapath::{maps::Maps, reader::socket_address};
use balancer_common::{
    backend::{STATE_ACTIVE, STATE_DRAINING, STATE_GONE},
    reason::Reason,
};
use balancer_tests::{
    agent::{Agent, Launch, binary, write_config},
    capability,
    cluster::{
        Cluster,
        caller::{CallPlan, Caller, Style},
        node::Node,
        objects::{self, ECHO_PORT, NAMESPACE},
        version::Version,
    },
    grpc::{client::EchoClient, echo::EchoReply},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::DeleteParams};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    process::Command,
};
use tonic::Streaming;

/// The name of the deployment and its service.
pub(crate) const SHOP: &str = "shop";
/// The pod that clients are in.
pub(crate) const CLIENT: &str = "client";

/// A cluster of two nodes.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
}

impl Scene {
    /// A deployment of so many echo servers behind a service, all ready, and an idle client pod on
    /// the node of the agent. None where this machine cannot have it.
    pub(crate) fn new(purpose: &str, replicas: u32, service: Value) -> Option<Self> {
        if !capability::can_run_cluster(Version::NEWEST) {
            return None;
        }
        let nodes = vec![Node::new("node-a", "zone-a"), Node::new("node-b", "zone-b")];
        let cluster = Cluster::start(purpose, Version::NEWEST, nodes).unwrap();
        let scene = Self { cluster };
        let client = scene.client();
        scene.cluster.run(async {
            objects::deploy_echo(&client, SHOP, replicas, 30).await.unwrap();
            objects::expose(&client, SHOP, service).await.unwrap();
            objects::run_idle(&client, CLIENT, "node-a").await.unwrap();
            objects::until_ready(&client, SHOP, replicas as usize).await.unwrap();
        });
        Some(scene)
    }

    pub(crate) fn client(&self) -> Client {
        self.cluster.client()
    }

    /// The configuration of the first node's agent, with the rights of this kubeconfig.
    pub(crate) fn config(kubeconfig: &Path) -> String {
        format!(
            "version: 1\n\
             limits: {{services: 16, backends: 256, frontends: 256, slots: 8192, \
             connections: 4096, pod-services: 256}}\n\
             kubernetes:\n  enabled: true\n  node-name: node-a\n  kubeconfig: {}\n",
            kubeconfig.display()
        )
    }

    /// Starts the agent of the first node with the rights of this kubeconfig.
    pub(crate) fn agent_as(&self, kubeconfig: &Path) -> Agent<'_> {
        write_config(self.cluster.world(), &Self::config(kubeconfig)).unwrap();
        self.agent_again()
    }

    /// Starts it as administrator.
    pub(crate) fn agent(&self) -> Agent<'_> {
        self.agent_as(&self.cluster.control_plane().kubeconfig())
    }

    /// Starts it with the configuration that is there.
    pub(crate) fn agent_again(&self) -> Agent<'_> {
        Launch::new(self.cluster.world()).start().unwrap()
    }

    /// A client in the client pod.
    pub(crate) fn caller(&self, targets: Vec<SocketAddr>, style: Style) -> Caller {
        let place = self.cluster.kubelet().place(NAMESPACE, CLIENT).unwrap();
        Caller::start(&place, &CallPlan { targets, style, pause_ms: 10 }).unwrap()
    }

    /// The address that clients of the service dial.
    pub(crate) fn cluster_ip(&self) -> SocketAddr {
        let client = self.client();
        let ip = self.cluster.run(objects::cluster_ip(&client, SHOP)).unwrap();
        SocketAddr::from((ip, ECHO_PORT))
    }

    /// The addresses of the service's ready pods, once there are so many.
    pub(crate) fn ready(&self, count: usize) -> BTreeSet<SocketAddr> {
        let client = self.client();
        let ips = self.cluster.run(objects::until_ready(&client, SHOP, count)).unwrap();
        ips.into_iter().map(|ip| SocketAddr::from((ip, ECHO_PORT))).collect()
    }

    pub(crate) fn scale(&self, replicas: u32) {
        let client = self.client();
        self.cluster.run(objects::scale(&client, SHOP, replicas)).unwrap();
    }

    /// The state of each backend that the kernel knows.
    pub(crate) fn states(&self) -> anyhow::Result<BTreeMap<SocketAddr, u32>> {
        let maps = Maps::open_loaded(self.cluster.world().pins())?;
        let backends = maps.read_backends()?;
        let known = backends.iter().filter(|(_, it)| it.state != STATE_GONE);
        Ok(known.map(|(_, it)| (socket_address(it.address, it.port_be), it.state)).collect())
    }

    /// Waits until exactly these backends take new connections.
    pub(crate) fn until_active(&self, agent: &Agent<'_>, expected: &BTreeSet<SocketAddr>) {
        let waited = agent.until(|_| self.active().is_ok_and(|active| active == *expected));
        waited.with_context(|| format!("{expected:?}, not {:?}", self.states())).unwrap();
    }

    /// Waits until this backend keeps what it has and gets nothing new.
    pub(crate) fn until_draining(&self, agent: &Agent<'_>, leaving: SocketAddr) {
        let drains = |states: BTreeMap<_, _>| states.get(&leaving) == Some(&STATE_DRAINING);
        agent.until(|_| self.states().is_ok_and(drains)).unwrap();
    }

    /// The backends that take new connections.
    pub(crate) fn active(&self) -> anyhow::Result<BTreeSet<SocketAddr>> {
        let states = self.states()?;
        let active = states.into_iter().filter(|(_, state)| *state == STATE_ACTIVE);
        Ok(active.map(|(address, _)| address).collect())
    }

    /// The pods that answer calls to the service's address; each call is a new connection, and none
    /// may fail.
    pub(crate) fn reached(&self, calls: u64) -> BTreeSet<String> {
        self.reached_at(self.cluster_ip(), calls)
    }

    /// The same at another address.
    pub(crate) fn reached_at(&self, target: SocketAddr, calls: u64) -> BTreeSet<String> {
        let caller = self.caller(vec![target], Style::Each);
        caller.goes_on(calls).unwrap();
        let tally = caller.stop().unwrap();
        assert_eq!(tally.failures, BTreeMap::new(), "{tally:?}");
        tally.replies.into_keys().collect()
    }

    /// What a command of the agent tells, as its users call it.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Value {
        let world = self.cluster.world();
        let output = Command::new(binary().unwrap())
            .args(arguments)
            .args(["--output", "json"])
            .arg("--pin-root")
            .arg(world.pins().path())
            .arg("--runtime-dir")
            .arg(world.runtime())
            .arg("--cgroup")
            .arg(world.cgroup())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        // 1 is an answer too: not healthy, not balanced.
        assert!(matches!(output.status.code(), Some(0 | 1)), "{arguments:?}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Deletes one of the service's pods, which has a call to finish within its grace period.
    pub(crate) fn delete_busy(&self) -> Leaving {
        let name = self.pods().into_iter().next().unwrap();
        let place = self.cluster.kubelet().place(NAMESPACE, &name).unwrap();
        let address = SocketAddr::from((place.addresses[0], ECHO_PORT));
        let pods: Api<Pod> = Api::namespaced(self.client(), NAMESPACE);
        let (echo, call) = self.cluster.run(async {
            let mut echo = EchoClient::connect(address).await.unwrap();
            let call = echo.open(vec![7; 10_000], 1_000).await.unwrap();
            pods.delete(&name, &DeleteParams::default()).await.unwrap();
            (echo, call)
        });
        Leaving { name, address, echo, call }
    }

    /// How often each outcome happened.
    pub(crate) fn reasons(&self) -> BTreeMap<Reason, u64> {
        Maps::open_loaded(self.cluster.world().pins()).unwrap().read_reasons().unwrap()
    }

    /// The names of the service's pods.
    pub(crate) fn pods(&self) -> BTreeSet<String> {
        let client = self.client();
        self.cluster.run(objects::pods(&client, SHOP)).unwrap().into_iter().collect()
    }
}

/// A pod that is being deleted, and a call that it finishes first.
pub(crate) struct Leaving {
    /// The pod's name.
    pub(crate) name: String,
    /// Where it was reached.
    pub(crate) address: SocketAddr,
    echo: EchoClient,
    call: Streaming<EchoReply>,
}

impl Leaving {
    /// Lets the call end.
    pub(crate) async fn finish(mut self) {
        while self.call.message().await.unwrap().is_some() {}
        drop(self.echo);
    }
}

/// A caller's failures and replies, once it has ended.
pub(crate) fn ended(caller: Caller) -> anyhow::Result<(u64, u64, BTreeMap<String, u64>)> {
    let tally = caller.stop()?;
    ensure!(tally.replied() + tally.failed() > 0, "it made no call");
    Ok((tally.failed(), tally.replied(), tally.failures))
}
