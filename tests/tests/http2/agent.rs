//! The agent moves live connections: real clients in pods, each in a network namespace of its own.

use balancer_agent::datapath::{http2, maps::Maps};
use balancer_common::http2::flow::{Http2Flow, Visibility};
use balancer_tests::{
    capability, container,
    demo::{
        scale_up::moves::{moves, status, until_followed},
        stage::{Stage, VIP},
    },
    grpc::server::EchoServer,
    scrape,
};
use serde_json::Value;
use std::{
    ffi::OsString,
    path::Path,
    time::{Duration, Instant},
};

/// Longest wait for connections to be where a test wants them.
const PATIENCE: Duration = Duration::from_secs(20);
/// Clients, a pod and a connection each.
const CLIENTS: u32 = 6;

/// Plays with `servers` backends, an agent, and clients that are connected.
fn play(servers: u32, held: u32, test: impl AsyncFnOnce(&mut Stage)) {
    play_prepared(|_| (), servers, held, test);
}

/// The same, with something done to the stage before the agent starts.
fn play_prepared(
    prepare: impl FnOnce(&mut Stage),
    servers: u32,
    held: u32,
    test: impl AsyncFnOnce(&mut Stage),
) {
    if !capability::can_load_ebpf() {
        return;
    }
    // One thread: the network namespace belongs to the thread that makes it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let executable = Path::new(env!("CARGO_BIN_EXE_balancer-demo"));
        let mut stage = Stage::of_pods("moves", executable).unwrap();
        stage.held = held;
        prepare(&mut stage);
        for _ in 0..servers {
            stage.add_server().await.unwrap();
        }
        stage.files.configure(VIP, &stage.members(None)).unwrap();
        stage.agent = Some(stage.files.start().await.unwrap());
        let waiting = stage.start_clients(CLIENTS, &[VIP.into()]).await.unwrap();
        until_followed(&stage, CLIENTS.into()).await.unwrap();
        stage.dial(waiting).await.unwrap();
        test(&mut stage).await;
        stage.stop_clients().await.unwrap();
        assert!(stage.tally.replied() > 0);
        // hyper cancels the first request after any GOAWAY while another stream is open, a server's own one
        // included: its dispatcher finds out by that request. Quiet connections lose nothing.
        let failed_max = if held > 0 { u64::from(CLIENTS / servers) } else { 0 };
        assert!(stage.tally.failed() <= failed_max, "{:?}", stage.tally.failures);
    });
}

/// Waits until something holds: neither servers' counters nor maps raise events.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    until_or(what, || "", &mut holds).await;
}

/// The same, which tells more if it never does.
async fn until_or<T: std::fmt::Debug>(
    what: &str,
    more: impl Fn() -> T,
    mut holds: impl AsyncFnMut() -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    let mut look = tokio::time::interval(Duration::from_millis(20));
    loop {
        look.tick().await;
        if holds().await {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {:?}", more());
    }
}

fn live(stage: &Stage, name: &str) -> u64 {
    stage.connections_to(name)
}

fn flows(stage: &Stage) -> Vec<Http2Flow> {
    let maps = Maps::open_loaded(stage.world.pins()).unwrap();
    maps.read_http2_flows().unwrap().into_values().map(|(_, flow)| flow).collect()
}

fn count(stage: &Stage, visibility: Visibility) -> usize {
    flows(stage).iter().filter(|flow| flow.visibility() == visibility).count()
}

/// The value of a series of the agent's metrics, if it is there.
fn sample(stage: &Stage, series: &str) -> Option<String> {
    let (_, text) = scrape::get(stage.files.metrics.unwrap(), "/metrics").unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map(str::to_owned)
}

async fn ask(stage: &Stage, arguments: &[&str]) -> (bool, String) {
    stage.files.ask(arguments).await.unwrap()
}

#[test]
fn connections_follow_a_new_backend_and_leave_one_that_a_user_drains() {
    play(2, 0, async |stage: &mut Stage| {
        stage.add_server().await.unwrap();
        stage.files.configure(VIP, &stage.members(None)).unwrap();
        until("the new backend gets a third", async || {
            (1..=3).all(|number| live(stage, &format!("b{number}")) == 2)
        })
        .await;
        until("the agent sees that both moves were made", async || {
            moves(stage).await.unwrap().made == 2
        })
        .await;
        assert_eq!(moves(stage).await.unwrap().begun, 2, "not one move too many");

        let backend = stage.servers[0].address().to_string();
        let (well, text) = ask(stage, &["drain", &backend]).await;
        assert!(well && text.contains("2 move elsewhere"), "{text}");
        until("the drained backend is left", async || live(stage, "b1") == 0).await;
        let requests = stage.servers[0].requests();
        let (well, text) = ask(stage, &["drain", &backend]).await;
        assert!(well && text.contains("is drained already"), "{text}");

        // It stays so when the agent is started again.
        stage.agent.take().unwrap().kill().await.unwrap();
        stage.agent = Some(stage.files.start().await.unwrap());
        stage.add_clients(2, &[VIP.into()]).await.unwrap();
        assert_eq!((live(stage, "b1"), stage.servers[0].requests()), (0, requests));
        let (well, text) = ask(stage, &["drain", &backend, "--undo"]).await;
        assert!(well && text.contains("is back in service"), "{text}");
        until("it is back", async || live(stage, "b1") > 0).await;
    });
}

/// What stands before the agent's command, so that it has the capabilities and the system calls that the
/// DaemonSet leaves it, in the node's file system. It writes where the tests have its files, and to bpffs.
fn confinement(stage: &Stage) -> Vec<OsString> {
    let files = stage.world.runtime();
    let place = |path: &Path, read_only, recursive| container::Mount {
        from: path.into(),
        to: path.into(),
        read_only,
        recursive,
    };
    let root = files.join("root");
    std::fs::create_dir(&root).unwrap();
    let plan = container::Plan {
        root,
        mounts: vec![place(Path::new("/"), true, true), place(files, false, false)],
        confinement: container::Confinement::of_manifest().unwrap(),
        command: Vec::new(),
    };
    let plan = serde_json::to_string(&plan).unwrap();
    vec![container::binary().unwrap().into(), plan.into()]
}

#[test]
fn what_the_manifest_allows_suffices_to_move_connections() {
    play_prepared(
        |stage| stage.files.through = confinement(stage),
        2,
        1,
        async |stage| {
            let agent = stage.agent.as_ref().unwrap().pid().unwrap();
            let status = std::fs::read_to_string(format!("/proc/{agent}/status")).unwrap();
            let has = |line: &str| status.lines().any(|other| other == line);
            assert!(has("Seccomp:\t2") && !has("CapEff:\t000001ffffffffff"), "{status}");
            let backend = stage.servers[0].address().to_string();
            assert!(ask(stage, &["drain", &backend]).await.0);
            until("clients go elsewhere", async || count(stage, Visibility::Moved) == 3).await;
            stage.agent.take().unwrap().kill().await.unwrap();
            stage.agent = Some(stage.files.start().await.unwrap());
            assert_eq!(count(stage, Visibility::Moved), 3, "the next agent knows them");
        },
    );
}

#[test]
fn moves_are_counted_for_their_service_until_it_goes() {
    const BEGUN: &str = "balancer_http2_moves_begun_total{service=\"echo\",cause=\"leaving\"}";
    const MADE: &str = "balancer_http2_moves_ended_total{service=\"echo\",result=\"made\"}";
    const VISIBLE: &str = "balancer_http2_connections{service=\"echo\",state=\"visible\"}";
    const STUBBORN: &str = "balancer_http2_stubborn_connections{service=\"echo\"}";
    let serve = |stage: &mut Stage| stage.files.metrics = Some(scrape::free_address().unwrap());
    play_prepared(serve, 2, 0, async |stage: &mut Stage| {
        let told = |stage: &Stage, series: [&str; 4]| {
            series.map(|series| sample(stage, series).and_then(|value| value.parse::<u64>().ok()))
        };
        let all = [BEGUN, MADE, VISIBLE, STUBBORN];
        let tell = || told(stage, all);
        let before = [Some(0), Some(0), Some(6), Some(0)];
        until_or("each is counted from its first connection on", tell, async || tell() == before)
            .await;
        let backend = stage.servers[0].address().to_string();
        assert!(ask(stage, &["drain", &backend]).await.0);
        let after = [Some(3), Some(3), Some(6), Some(0)];
        until_or("all of its moves are counted", tell, async || tell() == after).await;
        let (well, text) = ask(stage, &["top", "--once", "--interval", "100ms"]).await;
        assert!(well && text.contains("ECHO\n3 moves begun, 3 made, 0 given up\n"), "{text}");

        stage.files.configure_nothing().unwrap();
        assert!(ask(stage, &["reload"]).await.0);
        until_or("its series end with it", tell, async || tell() == [None; 4]).await;
        let of_now = async |stage: &Stage| {
            let status = status(stage).await.unwrap();
            [&status["connections"], &status["services"]].map(Value::to_string)
        };
        until("its account is closed", async || of_now(stage).await == ["{}", "{}"]).await;
        assert_eq!(moves(stage).await.unwrap().made, 3, "those of the node are kept");
    });
}

#[test]
fn a_user_sees_connections_and_what_would_be_moved() {
    play(2, 1, async |stage: &mut Stage| {
        let seen = || flows(stage);
        until_or("all frames are seen", seen, async || {
            count(stage, Visibility::Visible) == CLIENTS as usize
        })
        .await;
        let (well, text) = ask(stage, &["connections", "--output", "json"]).await;
        let report: Value = serde_json::from_str(&text).unwrap();
        let rows = report["connections"].as_array().unwrap();
        assert!(well && rows.len() == CLIENTS as usize);
        for row in rows {
            assert_eq!(row["http2"]["state"], "visible", "{row}");
            assert!(row["http2"]["in_flight"].as_u64().unwrap() >= 1, "a stream is held: {row}");
        }
        let (well, text) = ask(stage, &["rebalance", "echo", "--dry-run"]).await;
        assert!(well && text.contains("balanced: none of 6 connections"), "{text}");
        let (well, text) = ask(stage, &["rebalance", "ecko"]).await;
        assert!(!well && text.contains("no service `ecko`"), "{text}");
        let (well, text) = ask(stage, &["drain", "192.0.2.1:1"]).await;
        assert!(!well && text.contains("no backend `192.0.2.1:1`"), "{text}");
        let [one, two] = [0, 1].map(|at: usize| stage.servers[at].address().to_string());
        assert!(ask(stage, &["drain", &one]).await.0);
        let (well, text) = ask(stage, &["drain", &two]).await;
        assert!(!well && text.contains("only backend of `echo`"), "{text}");
        until("clients go elsewhere, and their held streams stay", async || {
            count(stage, Visibility::Moved) == 3 && live(stage, "b2") == 6
        })
        .await;
        assert_eq!(live(stage, "b1"), 3);
    });
}

#[test]
fn connections_that_are_never_quiet_stay_where_a_service_wants_quiet_moments_only() {
    play(2, 1, async |stage: &mut Stage| {
        stage.files.move_patience = "off";
        stage.files.configure(VIP, &stage.members(None)).unwrap();
        assert!(ask(stage, &["reload"]).await.0);
        let backend = stage.servers[0].address().to_string();
        assert!(ask(stage, &["drain", &backend]).await.0);
        let asked = |stage: &Stage| flows(stage).iter().filter(|it| it.is_asked_to_move()).count();
        until("all of its connections are asked", async || asked(stage) == 3).await;
        // Many times the patience that would be the default.
        let requests = |stage: &Stage| stage.servers.iter().map(EchoServer::requests).sum::<u64>();
        let begun = requests(stage);
        until("calls go on", async || requests(stage) > begun + 1_000).await;
        assert_eq!((asked(stage), count(stage, Visibility::Moved)), (3, 0));
        assert_eq!(stage.tally.failed(), 0);
        // Another agent, with none at all.
        stage.agent.take().unwrap().kill().await.unwrap();
        stage.files.move_patience = "0ms";
        stage.files.configure(VIP, &stage.members(None)).unwrap();
        stage.agent = Some(stage.files.start().await.unwrap());
        until("clients go elsewhere", async || count(stage, Visibility::Moved) == 3).await;
    });
}

#[test]
fn moved_connections_outlive_agents_and_other_limits_and_unload_waits_for_them() {
    outlive(false);
}

#[test]
fn moved_connections_outlive_agents_where_filters_lead_to_the_programs() {
    outlive(true);
}

/// With `clsact`, interfaces lead to the programs as on kernels before 6.6.
fn outlive(clsact: bool) {
    play_prepared(
        |stage| stage.files.clsact = clsact,
        2,
        1,
        async |stage: &mut Stage| {
            let pinned = |stage: &Stage| {
                let pins = std::fs::read_dir(stage.world.pins().taps()).unwrap();
                let names = pins.map(|pin| pin.unwrap().file_name().into_string().unwrap());
                names.collect::<std::collections::BTreeSet<_>>()
            };
            let first = pinned(stage);
            assert_eq!(first.len(), 2 * CLIENTS as usize, "{first:?}");
            assert!(first.iter().all(|name| name.ends_with("filter") == clsact), "{first:?}");
            let backend = stage.servers[0].address().to_string();
            assert!(ask(stage, &["drain", &backend]).await.0);
            until("clients go elsewhere", async || count(stage, Visibility::Moved) == 3).await;
            for limit in [64, 128, 64] {
                stage.agent.take().unwrap().kill().await.unwrap();
                stage.files.configure_limited(VIP, &stage.members(None), limit).unwrap();
                stage.agent = Some(stage.files.start().await.unwrap());
                assert_eq!(count(stage, Visibility::Moved), 3, "with a limit of {limit}");
                let seen: u64 = stage.servers.iter().map(EchoServer::requests).sum();
                until("calls go on", async || {
                    stage.servers.iter().map(EchoServer::requests).sum::<u64>() > seen + 60
                })
                .await;
                assert_eq!(live(stage, "b1"), 3, "held streams stay");
                assert_eq!(pinned(stage), first, "a new agent finds interfaces as they are");
            }
            until_followed(stage, CLIENTS.into()).await.unwrap();
            stage.agent.take().unwrap().kill().await.unwrap();
            let (well, text) = ask(stage, &["unload", "--timeout", "300ms"]).await;
            assert!(
                !well && text.contains("3 connections that were moved are still open"),
                "{text}"
            );
            for _ in 0..CLIENTS {
                stage.stop_client().await.unwrap();
            }
            let (well, text) = ask(stage, &["unload"]).await;
            assert!(well && text.contains("removed all programs"), "{text}");
            assert_eq!(http2::taps(stage.world.pins()), 0);
        },
    );
}
