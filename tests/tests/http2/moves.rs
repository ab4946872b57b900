//! Real gRPC over a pair of interfaces between two network namespaces: clients move, and no call fails.

use balancer_agent::datapath::{
    bpffs::PinRoot,
    http2::{self, Attachment},
};
use balancer_common::http2::{
    Http2Request,
    flow::{Http2Flow, Http2Key},
    gate::{ACKED, CLOSED, INJECTED, WANTED},
};
use balancer_tests::{
    capability,
    fixture::{Fixture, service::ServiceSpec},
    grpc::{
        load::{LoadPlan, Tally},
        pod::PodCommand,
        process::PodProcess,
        server::EchoServer,
    },
    world::run,
};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::mpsc,
    time::{Duration, Instant},
};

const MOVES: u64 = 20;
/// Calls between two moves.
const CALLS: u64 = 40;
/// Calls at a time.
const STREAMS: [u32; 2] = [1, 4];
/// Longest wait for a client to follow.
const FOLLOW_S_MAX: u64 = 20;

/// The addresses of one family: of the servers, of the client, and what it dials.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) servers: [&'static str; 2],
    client: &'static str,
    pub(super) frontend: &'static str,
}

pub(super) const FAMILIES: [Family; 2] = [
    Family {
        name: "IPv4",
        servers: ["10.77.0.1", "10.77.0.2"],
        client: "10.77.0.9",
        frontend: "10.96.0.1:80",
    },
    Family {
        name: "IPv6",
        servers: ["fd77::1", "fd77::2"],
        client: "fd77::9",
        frontend: "[fd96::1]:80",
    },
];

fn flows(fixture: &mut Fixture) -> Vec<(Http2Key, Http2Flow)> {
    let flows = fixture.maps().http2_flows.iter().filter_map(Result::ok);
    flows.map(|(key, flow)| (key.0, flow.0)).collect()
}

fn length(family: &Family) -> u8 {
    if family.client.contains(':') { 64 } else { 24 }
}

/// Makes a pair of interfaces, one of which a pod will get.
pub(super) fn pair(family: &Family) {
    run("ip", &["link", "add", "pod", "type", "veth", "peer", "name", "eth0"]).unwrap();
    for server in family.servers {
        add_address(&format!("{server}/{}", length(family)), "pod");
    }
    run("ip", &["link", "set", "pod", "up"]).unwrap();
}

fn add_address(address: &str, interface: &str) {
    let mut arguments = vec!["address", "add", address, "dev", interface];
    if address.contains(':') {
        // Without duplicate address detection, which would delay the first use.
        arguments.push("nodad");
    }
    run("ip", &arguments).unwrap();
}

/// Runs `act` in a network namespace of its own, to which `eth0` is given.
pub(super) fn in_pod<T: Send>(family: &Family, act: impl FnOnce() -> T + Send) -> T {
    let (told, tid) = mpsc::channel();
    let (ready, begin) = mpsc::channel();
    std::thread::scope(|scope| {
        let pod = scope.spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            told.send(gettid().to_string()).unwrap();
            let address: String = begin.recv().unwrap();
            add_address(&address, "eth0");
            run("ip", &["link", "set", "eth0", "up"]).unwrap();
            act()
        });
        run("ip", &["link", "set", "eth0", "netns", &tid.recv().unwrap()]).unwrap();
        ready.send(format!("{}/{}", family.client, length(family))).unwrap();
        pod.join().unwrap()
    })
}

/// How many filters are on the calling thread's `eth0`, for packets that come and that go.
fn filters() -> [usize; 2] {
    ["ingress", "egress"].map(|way| {
        let shown =
            Command::new("tc").args(["filter", "show", "dev", "eth0", way]).output().unwrap();
        // Without clsact, tc has nothing to say of either.
        let text = String::from_utf8(shown.stdout).unwrap();
        text.lines().filter(|line| line.contains("http2_entry")).count()
    })
}

/// Moves the client's connection again and again; each time it must come back on another.
fn keep_moving(fixture: &mut Fixture, servers: &[EchoServer]) {
    let calls = || servers.iter().map(EchoServer::requests).sum::<u64>();
    for done in 0..MOVES {
        let deadline = Instant::now() + Duration::from_secs(FOLLOW_S_MAX);
        let enough = calls() + CALLS;
        while calls() < enough {
            assert!(Instant::now() < deadline, "no calls after {done} moves");
            std::thread::yield_now();
        }
        let (key, flow) = loop {
            let live = flows(fixture);
            let live = live.into_iter().find(|(_, flow)| flow.gate & (CLOSED | INJECTED) == 0);
            if let Some(live) = live {
                break live;
            }
            assert!(Instant::now() < deadline, "no connection after {done} moves");
            std::thread::yield_now();
        };
        let request = Http2Request { key, cookie: flow.cookie, wanted: WANTED };
        assert!(http2::request(fixture.loaded(), &request).unwrap());
        while servers.iter().map(EchoServer::accepted).sum::<u64>() < done + 2 {
            let all = flows(fixture);
            let flow = all.iter().find(|(_, other)| other.cookie == flow.cookie);
            assert!(Instant::now() < deadline, "move {done} was not followed: {flow:?}");
            std::thread::yield_now();
        }
    }
}

/// The pod's namespace is gone, or will be in a moment: nothing stays pinned for its interface.
fn forget(pins: &PinRoot, attachment: Attachment) {
    if attachment == Attachment::Filter {
        http2::sweep(pins, None).unwrap();
        assert_eq!(http2::taps(pins), 2, "nobody has said that the namespace is gone");
    }
    let deadline = Instant::now() + Duration::from_secs(FOLLOW_S_MAX);
    while http2::taps(pins) > 0 {
        http2::sweep(pins, Some(&BTreeSet::new())).unwrap();
        assert!(Instant::now() < deadline, "{} pins stay", http2::taps(pins));
        std::thread::yield_now();
    }
}

async fn load(
    pod: &Path,
    target: SocketAddr,
    streams: u32,
    log: &Path,
    go: impl FnOnce(),
) -> Tally {
    let plan = LoadPlan {
        target,
        connections: 1,
        streams,
        rate: Some(400),
        payload_bytes: 1_000,
        held: 0,
    };
    let command = PodCommand::Client { pod: Some(pod.to_owned()), netns: None, plan };
    let executable = Path::new(env!("CARGO_BIN_EXE_balancer-demo"));
    let mut client = PodProcess::start("moving", executable, &command, log).await.unwrap();
    client.dial().await.unwrap();
    client.connected().await.unwrap();
    go();
    client.stop().await.unwrap()
}

/// Waits until no server waits for the last acknowledgement of its end: the client's kernel gives that
/// without a socket, and it has to be brought back to the server's numbers all the same.
fn await_ends() {
    const LAST_ACK: &str = "09";
    let deadline = Instant::now() + Duration::from_secs(FOLLOW_S_MAX);
    let waiting = || {
        let tables = ["tcp", "tcp6"].map(|name| format!("/proc/thread-self/net/{name}"));
        let text = tables.map(|table| fs::read_to_string(table).unwrap()).concat();
        text.lines().filter(|line| line.split_whitespace().nth(3) == Some(LAST_ACK)).count()
    };
    while waiting() > 0 {
        assert!(Instant::now() < deadline, "{} connections do not come to their end", waiting());
        std::thread::yield_now();
    }
}

#[test]
fn a_client_moves_and_no_call_fails() {
    if !capability::can_load_ebpf() {
        return;
    }
    let calm = FAMILIES.iter().map(|family| (family, STREAMS[0], Attachment::Filter));
    let all = FAMILIES.iter().flat_map(|family| STREAMS.map(|it| (family, it, Attachment::Best)));
    for (family, streams, attachment) in all.chain(calm) {
        let mut fixture = Fixture::new("http2-move").unwrap();
        http2::install(fixture.loaded(), fixture.world().pins()).unwrap();
        pair(family);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let servers = family.servers.map(|server| {
            let address = SocketAddr::new(server.parse().unwrap(), 50_051);
            runtime.block_on(EchoServer::start(server, address)).unwrap()
        });
        let frontend = family.frontend.parse().unwrap();
        let backends = servers.iter().map(EchoServer::address);
        let spec = ServiceSpec { http2: true, ..ServiceSpec::new(frontend, backends) };
        fixture.serve(spec).unwrap();
        let tally = in_pod(family, || {
            let pins = fixture.world().pins();
            // Twice is as good as once.
            for _ in 0..2 {
                http2::tap(pins, "eth0", attachment).unwrap();
                let expected = if attachment == Attachment::Filter { [1, 1] } else { [0, 0] };
                assert_eq!(filters(), expected);
            }
            let pod = fixture.world().pod("pod").unwrap();
            let log = fixture.world().runtime().join("client.log");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let load = load(&pod, frontend, streams, &log, || keep_moving(&mut fixture, &servers));
            runtime.unwrap().block_on(load)
        });
        await_ends();
        forget(fixture.world().pins(), attachment);
        let name = family.name;
        println!("{name}, {streams} streams: {MOVES} moves, {} calls", tally.replied());
        // hyper cancels what its dispatcher holds when a GOAWAY comes, a server's own one included: with several
        // calls at a time one may be on its way there in the moment that looks quiet from outside.
        let failed_max = if streams > 1 { MOVES } else { 0 };
        assert!(tally.failed() <= failed_max, "{name}: {:?}", tally.failures);
        let are_hypers = tally.failures.keys().all(|why| why.ends_with("operation was canceled"));
        assert!(are_hypers, "{name}: {:?}", tally.failures);
        assert!(tally.replied() > MOVES, "{name}");
        let by_server: Vec<_> = servers.iter().map(EchoServer::requests).collect();
        // Each connection begins with a call that says which server it reached.
        assert!(by_server.iter().sum::<u64>() >= tally.replied(), "{name}: {by_server:?}");
        assert!(by_server.iter().all(|requests| *requests > 0), "{name}: {by_server:?}");
        let moved = flows(&mut fixture).into_iter().filter(|(_, flow)| flow.gate & INJECTED != 0);
        for (_, flow) in moved {
            assert!(flow.gate & CLOSED != 0, "{name}: its client has closed it: {flow:?}");
            assert!(flow.gate & ACKED != 0, "{name}: a client has the frame: {flow:?}");
        }
    }
}
