//! Pods as the real controllers make them and the played kubelets run them.

use balancer_tests::{
    capability,
    cluster::{
        Cluster,
        cgroup_name::{Driver, Runtime},
        node::Node,
        objects::{self, ECHO_PORT, NAMESPACE, endpoints, is_ready},
        version::Version,
    },
    grpc::client::EchoClient,
};
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use std::{collections::BTreeSet, net::SocketAddr};

fn two_nodes() -> Vec<Node> {
    vec![
        Node::new("node-a", "zone-a"),
        Node::new("node-b", "zone-b").with(Driver::Cgroupfs, Runtime::CriO),
    ]
}

fn serves(version: Version) {
    if !capability::can_run_cluster(version) {
        return;
    }
    let cluster = Cluster::start("serves", version, two_nodes()).unwrap();
    let client = cluster.client();
    cluster.run(async {
        objects::deploy_echo(&client, "shop", 3, 30).await.unwrap();
        objects::expose(&client, "shop", json!({})).await.unwrap();
        let addresses = objects::until_ready(&client, "shop", 3).await.unwrap();
        let label = "kubernetes.io/service-name=shop";
        let slices = objects::until::<EndpointSlice>(&client, label, |_| true).await.unwrap();
        let zones: BTreeSet<_> = endpoints(&slices).filter_map(|it| it.zone.clone()).collect();
        assert_eq!(zones, ["zone-a", "zone-b"].map(String::from).into());

        let mut servers = BTreeSet::new();
        for address in addresses {
            let to = SocketAddr::from((address, ECHO_PORT));
            let mut echo = EchoClient::connect(to).await.unwrap();
            servers.insert(echo.echo(b"hello".to_vec()).await.unwrap().backend);
        }
        let pods: BTreeSet<_> = objects::pods(&client, "shop").await.unwrap().into_iter().collect();
        assert_eq!(servers, pods);
        for pod in &pods {
            let place = cluster.kubelet().place(NAMESPACE, pod).unwrap();
            let members = place.inside.cgroup.join("cgroup.procs");
            assert_eq!(std::fs::read_to_string(members).unwrap().lines().count(), 1, "{pod}");
        }

        objects::scale(&client, "shop", 5).await.unwrap();
        objects::until_ready(&client, "shop", 5).await.unwrap();
        objects::scale(&client, "shop", 1).await.unwrap();
        objects::until_ready(&client, "shop", 1).await.unwrap();
    });
}

#[test]
fn a_deployment_behind_a_service_serves_on_the_oldest_release() {
    serves(Version::V1_34);
}

#[test]
fn a_deployment_behind_a_service_serves_on_the_newest_release() {
    serves(Version::V1_36);
}

#[test]
fn a_deleted_pod_serves_on_until_its_calls_have_ended() {
    if !capability::can_run_cluster(Version::NEWEST) {
        return;
    }
    let cluster = Cluster::start("drains", Version::NEWEST, two_nodes()).unwrap();
    let client = cluster.client();
    cluster.run(async {
        objects::deploy_echo(&client, "shop", 1, 60).await.unwrap();
        objects::expose(&client, "shop", json!({})).await.unwrap();
        let address = objects::until_ready(&client, "shop", 1).await.unwrap()[0];
        let to = SocketAddr::from((address, ECHO_PORT));
        let name = objects::pods(&client, "shop").await.unwrap().remove(0);
        let mut echo = EchoClient::connect(to).await.unwrap();
        // Ten times what the windows of HTTP/2 hold.
        let mut call = echo.open(vec![7; 10_000], 1_000).await.unwrap();

        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        pods.delete(&name, &DeleteParams::default()).await.unwrap();
        let label = "kubernetes.io/service-name=shop";
        objects::until::<EndpointSlice>(&client, label, |slices| {
            endpoints(slices).any(|it| {
                let conditions = it.conditions.clone().unwrap_or_default();
                !is_ready(it)
                    && conditions.terminating == Some(true)
                    && conditions.serving == Some(true)
            })
        })
        .await
        .unwrap();
        assert!(EchoClient::connect(to).await.is_err(), "it listens after SIGTERM");
        let mut replies = 0;
        while let Some(reply) = call.message().await.unwrap() {
            assert_eq!((reply.backend.as_str(), reply.payload.len()), (name.as_str(), 10_000));
            replies += 1;
        }
        assert_eq!(replies, 1_000);
        drop((call, echo));
        objects::until::<Pod>(&client, "app=shop", |pods| !pods.contains_key(&name)).await.unwrap();
        // Its ReplicaSet has made another one.
        let next = objects::until_ready(&client, "shop", 1).await.unwrap();
        assert_ne!(next[0], address);
    });
}

#[test]
fn a_pod_whose_object_is_deleted_by_force_is_cut_off_without_a_word() {
    if !capability::can_run_cluster(Version::NEWEST) {
        return;
    }
    let cluster = Cluster::start("forced", Version::NEWEST, two_nodes()).unwrap();
    let client = cluster.client();
    cluster.run(async {
        objects::deploy_echo(&client, "shop", 1, 60).await.unwrap();
        objects::expose(&client, "shop", json!({})).await.unwrap();
        objects::until_ready(&client, "shop", 1).await.unwrap();
        let name = objects::pods(&client, "shop").await.unwrap().remove(0);
        let cgroup = cluster.kubelet().place(NAMESPACE, &name).unwrap().inside.cgroup;
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        pods.delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
        objects::until::<Pod>(&client, "app=shop", |pods| {
            !pods.contains_key(&name) && pods.len() == 1
        })
        .await
        .unwrap();
        objects::until_ready(&client, "shop", 1).await.unwrap();
        cluster.kubelet().until_gone(NAMESPACE, &name).await.unwrap();
        assert!(!cgroup.exists(), "{}", cgroup.display());
    });
}

#[test]
fn pods_have_the_class_and_network_that_their_objects_ask_for() {
    if !capability::can_run_cluster(Version::NEWEST) {
        return;
    }
    let cluster = Cluster::start("classes", Version::NEWEST, two_nodes()).unwrap();
    let client = cluster.client();
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let resources = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
    let pod = |name: &str, node: &str, host_network: bool, resources: serde_json::Value| {
        serde_json::from_value::<Pod>(json!({
            "metadata": {"name": name, "labels": {"app": "idle"}},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": node},
                "hostNetwork": host_network,
                "containers": [{"name": "c", "image": "balancer.test/idle", "resources": resources}],
            },
        }))
        .unwrap()
    };
    cluster.run(async {
        for pod in [
            pod("guaranteed", "node-a", false, resources),
            pod("on-host", "node-b", true, json!({})),
        ] {
            pods.create(&PostParams::default(), &pod).await.unwrap();
        }
        let found = objects::until::<Pod>(&client, "app=idle", |pods| {
            pods.len() == 2 && pods.values().all(|pod| pod_ip(pod).is_some())
        })
        .await
        .unwrap();
        let cgroup = |name| cluster.kubelet().place(NAMESPACE, name).unwrap().inside.cgroup;
        let uid = found["guaranteed"].metadata.uid.clone().unwrap().replace('-', "_");
        let expected = format!("kubepods.slice/kubepods-pod{uid}.slice/cri-containerd-");
        let guaranteed = cgroup("guaranteed").display().to_string();
        assert!(guaranteed.contains(&expected), "{guaranteed}");
        let uid = found["on-host"].metadata.uid.clone().unwrap();
        let on_host = cgroup("on-host").display().to_string();
        assert!(on_host.contains(&format!("kubepods/besteffort/pod{uid}/crio-")), "{on_host}");
        assert_eq!(pod_ip(&found["on-host"]), Some("10.244.0.1".into()));
    });
}

fn pod_ip(pod: &Pod) -> Option<String> {
    pod.status.as_ref()?.pod_ip.clone()
}
