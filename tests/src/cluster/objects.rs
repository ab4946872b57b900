//! The objects that tests make, change and wait for.

use super::{
    briefly::Briefly,
    workload::{ECHO_IMAGE, IDLE_IMAGE},
};
use anyhow::{Context, bail};
use futures_util::StreamExt;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    discovery::v1::{Endpoint, EndpointSlice},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Debug, net::IpAddr, pin::pin, time::Duration};
use tokio::time::timeout;

/// The namespace of the tests' objects.
pub const NAMESPACE: &str = "default";
/// The port of echo servers.
pub const ECHO_PORT: u16 = 50_051;
/// Longest wait for the controllers and kubelets to get where a test wants them.
const PATIENCE_S: u64 = 180;

/// A deployment of echo servers with this grace period.
///
/// # Errors
/// When the API server refuses it.
pub async fn deploy_echo(
    client: &Client,
    name: &str,
    replicas: u32,
    grace_s: u32,
) -> anyhow::Result<Deployment> {
    let object = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            // As users set it who want no request to fail.
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": grace_s,
                    "containers": [{
                        "name": "server",
                        "image": ECHO_IMAGE,
                        "ports": [{"name": "grpc", "containerPort": ECHO_PORT}],
                    }],
                },
            },
        },
    }))?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let created = deployments.create(&PostParams::default(), &object).await;
    created.with_context(|| format!("create deployment {name}"))
}

/// A service of the pods with the label `app` of its own name; `more` is merged into its object.
///
/// # Errors
/// When the API server refuses it.
pub async fn expose(client: &Client, name: &str, more: Value) -> anyhow::Result<Service> {
    let mut object = json!({
        "metadata": {"name": name},
        "spec": {
            "selector": {"app": name},
            "ports": [{"name": "grpc", "port": ECHO_PORT, "targetPort": "grpc"}],
        },
    });
    merge(&mut object, more);
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let created = services.create(&PostParams::default(), &serde_json::from_value(object)?).await;
    created.with_context(|| format!("create service {name}"))
}

/// The address that clients of a service dial.
///
/// # Errors
/// When there is no such service, or it has no address.
pub async fn cluster_ip(client: &Client, name: &str) -> anyhow::Result<IpAddr> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let service = services.get(name).await.with_context(|| format!("look at service {name}"))?;
    let ip = service.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
    ip.parse().with_context(|| format!("`{ip}` of service {name} is no address"))
}

/// A pod on this node in which nothing runs until it is put there; waits until it has an address.
///
/// # Errors
/// When the API server refuses it, or it does not start.
pub async fn run_idle(client: &Client, name: &str, node: &str) -> anyhow::Result<()> {
    let object = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [{"name": "c", "image": IDLE_IMAGE}],
        },
    }))?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let created = pods.create(&PostParams::default(), &object).await;
    created.with_context(|| format!("create pod {name}"))?;
    until::<Pod>(client, &format!("app={name}"), |pods| {
        pods.values().any(|pod| pod.status.as_ref().is_some_and(|it| it.pod_ip.is_some()))
    })
    .await
    .map(drop)
}

/// Changes an object of the tests' namespace.
///
/// # Errors
/// When the API server refuses it.
pub async fn patch<K>(client: &Client, name: &str, change: &Value) -> anyhow::Result<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
    patched.with_context(|| format!("change {} {name}", K::kind(&())))
}

/// Sets how many pods a deployment has.
///
/// # Errors
/// When the API server refuses it.
pub async fn scale(client: &Client, name: &str, replicas: u32) -> anyhow::Result<()> {
    let change = json!({"spec": {"replicas": replicas}});
    patch::<Deployment>(client, name, &change).await.map(drop)
}

/// Replaces all pods of a deployment, one after the other, as `kubectl rollout restart` does.
///
/// # Errors
/// When the API server refuses it.
pub async fn roll(client: &Client, name: &str, revision: &str) -> anyhow::Result<()> {
    let annotations = json!({"balancer.test/revision": revision});
    let change = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    patch::<Deployment>(client, name, &change).await.map(drop)
}

/// Waits until all objects of a kind that match a label are as wanted, and returns them by name.
///
/// # Errors
/// When that takes too long, with what is there.
pub async fn until<K>(
    client: &Client,
    labels: &str,
    wanted: impl Fn(&BTreeMap<String, K>) -> bool,
) -> anyhow::Result<BTreeMap<String, K>>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + Send
        + DeserializeOwned
        + 'static,
{
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    let config = watcher::Config::default().labels(labels);
    let mut events = pin!(watcher::watcher(api, config).backoff(Briefly));
    let mut objects = BTreeMap::new();
    let mut is_listed = false;
    let follow = async {
        while let Some(event) = events.next().await {
            match event {
                // The API server is away; the watcher tries again.
                Err(_) => continue,
                Ok(Event::Init) => {
                    objects.clear();
                    is_listed = false;
                }
                Ok(Event::InitDone) => is_listed = true,
                Ok(Event::InitApply(object) | Event::Apply(object)) => {
                    objects.insert(object.name_any(), object);
                }
                Ok(Event::Delete(object)) => {
                    objects.remove(&object.name_any());
                }
            }
            if is_listed && wanted(&objects) {
                return true;
            }
        }
        false
    };
    match timeout(Duration::from_secs(PATIENCE_S), follow).await {
        Ok(true) => Ok(objects),
        Ok(false) => bail!("the watch of {} {labels} ended", K::kind(&())),
        Err(_) => bail!("still not as wanted, {} {labels}: {objects:#?}", K::kind(&())),
    }
}

/// Waits until a service has this many ready endpoints, all of them with an address, and none that
/// is not ready.
///
/// # Errors
/// When that takes too long.
pub async fn until_ready(
    client: &Client,
    service: &str,
    count: usize,
) -> anyhow::Result<Vec<IpAddr>> {
    let label = format!("kubernetes.io/service-name={service}");
    let slices = until::<EndpointSlice>(client, &label, |slices| {
        let endpoints: Vec<&Endpoint> = endpoints(slices).collect();
        endpoints.len() == count && endpoints.iter().all(|it| is_ready(it))
    })
    .await
    .with_context(|| format!("wait for {count} ready endpoints of {service}"))?;
    let addresses = endpoints(&slices).flat_map(|it| &it.addresses);
    addresses.map(|it| it.parse().with_context(|| format!("`{it}` is no address"))).collect()
}

/// The names of the pods with the label `app=NAME` that are not being deleted.
///
/// # Errors
/// When the API server does not answer.
pub async fn pods(client: &Client, app: &str) -> anyhow::Result<Vec<String>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let parameters = kube::api::ListParams::default().labels(&format!("app={app}"));
    let listed = api.list(&parameters).await.with_context(|| format!("list pods of {app}"))?;
    let alive = listed.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(alive.map(|pod| pod.name_any()).collect())
}

/// All endpoints of some slices.
pub fn endpoints(slices: &BTreeMap<String, EndpointSlice>) -> impl Iterator<Item = &Endpoint> {
    slices.values().flat_map(|slice| &slice.endpoints)
}

/// Whether an endpoint takes new connections.
pub fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|it| it.ready == Some(true))
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}
