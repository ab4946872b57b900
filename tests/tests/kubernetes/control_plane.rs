//! The control plane by itself: it comes, is what it says it is, and goes without a trace.

use balancer_tests::{
    capability,
    cluster::{Cluster, kubeconfig, version::Version},
};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Whether a process is there; a zombie is not.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn leaves_nothing(version: Version) {
    if !capability::can_run_cluster(version) {
        return;
    }
    let cluster = Cluster::start("cluster", version, Vec::new()).unwrap();
    let told = cluster.server_version().unwrap();
    assert_eq!(format!("{}.{}", told.major, told.minor), version.to_string());
    let pids = cluster.control_plane().pids();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| is_running(*pid)), "{pids:?}");
    let places: Vec<PathBuf> =
        [cluster.world().runtime(), cluster.world().cgroup(), cluster.world().pins().path()]
            .map(PathBuf::from)
            .into();
    assert!(places[0].join("control-plane/etcd").is_dir());
    drop(cluster);
    assert!(!pids.iter().any(|pid| is_running(*pid)), "{pids:?}");
    assert!(!places.iter().any(|place| place.exists()), "{places:?}");
}

#[test]
fn the_oldest_release_comes_and_leaves_nothing() {
    leaves_nothing(Version::V1_34);
}

#[test]
fn the_newest_release_comes_and_leaves_nothing() {
    leaves_nothing(Version::V1_36);
}

#[test]
fn an_account_has_the_rights_that_it_was_given_and_no_others() {
    if !capability::can_run_cluster(Version::NEWEST) {
        return;
    }
    let cluster = Cluster::start("rbac", Version::NEWEST, Vec::new()).unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client(), "default");
    let account = serde_json::from_value(json!({"metadata": {"name": "reader"}})).unwrap();
    cluster.run(accounts.create(&PostParams::default(), &account)).unwrap();
    let path = cluster.account_kubeconfig("default", "reader").unwrap();
    cluster.run(async {
        let reader = kubeconfig::client(&path).await.unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(reader.clone(), "default");
        let refused = maps.list(&ListParams::default()).await.unwrap_err();
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");

        grant(&cluster, "configmaps", &["get", "list"]).await;
        // The API server hears of its own rules a moment later, and tells nobody.
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = maps.list(&ListParams::default()).await {
            assert!(Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let new = serde_json::from_value(json!({"metadata": {"name": "new"}})).unwrap();
        let refused = maps.create(&PostParams::default(), &new).await.unwrap_err();
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
    });
}

async fn grant(cluster: &Cluster, resource: &str, verbs: &[&str]) {
    use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
    let roles: Api<Role> = Api::namespaced(cluster.client(), "default");
    let granted = json!([{"apiGroups": [""], "resources": [resource], "verbs": verbs}]);
    let role = json!({"metadata": {"name": "reader"}, "rules": granted});
    let role = serde_json::from_value(role).unwrap();
    roles.create(&PostParams::default(), &role).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(cluster.client(), "default");
    let binding = serde_json::from_value(json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}],
    }))
    .unwrap();
    bindings.create(&PostParams::default(), &binding).await.unwrap();
}

#[test]
fn what_was_there_is_there_after_the_api_server_was_killed() {
    if !capability::can_run_cluster(Version::NEWEST) {
        return;
    }
    let cluster = Cluster::start("killed", Version::NEWEST, Vec::new()).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
    let object = json!({"metadata": {"name": "kept"}, "data": {"key": "value"}});
    let object = serde_json::from_value(object).unwrap();
    cluster.run(maps.create(&PostParams::default(), &object)).unwrap();
    cluster.kill_api_server().unwrap();
    cluster.run(maps.get("kept")).unwrap_err();
    cluster.restart_api_server().unwrap();
    let kept = cluster.run(maps.get("kept")).unwrap();
    assert_eq!(kept.data.unwrap()["key"], "value");
    assert_eq!(cluster.control_plane().pids().len(), 3);
}
