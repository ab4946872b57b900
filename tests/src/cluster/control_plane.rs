//! etcd, the API server and the controller manager, on loopback of the calling thread's namespace.

use super::{
    certificates::Certificates,
    kubeconfig::{self, Identity},
    server::Server,
    token,
    version::Version,
};
use anyhow::{Context, ensure};
use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::ServiceAccount,
    },
    apimachinery::pkg::version::Info,
};
use kube::{Api, Client, api::PostParams, runtime::wait::await_condition};
use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

/// Longest wait for the API server; it takes about five seconds, and shares the machine.
const READY_S_MAX: u64 = 120;
/// Pause between two questions whether the API server is ready, which it does not announce.
const ASK_MS: u64 = 100;
/// Services get their addresses from here.
const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:10:96::/112";
/// Those that make what the balancer reads, and those that make pods; none that needs a kubelet's
/// heartbeat.
const CONTROLLERS: [&str; 11] = [
    "daemonset-controller",
    "deployment-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
];

/// A running control plane. All of it ends when this is dropped, and its directory is removed.
pub struct ControlPlane {
    version: Version,
    directory: PathBuf,
    certificates: Certificates,
    api_server_port: u16,
    etcd_port: u16,
    client: Client,
    // Dropped in this order: nobody is left to complain about the one that is gone.
    controller_manager: Option<Server>,
    api_server: Option<Server>,
    etcd: Server,
}

impl ControlPlane {
    /// Starts one of `version` that writes only below `directory`, which must not exist yet, and
    /// waits until it is ready.
    ///
    /// # Errors
    /// When a server ends or does not get ready, with the last that it said.
    pub async fn start(version: Version, directory: &Path) -> anyhow::Result<Self> {
        let programs = version.programs()?;
        fs::create_dir(directory).with_context(|| format!("create {}", directory.display()))?;
        let (etcd_port, api_server_port) = free_ports()?;
        let certificates = Certificates::create(directory)?;
        let kubeconfig = directory.join("kubeconfig");
        let url = format!("https://127.0.0.1:{api_server_port}");
        kubeconfig::write(&kubeconfig, &url, &certificates, &Identity::Admin)?;
        let client = kubeconfig::client(&kubeconfig).await?;
        let etcd = Server::start(&programs.join("etcd"), &etcd_arguments(etcd_port), directory)?;
        let mut control_plane = Self {
            version,
            directory: directory.into(),
            certificates,
            api_server_port,
            etcd_port,
            client,
            controller_manager: None,
            api_server: None,
            etcd,
        };
        control_plane.restart_api_server().await?;
        control_plane.start_controller_manager().await?;
        Ok(control_plane)
    }

    /// Its release.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The file that lets a client do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// What the API server says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn server_version(&self) -> anyhow::Result<Info> {
        self.client.apiserver_version().await.context("ask for the version")
    }

    /// The process ids of all servers that run.
    pub fn pids(&self) -> Vec<u32> {
        let servers =
            [Some(&self.etcd), self.api_server.as_ref(), self.controller_manager.as_ref()];
        servers.into_iter().flatten().map(Server::pid).collect()
    }

    /// Ends the API server by SIGKILL. etcd keeps what it was told.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill_api_server(&mut self) -> anyhow::Result<()> {
        self.api_server.take().context("the API server is not running")?.kill()
    }

    /// Ends the controllers by SIGKILL: from then on no EndpointSlice changes.
    ///
    /// # Errors
    /// When they are not running.
    pub fn kill_controller_manager(&mut self) -> anyhow::Result<()> {
        self.controller_manager.take().context("the controllers are not running")?.kill()
    }

    /// Starts the API server again, at the same address, and waits until it is ready.
    ///
    /// # Errors
    /// When it is running, ends, or does not get ready in time.
    pub async fn restart_api_server(&mut self) -> anyhow::Result<()> {
        ensure!(self.api_server.is_none(), "the API server is running");
        let program = self.version.programs()?.join("kube-apiserver");
        self.api_server =
            Some(Server::start(&program, &self.api_server_arguments(), &self.directory)?);
        self.ready().await
    }

    /// A kubeconfig for exactly the rights of a service account, as a pod of it has them.
    ///
    /// # Errors
    /// When there is no such account.
    pub async fn account_kubeconfig(&self, namespace: &str, name: &str) -> anyhow::Result<PathBuf> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(3_600), ..Default::default() };
        let request = TokenRequest { spec, ..Default::default() };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("ask for a token of {namespace}/{name}"))?;
        let token = answer.status.context("a token request has an answer")?.token;
        let file = self.directory.join(format!("{namespace}.{name}.token"));
        fs::write(&file, token).with_context(|| format!("write {}", file.display()))?;
        let path = self.directory.join(format!("{namespace}.{name}.kubeconfig"));
        let url = format!("https://127.0.0.1:{}", self.api_server_port);
        kubeconfig::write(&path, &url, &self.certificates, &Identity::Token(&file))?;
        Ok(path)
    }

    /// A token of a service account that is taken for `life` from now on.
    ///
    /// # Errors
    /// When there is no such account.
    pub async fn brief_token(
        &self,
        namespace: &str,
        name: &str,
        life: Duration,
    ) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let account = accounts
            .get(name)
            .await
            .with_context(|| format!("look for the account {namespace}/{name}"))?;
        let uid = account.metadata.uid.context("an account has a UID")?;
        let key = fs::read_to_string(self.certificates.path("accounts.key"))?;
        token::brief(&key, (namespace, name, &uid), life)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(READY_S_MAX);
        let mut ticks = interval(Duration::from_millis(ASK_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.etcd.alive()?;
            let server = self.api_server.as_mut().context("the API server was started")?;
            server.alive()?;
            let request = http_get("/readyz?verbose")?;
            let asked = timeout_at(deadline, self.client.request_text(request)).await;
            let reason = match asked {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => format!("{error}"),
                Err(_) => "no answer".into(),
            };
            ensure!(
                Instant::now() < deadline,
                "the API server was not ready after {READY_S_MAX} s: {reason}\n{}",
                server.last_words()
            );
        }
    }

    /// The controllers tell that they work by what they do: here by the first service account.
    async fn start_controller_manager(&mut self) -> anyhow::Result<()> {
        let program = self.version.programs()?.join("kube-controller-manager");
        let arguments = self.controller_manager_arguments();
        let mut server = Server::start(&program, &arguments, &self.directory)?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), "default");
        let first = await_condition(accounts, "default", |account: Option<&ServiceAccount>| {
            account.is_some()
        });
        let waited = timeout(Duration::from_secs(READY_S_MAX), first).await;
        server.alive()?;
        waited
            .with_context(|| format!("the controllers do nothing:\n{}", server.last_words()))?
            .context("wait for the first service account")?;
        self.controller_manager = Some(server);
        Ok(())
    }

    fn api_server_arguments(&self) -> Vec<String> {
        let certificates = &self.certificates;
        let etcd = format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port);
        let port = format!("--secure-port={}", self.api_server_port);
        let ranges = format!("--service-cluster-ip-range={SERVICE_RANGES}");
        let fixed = [
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            // Pods need no token mounted: nothing in them asks the API server.
            "--disable-admission-plugins=ServiceAccount",
            // 127.0.0.1 would be refused as the address of the Service `kubernetes`.
            "--endpoint-reconciler-type=none",
            "--profiling=false",
        ];
        let mut arguments: Vec<String> = fixed.map(String::from).into();
        arguments.extend([etcd, port, ranges]);
        arguments.extend([
            certificates.argument("tls-cert-file", "server.pem"),
            certificates.argument("tls-private-key-file", "server.key"),
            certificates.argument("client-ca-file", "ca.pem"),
            certificates.argument("service-account-key-file", "accounts.pub"),
            certificates.argument("service-account-signing-key-file", "accounts.key"),
            format!("--cert-dir={}", self.directory.display()),
            format!("--service-account-issuer={}", token::ISSUER),
        ]);
        arguments
    }

    fn controller_manager_arguments(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.kubeconfig().display()),
            format!("--controllers={}", CONTROLLERS.join(",")),
            self.certificates.argument("root-ca-file", "ca.pem"),
            self.certificates.argument("service-account-private-key-file", "accounts.key"),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
            // A test waits for every one of its requests.
            "--kube-api-qps=500".into(),
            "--kube-api-burst=1000".into(),
        ]
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        drop(self.controller_manager.take());
        drop(self.api_server.take());
        let _ = self.etcd.kill();
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("remove {}: {error}", self.directory.display());
        }
    }
}

fn etcd_arguments(port: u16) -> Vec<String> {
    vec![
        "--data-dir=etcd".into(),
        format!("--listen-client-urls=http://127.0.0.1:{port}"),
        format!("--advertise-client-urls=http://127.0.0.1:{port}"),
        "--listen-peer-urls=http://127.0.0.1:0".into(),
        // What it holds is not to outlive the machine.
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]
}

/// Two ports that nobody listens on. In a namespace of one's own nobody else can take them.
fn free_ports() -> anyhow::Result<(u16, u16)> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("look for a free port");
    // Both at once, so that they differ.
    let (first, second) = (listen()?, listen()?);
    Ok((first.local_addr()?.port(), second.local_addr()?.port()))
}

fn http_get(path: &str) -> anyhow::Result<tonic::codegen::http::Request<Vec<u8>>> {
    tonic::codegen::http::Request::get(path).body(Vec::new()).context("build a request")
}
