//! Tokens that are replaced while the agent runs: the old one is refused from that moment on.

use super::{
    cluster::{Cluster, slice, two_services},
    server::{SLICES, Server, Verb},
};
use balancer_agent::sources::kubernetes::client;
use serde_json::json;
use std::path::Path;

const A: &str = "shop/a:grpc";

fn write(path: &Path, server: &Server, user: &serde_json::Value) {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server.url.to_string()}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    // As kubelet and kubectl do: whoever reads it sees the old one or the new one.
    let new = path.with_extension("new");
    std::fs::write(&new, config.to_string()).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Goes through a rotation in which `replace` writes the token that is asked for next.
async fn rotate(user: serde_json::Value, replace: impl Fn(&Path, &Server, &str)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    let server = Server::start().await;
    replace(directory.path(), &server, "first");
    if !path.exists() {
        write(&path, &server, &user);
    }
    server.ask_for_token("first");
    let client = client(Some(&path)).await.unwrap();
    let mut cluster = Cluster::start_with(server, client, two_services);
    cluster.await_services(|it| it.count() == 2).await;
    cluster.server.await_asked(SLICES, Verb::Watch, 1).await;

    cluster.server.ask_for_token("second");
    cluster.server.apply(SLICES, slice("a", "a-2", &[5]));
    let refused = cluster.health.wait_for(|health| health.watches[1].errors > 0).await;
    let error = refused.watches[1].last_error.clone().unwrap();
    assert!(error.contains("(401 Unauthorized); hint: "), "{error}");
    replace(directory.path(), &cluster.server, "second");
    cluster.await_services(|it| it.backends(A).len() == 3).await;
    let health = cluster.health.wait_for(|health| health.watches[1].staleness_ms == 0).await;
    assert!(health.watches.iter().all(|watch| watch.lists <= 2), "{health:?}");
    assert_eq!(cluster.removed, [""; 0], "nothing was lost meanwhile");
}

#[tokio::test]
async fn a_token_in_a_file_of_its_own_is_read_again_when_it_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    let user = json!({"tokenFile": token.to_str().unwrap()});
    rotate(user, |_, _, next| std::fs::write(&token, next).unwrap()).await;
}

#[tokio::test]
async fn a_token_in_the_kubeconfig_is_read_again_when_it_is_refused() {
    rotate(json!({}), |directory, server, next| {
        write(&directory.join("kubeconfig"), server, &json!({"token": next}));
    })
    .await;
}

/// As a kubelet does it, which replaces a token long before its time is over.
#[tokio::test]
async fn a_token_that_was_replaced_in_time_is_never_missed() {
    let directory = tempfile::tempdir().unwrap();
    let (path, token) = (directory.path().join("kubeconfig"), directory.path().join("token"));
    let server = Server::start().await;
    std::fs::write(&token, "first").unwrap();
    write(&path, &server, &json!({"tokenFile": token.to_str().unwrap()}));
    server.ask_for_token("first");
    let client = client(Some(&path)).await.unwrap();
    let mut cluster = Cluster::start_with(server, client, two_services);
    cluster.await_services(|it| it.count() == 2).await;
    cluster.server.await_asked(SLICES, Verb::Watch, 1).await;

    // kube goes on sending the first one: it reads the file once a minute.
    std::fs::write(&token, "second").unwrap();
    cluster.server.ask_for_token("second");
    cluster.server.apply(SLICES, slice("a", "a-2", &[5]));
    cluster.await_services(|it| it.backends(A).len() == 3).await;
    let health = cluster.health.snapshot();
    for watch in &health.watches {
        let error = watch.last_error.as_deref().unwrap_or_default();
        assert!(!error.contains("401"), "{error}");
    }
    assert_eq!(cluster.removed, [""; 0], "nothing was lost meanwhile");
}
