//! Tokens that are revoked while the agent runs, as the real API server does it.

use crate::{
    rights::{ACCOUNT, KINDS, account, report, until_all_synced},
    scene::Scene,
};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Secret, ServiceAccount},
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use std::path::Path;

/// The Secret that the first token lives as long as.
const SECRET: &str = "token-life";

/// A token of the agent's account; one that is bound to a Secret ends with it.
async fn token(scene: &Scene, secret: Option<&str>) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(scene.client(), ACCOUNT.0);
    let bound_object_ref = secret.map(|name| BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Secret".into()),
        name: Some(name.into()),
        uid: None,
    });
    let spec = TokenRequestSpec {
        expiration_seconds: Some(3_600),
        bound_object_ref,
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let parameters = PostParams::default();
    let answer = accounts.create_token_request(ACCOUNT.1, &parameters, &request).await.unwrap();
    answer.status.unwrap().token
}

/// As kubelet replaces it: whoever reads it sees the old one or the new one.
fn replace(file: &Path, token: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, token).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[test]
fn a_revoked_token_empties_nothing_and_the_next_one_is_found() {
    let Some(scene) = Scene::new("rotation", 3, json!({})) else { return };
    let kubeconfig = account(&scene, &KINDS);
    let file = kubeconfig.with_extension("token");
    assert!(file.is_file(), "{}", file.display());
    let secrets: Api<Secret> = Api::namespaced(scene.client(), ACCOUNT.0);
    let first = scene.cluster.run(async {
        let secret = serde_json::from_value(json!({"metadata": {"name": SECRET}})).unwrap();
        secrets.create(&PostParams::default(), &secret).await.unwrap();
        token(&scene, Some(SECRET)).await
    });
    replace(&file, &first);
    let agent = scene.agent_as(&kubeconfig);
    until_all_synced(&agent);
    let ready = scene.ready(3);
    scene.until_active(&agent, &ready);

    scene.cluster.run(secrets.delete(SECRET, &DeleteParams::default())).unwrap();
    // A watch goes on with the token that it began with: the next request is what is refused.
    scene.cluster.kill_api_server().unwrap();
    scene.cluster.restart_api_server().unwrap();
    let is_refused = |error: &Option<String>| error.as_ref().is_some_and(|it| it.contains("(401 "));
    agent.until(|it| report(it).watches.iter().any(|it| is_refused(&it.last_error))).unwrap();
    assert_eq!(scene.active().unwrap(), ready, "nothing is emptied");

    let second = scene.cluster.run(token(&scene, None));
    assert_ne!(first, second);
    replace(&file, &second);
    scene.scale(4);
    scene.until_active(&agent, &scene.ready(4));
    agent.until(|it| report(it).watches.iter().all(|it| it.staleness_ms == 0)).unwrap();
}
