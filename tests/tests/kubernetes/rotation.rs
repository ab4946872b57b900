//! Tokens that are revoked, or whose time is over, while the agent runs, as the real API server does it.

use crate::{
    rights::{ACCOUNT, KINDS, account, report, until_all_synced},
    scene::{SHOP, Scene},
};
use balancer_agent::sources::kubernetes::{Kind, KubernetesReport};
use balancer_tests::{
    agent::{Agent, write_config},
    cluster::objects,
    scrape::{free_address, sample},
};
use k8s_openapi::api::{
    authentication::v1::{
        BoundObjectReference, TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec,
    },
    core::v1::{Secret, Service, ServiceAccount},
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, interval};

/// The Secret that the first token lives as long as.
const SECRET: &str = "token-life";
/// Long enough for an agent to start and list everything.
const LIFE: Duration = Duration::from_secs(20);
/// The API server believes in a token for ten more seconds, once it has seen it (`tokenSuccessCacheTTL`).
const EXPIRY_MAX: Duration = Duration::from_mins(1);
/// How many times the patience of a test is waited for watches, whose pauses are longer.
const PATIENCES_MAX: u32 = 5;
/// The pause between two questions whether a token is taken, which the API server does not announce.
const ASK: Duration = Duration::from_millis(200);

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

/// A cluster and an agent of its own account, whose token's file a kubelet would keep.
struct Kept {
    scene: Scene,
    kubeconfig: PathBuf,
    metrics: SocketAddr,
}

impl Kept {
    fn new() -> Option<Self> {
        let scene = Scene::new("expiry", 3, json!({}))?;
        let kubeconfig = account(&scene, &KINDS);
        Some(Self { scene, kubeconfig, metrics: free_address().unwrap() })
    }

    fn replace(&self, token: &str) {
        replace(&self.kubeconfig.with_extension("token"), token);
    }

    /// An agent that knows the whole cluster by a token which has not long to live.
    fn agent(&self, pods: usize) -> (Agent<'_>, String) {
        let token = self.scene.cluster.brief_token(ACCOUNT.0, ACCOUNT.1, LIFE).unwrap();
        self.replace(&token);
        let config = Scene::config(&self.kubeconfig);
        let config = format!("{config}http: {{listen: \"{}\"}}\n", self.metrics);
        write_config(self.scene.cluster.world(), &config).unwrap();
        let agent = self.scene.agent_again();
        until_all_synced(&agent);
        self.scene.until_active(&agent, &self.scene.ready(pods));
        agent.until(|_| agent.log().contains("serving /metrics")).unwrap();
        (agent, token)
    }

    /// Waits until the API server does not take the token any more.
    fn until_expired(&self, token: &str) {
        let reviews: Api<TokenReview> = Api::all(self.scene.client());
        let spec = TokenReviewSpec { token: Some(token.into()), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        self.scene.cluster.run(async {
            let (deadline, mut ticks) = (Instant::now() + EXPIRY_MAX, interval(ASK));
            loop {
                ticks.tick().await;
                let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
                let status = answer.status.unwrap();
                if status.authenticated != Some(true) {
                    let error = status.error.unwrap();
                    assert!(error.contains("expired"), "{error}");
                    return;
                }
                assert!(Instant::now() < deadline, "the token lives on");
            }
        });
    }

    /// Makes a mistake in the Service, of which the agent tells by writing to the API server.
    fn declare_badly(&self, policy: &str) {
        let change = json!({"metadata": {"annotations": {"balancer.dev/policy": policy}}});
        let client = self.scene.client();
        self.scene.cluster.run(objects::patch::<Service>(&client, SHOP, &change)).unwrap();
    }

    /// Has every watch asked for anew.
    fn restart_api_server(&self) {
        self.scene.cluster.kill_api_server().unwrap();
        self.scene.cluster.restart_api_server().unwrap();
    }

    fn until_fresh(&self, agent: &Agent<'_>, pods: u32) {
        self.scene.scale(pods);
        self.scene.until_active(agent, &self.scene.ready(pods as usize));
        // After several refusals a watch waits for up to a minute before it asks again.
        let is_fresh =
            || agent.until(|it| report(it).watches.iter().all(|it| it.staleness_ms == 0));
        let fresh = (0..PATIENCES_MAX).map(|_| is_fresh()).find(Result::is_ok);
        assert!(fresh.is_some(), "{:?}", agent.status().unwrap());
    }

    fn sample(&self, metric: &str, kind: Kind) -> f64 {
        sample(self.metrics, &format!("{metric}{{kind=\"{}\"}}", kind.name())).unwrap()
    }
}

#[test]
fn a_token_whose_time_is_over() {
    let Some(kept) = Kept::new() else { return };
    let lasting = kept.scene.cluster.run(token(&kept.scene, None));

    // Replaced in time, as a kubelet does: nothing is refused, though the agent has used the first one.
    let (agent, brief) = kept.agent(3);
    kept.replace(&lasting);
    kept.until_expired(&brief);
    kept.declare_badly("nonsense");
    let told = agent.until(|it| report(it).events_written == 1).unwrap();
    assert_eq!(report(&told).events_failed, 0);
    kept.restart_api_server();
    kept.until_fresh(&agent, 4);
    for word in ["(401 ", "Unauthorized"] {
        assert!(!agent.log().contains(word), "{}", agent.log());
    }
    agent.terminate().unwrap();

    // Replaced too late. First a request by itself, then the watches.
    let (agent, brief) = kept.agent(4);
    kept.until_expired(&brief);
    kept.declare_badly("more nonsense");
    agent.until(|it| report(it).events_failed == 1).unwrap();
    let ready = kept.scene.ready(4);
    kept.restart_api_server();
    let refused = "(401 Unauthorized); hint: the API server does not take the agent's token";
    let is_refused = |error: &Option<String>| error.as_ref().is_some_and(|it| it.contains(refused));
    let all_refused = |report: &KubernetesReport| {
        // What Pods say of their end is told in words of its own.
        let told = report.watches.iter().filter(|it| it.kind != Kind::Farewells);
        told.into_iter().all(|it| is_refused(&it.last_error))
    };
    agent.until(|it| all_refused(&report(it))).unwrap();
    let table = kept.scene.ask(&["status"]).to_string();
    assert!(table.contains(refused), "{table}");
    for kind in Kind::OF_SERVICES.iter().chain(Kind::OF_PODS) {
        assert!(kept.sample("balancer_watch_errors_total", *kind) > 0.5);
        assert!(kept.sample("balancer_watch_staleness_seconds", *kind) > 0.0);
        assert!(kept.sample("balancer_watch_synced", *kind) > 0.5, "what is known stays");
    }
    let log = agent.log();
    for kind in Kind::OF_SERVICES.iter().chain(Kind::OF_PODS) {
        let of_kind = format!("kind=\"{}\"", kind.name());
        let told = |line: &&str| line.contains(&of_kind) && line.contains(refused);
        assert_eq!(log.lines().filter(told).count(), 1, "it is told once, of {kind:?}: {log}");
    }
    assert!(
        !log.contains("ERROR") && !log.contains("eof in poll"),
        "kube tells of every try: {log}"
    );
    assert_eq!(kept.scene.active().unwrap(), ready, "nothing is emptied");
    assert_eq!(kept.scene.reached(20), kept.scene.pods());

    kept.replace(&lasting);
    kept.until_fresh(&agent, 5);
    agent.terminate().unwrap();
}
