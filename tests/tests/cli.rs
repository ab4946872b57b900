//! Every command of the agent's binary on a real kernel: with the daemon up, killed, and unloaded.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "cli/agent.rs"]
mod agent;
#[path = "cli/mount.rs"]
mod mount;
#[path = "cli/others.rs"]
mod others;
#[path = "cli/pods.rs"]
mod pods;

use agent::{Agent, command, run};
use balancer_agent::datapath::maps::Maps;
use balancer_tests::{
    agent::config_path, backend::Backend, capability, dialer::Dialer, world::World,
};
use nix::unistd::pipe;
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    process::{Child, Stdio},
};

const PAYMENTS: &str = "10.96.0.1:80";
const SEARCH: &str = "10.96.0.2:80";

struct Scene {
    pod: Dialer,
    pod_path: String,
    backends: Vec<Backend>,
    config: String,
    world: World,
}

impl Scene {
    fn new(purpose: &str) -> Self {
        let world = World::new(purpose).unwrap();
        let start = |_| Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let backends: Vec<_> = (0..5).map(start).collect();
        let list = |backends: &[Backend]| {
            let addresses: Vec<_> = backends.iter().map(|it| it.address().to_string()).collect();
            addresses.join(", ")
        };
        let config = format!(
            "version: 1\n\
             limits: {{services: 16, backends: 64, frontends: 16, slots: 4096, connections: 256}}\n\
             services:\n\
             - {{name: payments, frontends: [{PAYMENTS}], backends: [{}]}}\n\
             - {{name: search, frontends: [{SEARCH}], backends: [{}], policy: round-robin}}\n",
            list(&backends[..2]),
            list(&backends[2..]),
        );
        let directory = world.pod("shop").unwrap();
        Self {
            pod: Dialer::start(&directory).unwrap(),
            pod_path: directory.to_str().unwrap().to_owned(),
            backends,
            config,
            world,
        }
    }

    fn dial(&self, frontend: &str) -> SocketAddr {
        let dialled = self.pod.dial(frontend.parse().unwrap()).unwrap();
        dialled.reached.expect("the connection is made")
    }

    /// Runs a command in both output modes; returns its JSON.
    fn both(&self, line: &str, code: i32, expected: &[&str]) -> Value {
        let table = run(&self.world, line);
        assert_eq!(table.code, code, "{line}");
        for text in expected {
            assert!(table.stdout.contains(text), "`{text}` is not in: {line}");
        }
        let json = run(&self.world, &format!("{line} --output json"));
        assert_eq!(json.code, code, "{line}");
        json.json()
    }

    fn fails(&self, line: &str, code: i32, expected: &[&str]) {
        let outcome = run(&self.world, line);
        assert_eq!(outcome.code, code, "{line}");
        assert_eq!(outcome.stdout, "", "errors go to standard error: {line}");
        for text in expected {
            assert!(outcome.stderr.contains(text), "`{text}` is not in: {line}");
        }
    }

    /// What the pod's next connections get is what was foretold.
    fn explain_and_dial(&self) {
        let pod = &self.pod_path;
        for (service, frontend) in [("payments", PAYMENTS), ("search", SEARCH)].repeat(3) {
            let json =
                self.both(&format!("explain {pod} {service}"), 0, &["CANDIDATES", "(picked)"]);
            let foretold = json["backend"].as_str().unwrap().parse();
            assert_eq!(self.dial(frontend), foretold.unwrap());
        }
        let json = self.both(&format!("explain {pod} {PAYMENTS}"), 0, &["(picked)"]);
        assert_eq!(json["service"], "payments");
        let json = self.both(&format!("explain {pod} 10.96.0.9:80"), 1, &["left untouched"]);
        assert_eq!(json["reason"], "not-frontend");
        let own = format!("explain --pid {} payments", std::process::id());
        let json = self.both(&own, 1, &["does not hold the pod"]);
        assert_eq!(json["reason"], "not-covered");
    }

    /// The views that need the maps only.
    fn look(&self, connections_to_payments: usize) {
        let json = self.both("services", 0, &["payments", "least-request", "2 active"]);
        let services = json["services"].as_array().unwrap();
        let names: Vec<_> = services.iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["payments", "search"]);
        assert_eq!(services[0]["connections"], connections_to_payments);
        assert_eq!(services[0]["frontends"][0], PAYMENTS);
        let json = self.both("services search", 0, &["round-robin"]);
        assert_eq!(json["services"][0]["backends_active"], 3);
        let json = self.both("backends payments", 0, &["active"]);
        let backends = json["backends"].as_array().unwrap();
        let active = |it: &Value| it["connections"].as_u64().unwrap();
        let sum: u64 = backends.iter().map(active).sum();
        assert_eq!((backends.len(), sum), (2, connections_to_payments as u64));
        let json =
            self.both("connections --service payments --limit 1", 0, &["--limit prints more"]);
        assert_eq!(json["total"], connections_to_payments);
        assert_eq!(json["connections"][0]["state"], "established");
        let path = json["connections"][0]["pod"]["path"].as_str().unwrap();
        assert!(self.pod_path.ends_with(path), "{path}");
        let first = self.backends[0].address();
        let json =
            self.both(&format!("connections --backend {first} --pod {path}"), 0, &["payments"]);
        let listens = |it: &&Value| it["address"] == first.to_string();
        let row = backends.iter().find(listens).unwrap();
        assert_eq!(json["total"], active(row));
    }

    /// Starts a trace and waits until the kernel is told to trace.
    fn start_trace(&self, flags: &str) -> Child {
        let line = format!("trace {flags} --timeout 30s --output json");
        let child = command(&self.world, &line).spawn().unwrap();
        self.await_tracing(true);
        child
    }

    fn await_tracing(&self, on: bool) {
        let maps = Maps::open_loaded(self.world.pins()).unwrap();
        while (maps.settings.get(&0, 0).unwrap().0.trace_until_ns != 0) != on {
            std::thread::yield_now();
        }
    }

    fn trace(&self) {
        let tracing = self.start_trace("--count 2 --service payments --reason picked");
        self.fails("trace --count 1", 2, &["another `trace` is running", "hint"]);
        self.dial(SEARCH);
        let reached = [self.dial(PAYMENTS), self.dial(PAYMENTS)];
        let outcome: agent::Outcome = tracing.wait_with_output().unwrap().try_into().unwrap();
        println!("{}", outcome.stdout);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let events: Vec<Value> =
            outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(events.len(), 2);
        for (event, reached) in events.iter().zip(reached) {
            assert_eq!(event["service"], "payments");
            assert_eq!(event["effect"], "balanced");
            assert_eq!(event["frontend"], PAYMENTS);
            assert_eq!(event["backend"], reached.to_string());
        }
        self.await_tracing(false);
        let quiet = run(&self.world, "trace --timeout 20ms --reason timed-out");
        assert_eq!((quiet.code, quiet.stdout.as_str()), (0, ""));
        self.await_tracing(false);
    }
}

#[test]
fn commands_work_with_the_daemon_up_killed_and_unloaded() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("cli");
    let agent = Agent::start(&scene.world, &scene.config).unwrap();
    for _ in 0..4 {
        scene.dial(PAYMENTS);
    }
    let json = scene.both("status", 0, &["healthy", "self-test", "passed", "connect4"]);
    assert_eq!(json["agent"]["pid"], agent.id());
    assert_eq!(json["counts"]["services"], 2);
    assert_eq!(json["counts"]["connections"], 4);
    assert_eq!(json["agent"]["differences"], serde_json::json!([]));
    assert!(
        json["datapath"]["hooks"].as_array().unwrap().iter().all(|hook| hook["attached"] == true)
    );
    scene.look(4);
    scene.explain_and_dial();
    scene.trace();
    let json = scene.both("check", 0, &["verifier", "0 failures"]);
    assert_eq!(json["passed"], true);
    scene.fails("unload", 2, &["already manages", "hint"]);
    configuration(&scene);

    agent.kill();
    let json = scene.both("status", 1, &["agent down, programs still balancing"]);
    assert_eq!(json["agent"], Value::Null);
    assert_eq!(json["counts"]["services"], 2);
    scene.look(9);
    scene.explain_and_dial();
    scene.trace();
    scene.both("check", 0, &["does not run"]);
    scene.fails("reload", 2, &["no agent answers", "hint"]);
    scene.fails("config --show", 2, &["no agent answers", "hint"]);

    assert_eq!(scene.both("unload", 0, &["removed all"])["removed"], false);
    let json = scene.both("status", 1, &["nothing of balancer is loaded", "hint"]);
    assert_eq!(json["healthy"], false);
    for line in ["services", "backends", "connections", "trace", "explain 1 payments"] {
        scene.fails(line, 2, &["nothing of balancer is loaded", "hint"]);
    }
}

/// `config` and `reload`, with a file that goes bad.
fn configuration(scene: &Scene) {
    let file = config_path(&scene.world);
    let line = format!("config --check {}", file.display());
    assert_eq!(scene.both(&line, 0, &["valid, 2 services"])["services"], 2);
    assert_eq!(scene.both("config --show", 0, &["in force"])["path"], file.to_str().unwrap());
    assert_eq!(scene.both("reload", 0, &["has not changed"])["changed"], false);
    let example = run(&scene.world, "config --example");
    fs::write(scene.world.runtime().join("example.yaml"), &example.stdout).unwrap();
    let line = format!("config --check {}/example.yaml", scene.world.runtime().display());
    scene.both(&line, 0, &["valid, 3 services"]);
    scene.fails("config --check /no/such/file", 2, &["read `/no/such/file`"]);

    fs::write(&file, format!("{}nodes: {{}}\n", scene.config)).unwrap();
    let line = format!("config --check {}", file.display());
    assert_eq!(scene.both(&line, 1, &["nodes", "hint"])["valid"], false);
    scene.fails("reload", 2, &["nodes", "hint"]);
    scene.both("config --show", 1, &["refused", "nodes"]);
    let json = scene.both("status", 1, &["NOT HEALTHY", "the configuration file is refused"]);
    assert_eq!(json["agent"]["problems"], serde_json::json!([]));
    fs::write(&file, &scene.config).unwrap();
    run(&scene.world, "reload");
    scene.both("status", 0, &["healthy"]);
}

#[test]
fn mistakes_get_one_clear_error() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("cli-mistakes");
    let _agent = Agent::start(&scene.world, &scene.config).unwrap();
    scene.fails("services paymets", 2, &["no service `paymets`", "is `payments` meant?"]);
    scene.fails("backends x", 2, &["no service `x`", "`payments`, `search`"]);
    scene.fails("connections --backend 127.0.0.9:1", 2, &["no backend `127.0.0.9:1`", "hint"]);
    scene.fails("connections --pod /no/such", 2, &["no cgroup v2 directory", "hint"]);
    scene.fails("explain pid:x payments", 2, &["no process id", "hint"]);
    scene.fails("trace --service y", 2, &["no service `y`"]);
    for line in
        ["", "statsu", "trace --reason bored", "trace --count 0", "config", "services --output xml"]
    {
        scene.fails(line, 64, &["For more information, try '--help'"]);
    }
    assert_eq!(run(&scene.world, "--help").code, 0);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("cli-pipe");
    let _agent = Agent::start(&scene.world, &scene.config).unwrap();
    for line in ["status", "services --output json", "check", "config --example"] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut command = command(&scene.world, line);
        let output = command.stdout(Stdio::from(writer)).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}
