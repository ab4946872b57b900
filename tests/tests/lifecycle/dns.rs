//! Names from the configuration to the kernel: answers that change, servers that die, clients that
//! remember.

use crate::scene::{Scene, limits, reach};
use balancer_agent::admin::Status;
use balancer_tests::{
    agent::{Agent, Launch},
    backend::Backend,
    capability,
    dns::NameServer,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

const PORT: u16 = 50_051;
const NAME: &str = "shop.test";
/// Seconds; as short as the configuration allows.
const TTL: u32 = 0;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 1, last])
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::new(ip(last), PORT)
}

/// Servers at the last octets given, all on one port as a name has it.
fn scene(purpose: &str, octets: &[u8]) -> Scene {
    let mut scene = Scene::new(purpose, 0);
    scene.backends = octets.iter().map(|last| Backend::start(address(*last)).unwrap()).collect();
    scene
}

fn config(server: SocketAddr, service: &str) -> String {
    format!(
        "version: 1\ndns: {{servers: [\"{server}\"], min-ttl: 100ms, max-ttl: 1s, timeout: 200ms, \
         attempts: 1, removal-delay: 0s, grace: 10m}}\n{}services:\n  - name: shop\n{service}    \
         policy: round-robin\n",
        limits(4_096)
    )
}

/// Clients dial a virtual address, the name says what serves.
fn named_backends(server: SocketAddr) -> String {
    config(
        server,
        &format!(
            "    frontends: [\"10.96.0.1:80\"]\n    backends: [{{dns: {NAME}, port: {PORT}}}]\n"
        ),
    )
}

/// The backends that take new connections; one that has left its name drains for a while.
fn backends(status: &Status) -> BTreeSet<String> {
    let backends = status.desired[0]["backends"].as_array();
    backends
        .into_iter()
        .flatten()
        .filter(|it| it["state"] == "active")
        .map(|it| it["address"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn are(octets: &[u8]) -> impl Fn(&Status) -> bool {
    let wanted: BTreeSet<_> = octets.iter().map(|last| address(*last).to_string()).collect();
    move |status| backends(status) == wanted
}

fn set(octets: &[u8]) -> BTreeSet<SocketAddr> {
    octets.iter().map(|last| address(*last)).collect()
}

#[test]
fn backends_follow_the_answers_and_outlive_the_server() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = scene("dns", &[1, 2, 3]);
    let server = NameServer::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let at = server.address();
    server.say(NAME, TTL, &[ip(1), ip(2)]);
    let agent = Agent::start(&scene.world, &named_backends(at)).unwrap();
    agent.until(are(&[1, 2])).unwrap();
    let pod = scene.pod("pod");
    assert_eq!(reach(&pod, 6), set(&[1, 2]));
    server.say(NAME, TTL, &[ip(2), ip(3)]);
    agent.until(are(&[2, 3])).unwrap();
    assert_eq!(reach(&pod, 6), set(&[2, 3]));

    // The server dies: the last good answer stays, and the failure shows.
    drop(server);
    let failing = |status: &Status| status.dns[0]["standing"] == "fails";
    let status = agent.until(failing).unwrap();
    assert!(are(&[2, 3])(&status), "{:?}", status.desired);
    assert_eq!(reach(&pod, 6), set(&[2, 3]));

    // An agent that starts meanwhile has no answer at all: what it adopted stays.
    let before = scene.kernel_backends();
    agent.kill().unwrap();
    let agent = Launch::new(&scene.world).start().unwrap();
    let status = agent.until(failing).unwrap();
    assert_eq!(status.datapath.origin, "adopted from an earlier agent");
    assert_eq!(scene.kernel_backends(), before);
    assert_eq!(reach(&pod, 6), set(&[2, 3]));

    // It comes back with other answers, which count again.
    let server = NameServer::start(at).unwrap();
    server.say(NAME, TTL, &[ip(1)]);
    agent.until(are(&[1])).unwrap();
    assert_eq!(reach(&pod, 3), set(&[1]));
    assert_eq!(agent.status().unwrap().complaints(), Vec::<String>::new());
}

#[test]
fn an_address_that_left_leads_to_a_live_backend() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut scene = scene("grace", &[1, 2]);
    let server = NameServer::start("127.0.0.1:0".parse().unwrap()).unwrap();
    server.say(NAME, TTL, &[ip(1), ip(2)]);
    let service = format!("    dns: {{name: {NAME}, port: {PORT}}}\n");
    let agent = Agent::start(&scene.world, &config(server.address(), &service)).unwrap();
    agent.until(are(&[1, 2])).unwrap();
    // Whatever address of the name is dialled, both serve.
    let pod = scene.pod("pod");
    let dial = |to: u8| {
        let dialled = pod.dial(address(to)).unwrap();
        pod.close(dialled.handle, false).unwrap();
        (dialled.errno, dialled.reached, dialled.peer)
    };
    let reached: BTreeSet<_> = (0..4).map(|_| dial(1).1.unwrap()).collect();
    assert_eq!(reached, set(&[1, 2]));

    // The first one leaves the name, then nothing listens there any more.
    server.say(NAME, TTL, &[ip(2)]);
    agent.until(are(&[2])).unwrap();
    scene.backends.remove(0);
    for _ in 0..4 {
        assert_eq!(dial(1), (0, Some(address(2)), Some(address(1))));
        assert_eq!(dial(2), (0, Some(address(2)), Some(address(2))));
    }
}
