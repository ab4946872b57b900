//! From the API's Pods and Namespaces to the little that is kept of them.

use crate::core::pods::{PodObject, PodUid, Wishes};
use k8s_openapi::{
    api::core::v1::{Namespace, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// `false` as an annotation or label of a pod or namespace: its connections are left alone.
const BALANCE: &str = "balancer.dev/balance";
/// `false` likewise: its connections are not followed as HTTP/2, nor moved while they live.
const HTTP2: &str = "balancer.dev/http2";
/// On the API's picture of a static pod (a mirror pod): the hash that kubelet takes for the pod's UID
/// (`pkg/kubelet/types.ConfigMirrorAnnotationKey`).
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Containers that balance the pod's connections by themselves: Istio's and Linkerd's proxies.
const MESH_PROXIES: [&str; 2] = ["istio-proxy", "linkerd-proxy"];

/// What is kept of an object, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// What is kept.
    pub kept: T,
    /// A value that makes no sense, and was taken as not set.
    pub fault: Option<String>,
}

/// What is kept of a pod.
///
/// # Errors
/// Says what it lacks to be told apart from others.
pub fn pod(pod: &Pod) -> Result<Read<PodObject>, String> {
    let metadata = &pod.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    let namespace = metadata.namespace.clone().unwrap_or_default();
    if !is_name(&name) || !is_name(&namespace) {
        return Err("a Pod whose metadata.name or metadata.namespace is missing, or none".into());
    }
    let mirror = metadata.annotations.as_ref().and_then(|annotations| annotations.get(MIRROR));
    let uid = mirror.or(metadata.uid.as_ref()).map_or("", String::as_str);
    let uid = PodUid::new(uid)
        .ok_or_else(|| format!("Pod {namespace}/{name}: its UID `{}` is none", shortened(uid)))?;
    let (wishes, fault) = wishes(metadata);
    let fault = fault.map(|fault| format!("Pod {namespace}/{name}: {fault}"));
    let spec = pod.spec.as_ref();
    let containers = spec.iter().flat_map(|spec| {
        // Linkerd's proxy, and Istio's where it is asked to be, is an init container that stays.
        spec.containers.iter().chain(spec.init_containers.iter().flatten())
    });
    let mesh_proxy = containers
        .map(|container| &container.name)
        .find(|name| MESH_PROXIES.contains(&name.as_str()))
        .cloned();
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let kept = PodObject { uid, namespace, name, host_network, mesh_proxy, wishes };
    Ok(Read { kept, fault })
}

/// The name of a namespace, and what it asks for its pods.
pub fn namespace(namespace: &Namespace) -> Option<Read<(String, Wishes)>> {
    let name = namespace.metadata.name.clone().filter(|name| is_name(name))?;
    let (wishes, fault) = wishes(&namespace.metadata);
    let fault = fault.map(|fault| format!("Namespace {name}: {fault}"));
    Some(Read { kept: (name, wishes), fault })
}

fn wishes(metadata: &ObjectMeta) -> (Wishes, Option<String>) {
    let (opted_out, fault) = is_off(metadata, BALANCE, "have its connections left alone");
    let (http2_off, other) = is_off(metadata, HTTP2, "have its connections stay where they are");
    let faults: Vec<String> = fault.into_iter().chain(other).collect();
    let fault = (!faults.is_empty()).then(|| faults.join("; "));
    (Wishes { opted_out, http2_off }, fault)
}

/// Whether an object switches something off, by annotation or by label: one that says so is enough.
fn is_off(metadata: &ObjectMeta, key: &str, to: &str) -> (bool, Option<String>) {
    let said = [("annotation", &metadata.annotations), ("label", &metadata.labels)];
    let mut off = false;
    let mut fault = None;
    for (kind, values) in said {
        match values.as_ref().and_then(|values| values.get(key)).map(String::as_str) {
            Some("false") => off = true,
            None | Some("true") => {}
            Some(other) => {
                fault = Some(format!(
                    "the {kind} `{key}` is `{}`, which is neither `true` nor `false`; hint: write \
                     \"false\" to {to}",
                    shortened(other)
                ));
            }
        }
    }
    (off, fault)
}

/// Names stand in messages and tables as they are: an API server that lets control characters through must
/// not write to anybody's terminal. Kubernetes' own have at most 253 characters.
fn is_name(text: &str) -> bool {
    (1..=253).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The beginning of a text that may be anything.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const UID: &str = "7d4b9ac4-7c4a-4a9c-8d4a-1f7b0c6e0a51";

    fn read(metadata: impl Into<Value>, spec: impl Into<Value>) -> Result<Read<PodObject>, String> {
        let value = json!({"metadata": metadata.into(), "spec": spec.into()});
        pod(&serde_json::from_value(value).unwrap())
    }

    fn plain() -> Value {
        json!({"containers": [{"name": "app"}]})
    }

    fn metadata(extra: impl Into<Value>) -> Value {
        let mut metadata = json!({"name": "cart-0", "namespace": "shop", "uid": UID});
        metadata.as_object_mut().unwrap().extend(extra.into().as_object().unwrap().clone());
        metadata
    }

    #[test]
    fn a_plain_pod() {
        let expected = PodObject {
            uid: PodUid::new(UID).unwrap(),
            namespace: "shop".into(),
            name: "cart-0".into(),
            host_network: false,
            mesh_proxy: None,
            wishes: Wishes::default(),
        };
        let found = read(metadata(json!({})), plain()).unwrap();
        assert_eq!(found, Read { kept: expected, fault: None });
    }

    #[test]
    fn a_static_pod_is_told_by_the_hash_of_its_manifest() {
        let hash = "7d4b9ac47c4a4a9c8d4a1f7b0c6e0a51";
        let found = read(
            metadata(json!({"annotations": {MIRROR: hash, "kubernetes.io/config.hash": hash}})),
            json!({"hostNetwork": true, "containers": [{"name": "etcd"}]}),
        );
        let found = found.unwrap().kept;
        assert_eq!((found.uid.as_str(), found.host_network), (hash, true));
    }

    #[test]
    fn a_mesh_proxy_is_found_among_all_containers() {
        for (spec, proxy) in [
            (
                json!({"containers": [{"name": "app"}, {"name": "istio-proxy"}]}),
                Some("istio-proxy"),
            ),
            (
                json!({"containers": [{"name": "app"}], "initContainers": [{"name": "linkerd-proxy"}]}),
                Some("linkerd-proxy"),
            ),
            (json!({"containers": [{"name": "istio-proxy-docs"}]}), None),
        ] {
            let found = read(metadata(json!({})), spec.clone()).unwrap().kept.mesh_proxy;
            assert_eq!(found.as_deref(), proxy, "{spec}");
        }
    }

    #[test]
    fn opting_out() {
        for (key, wishes) in [
            (BALANCE, Wishes { opted_out: true, http2_off: false }),
            (HTTP2, Wishes { opted_out: false, http2_off: true }),
        ] {
            opting_out_by(key, wishes);
        }
        let both = json!({"annotations": {BALANCE: "x", HTTP2: "y"}});
        let fault = read(metadata(both), plain()).unwrap().fault.unwrap();
        assert!(fault.contains(BALANCE) && fault.contains(HTTP2), "{fault}");
    }

    fn opting_out_by(key: &str, wishes: Wishes) {
        for (extra, is_off, faulty) in [
            (json!({"annotations": {key: "false"}}), true, false),
            (json!({"labels": {key: "false"}}), true, false),
            (json!({"annotations": {key: "true"}, "labels": {key: "false"}}), true, false),
            (json!({"annotations": {key: "true"}}), false, false),
            (json!({"annotations": {key: "No\u{7}"}}), false, true),
            (json!({"labels": {"other": "false"}}), false, false),
        ] {
            let wishes = if is_off { wishes } else { Wishes::default() };
            let found = read(metadata(extra.clone()), plain()).unwrap();
            assert_eq!((found.kept.wishes, found.fault.is_some()), (wishes, faulty), "{extra}");
            let mut of_namespace = extra.clone();
            of_namespace["name"] = json!("shop");
            let of_namespace = json!({"metadata": of_namespace});
            let found = namespace(&serde_json::from_value(of_namespace).unwrap()).unwrap();
            assert_eq!(found.kept, ("shop".to_owned(), wishes), "{extra}");
            assert_eq!(found.fault.is_some(), faulty);
        }
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        for metadata in [
            json!({}),
            json!({"name": "cart-0", "uid": UID}),
            json!({"name": "cart-0", "namespace": "shop"}),
            json!({"name": "cart-0\u{1b}[2J", "namespace": "shop", "uid": UID}),
            json!({"name": "cart-0", "namespace": "shop", "uid": "a/b"}),
            json!({"name": "cart-0", "namespace": "shop", "uid": "a".repeat(65)}),
        ] {
            assert!(read(metadata.clone(), plain()).is_err(), "{metadata}");
        }
        assert_eq!(namespace(&Namespace::default()), None);
        assert!(pod(&Pod::default()).is_err());
    }
}
