//! The manifests: nothing is granted that is not needed, and what belongs together agrees.

use crate::{read, repository, texts, yaml};
use balancer_agent::config::Config;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs};

const DAEMON_SET: &str = "deploy/base/daemon-set.yaml";
const OVERLAYS: [&str; 4] = ["eks-al2023", "eks-ubuntu", "ubuntu-22.04", "ubuntu-24.04"];

fn pod() -> Value {
    yaml(DAEMON_SET)["spec"]["template"]["spec"].clone()
}

fn agent() -> Value {
    let containers = &pod()["containers"];
    assert_eq!(containers.as_array().unwrap().len(), 1);
    containers[0].clone()
}

/// Every YAML file below `deploy/`.
fn yaml_files() -> Vec<String> {
    let mut files = Vec::new();
    let mut directories = vec!["deploy".to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(repository(&directory)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{directory}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                directories.push(path);
            } else if entry.path().extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[test]
fn every_file_parses_and_every_manifest_says_what_it_is() {
    let files = yaml_files();
    assert!(files.len() > 15, "{files:?}");
    for file in files {
        let document = yaml(&file);
        let is_manifest = !file.contains("config") && !file.contains("monitoring");
        if is_manifest {
            assert!(document["apiVersion"].is_string() && document["kind"].is_string(), "{file}");
        }
    }
}

#[test]
fn every_listed_file_exists_and_every_file_is_listed() {
    let mut listed = BTreeSet::new();
    let list = |directory: &str, key: &str, entry: &str| {
        let path = format!("deploy/{directory}/{entry}");
        assert!(repository(&path).exists(), "{directory} lists {entry} under {key}");
        path
    };
    let base = yaml("deploy/base/kustomization.yaml");
    for entry in texts(&base["resources"]) {
        listed.insert(list("base", "resources", entry));
    }
    for entry in texts(&base["configMapGenerator"][0]["files"]) {
        listed.insert(list("base", "files", entry));
    }
    for overlay in OVERLAYS {
        let directory = format!("overlays/{overlay}");
        let kustomization = yaml(&format!("deploy/{directory}/kustomization.yaml"));
        assert_eq!(texts(&kustomization["resources"]), ["../../base"]);
        for patch in kustomization["patches"].as_array().unwrap() {
            listed.insert(list(&directory, "patches", patch["path"].as_str().unwrap()));
        }
    }
    let parts = |file: &&String| {
        let is_part = file.starts_with("deploy/base/") || file.starts_with("deploy/overlays/");
        is_part && !file.ends_with("kustomization.yaml")
    };
    let files: BTreeSet<String> = yaml_files().iter().filter(parts).cloned().collect();
    assert_eq!(listed, files);
}

#[test]
fn the_agent_is_not_privileged() {
    let context = &agent()["securityContext"];
    assert_eq!(context["privileged"], Value::Null);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(texts(&context["capabilities"]["drop"]), ["ALL"]);
    let capabilities = texts(&context["capabilities"]["add"]);
    assert_eq!(capabilities, ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN", "SYS_PTRACE"]);
    let reasons = read("docs/kubernetes.md");
    for capability in capabilities {
        assert!(reasons.contains(&format!("| `CAP_{capability}` |")), "{capability} has no reason");
    }
    // Patches add nothing to it either.
    for file in yaml_files().iter().filter(|file| file.contains("overlays/")) {
        let text = read(file);
        assert!(!text.contains("privileged:") && !text.contains("capabilities:"), "{file}");
    }
}

#[test]
fn what_mounts_bpffs_is_the_only_privileged_thing_and_does_nothing_else() {
    let pod = pod();
    let init = pod["initContainers"].as_array().unwrap();
    assert_eq!(init.len(), 1);
    assert_eq!(texts(&init[0]["args"]), ["mount"]);
    assert_eq!(init[0]["image"], agent()["image"], "one image");
    let mounts = init[0]["volumeMounts"].as_array().unwrap();
    assert_eq!(mounts.len(), 1);
    assert_eq!(mounts[0]["mountPropagation"], "Bidirectional");
    let own = agent()["volumeMounts"].clone();
    let bpffs = own.as_array().unwrap().iter().find(|mount| mount["name"] == "bpffs").unwrap();
    assert_eq!(bpffs["mountPath"], mounts[0]["mountPath"]);
    assert_eq!(bpffs["mountPropagation"], "HostToContainer");
}

#[test]
fn the_account_reads_and_writes_events_only() {
    let role = yaml("deploy/base/cluster-role.yaml");
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let verbs = texts(&rule["verbs"]).join(" ");
                granted.insert(format!("{group}/{resource}: {verbs}"));
            }
        }
    }
    let expected = [
        "/namespaces: get list watch",
        "/nodes: get list watch",
        "/pods: get list watch",
        "/services: get list watch",
        "discovery.k8s.io/endpointslices: get list watch",
        "events.k8s.io/events: create patch",
    ];
    assert_eq!(granted, expected.map(str::to_owned).into());
    let binding = yaml("deploy/base/cluster-role-binding.yaml");
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    let account = yaml("deploy/base/service-account.yaml")["metadata"]["name"].clone();
    assert_eq!(binding["subjects"][0]["name"], account);
    assert_eq!(pod()["serviceAccountName"], account);
    let namespace = yaml("deploy/base/namespace.yaml")["metadata"]["name"].clone();
    assert_eq!(binding["subjects"][0]["namespace"], namespace);
    assert_eq!(yaml("deploy/base/kustomization.yaml")["namespace"], namespace);
}

#[test]
fn the_agent_runs_on_every_node_and_is_replaced_bit_by_bit() {
    let (set, pod) = (yaml(DAEMON_SET), pod());
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["hostNetwork"], true);
    let strategy = &set["spec"]["updateStrategy"];
    assert_eq!(strategy["type"], "RollingUpdate");
    // A second agent on the node would want the same pins and the same port.
    assert_eq!(strategy["rollingUpdate"]["maxSurge"], 0);
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    for (key, value) in set["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(labels[key], *value);
    }
    assert_eq!(agent()["env"][0]["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
}

#[test]
fn probes_and_annotations_lead_to_where_the_configuration_listens() {
    let text = read("deploy/base/config.yaml");
    let config = Config::parse(&text, "config.yaml").unwrap_or_else(|error| panic!("{error}"));
    let listen = config.http.listen.unwrap();
    assert!(listen.ip().is_unspecified(), "the kubelet and Prometheus come by the node's address");
    let agent = agent();
    let port = &agent["ports"][0];
    assert_eq!(port["containerPort"], listen.port());
    for (probe, path) in
        [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]
    {
        let get = &agent[probe]["httpGet"];
        assert_eq!(get["path"], path);
        assert_eq!(get["port"], port["name"]);
        // The agent gives its own loop 2 seconds.
        assert!(agent[probe]["timeoutSeconds"].as_u64() > Some(2), "{probe}");
    }
    let annotations = yaml(DAEMON_SET)["spec"]["template"]["metadata"]["annotations"].clone();
    assert_eq!(annotations["prometheus.io/port"], listen.port().to_string());
    assert!(config.kubernetes.enabled);
}

#[test]
fn the_version_of_the_image_is_that_of_the_agent() {
    let image = agent()["image"].as_str().unwrap().to_owned();
    assert!(image.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{image}");
    assert!(agent()["resources"]["requests"]["memory"].is_string());
    assert!(agent()["resources"]["limits"]["cpu"].is_null(), "throttling would delay map writes");
}

#[test]
fn ubuntu_needs_apparmor_out_of_the_way_and_others_do_not() {
    for overlay in OVERLAYS {
        let path = format!("deploy/overlays/{overlay}/apparmor.yaml");
        assert_eq!(repository(&path).exists(), overlay.contains("ubuntu"), "{overlay}");
        if repository(&path).exists() {
            let pod = yaml(&path);
            let container = &pod["spec"]["template"]["spec"]["containers"][0];
            assert_eq!(container["name"], agent()["name"]);
            assert_eq!(container["securityContext"]["appArmorProfile"]["type"], "Unconfined");
        }
    }
}
