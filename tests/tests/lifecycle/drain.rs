//! Draining: connections of a backend that drains stay, until its service's time for that is over.

use crate::scene::{FRONTEND, Scene, limits};
use balancer_agent::datapath::destroy;
use balancer_tests::{agent::Agent, capability};
use std::net::SocketAddr;

/// A second service, on the same backends.
const PATIENT: &str = "10.96.0.2:80";

/// Two services that differ in their patience; the first backend of both is in a state.
fn config(backends: &[SocketAddr], state: &str) -> String {
    let [first, second] = backends else { panic!("two backends") };
    let service = |name: &str, frontend: &str, timeout: &str| {
        format!(
            "  - name: {name}\n    frontends: [\"{frontend}\"]\n    policy: round-robin\n    \
             drain-timeout: {timeout}\n    backends: \
             [{{address: \"{first}\", state: {state}}}, \"{second}\"]\n"
        )
    };
    let services = [service("shop", FRONTEND, "1s"), service("patient", PATIENT, "off")];
    format!("version: 1\n{}services:\n{}", limits(4_096), services.concat())
}

#[test]
fn what_is_left_after_the_timeout_is_destroyed_and_nothing_else() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("drain", 2);
    let all = scene.addresses();
    let agent = Agent::start(&scene.world, &config(&all, "active")).unwrap();
    let pod = scene.pod("pod");
    let dial = |frontend: &str, reached: SocketAddr| {
        let dials = [0; 2].map(|_| pod.dial(frontend.parse().unwrap()).unwrap());
        let there =
            |dialled: &&balancer_tests::dialer::protocol::Dialled| dialled.reached == Some(reached);
        dials.iter().find(there).unwrap().handle
    };
    let impatient = dial(FRONTEND, all[0]);
    let patient = dial(PATIENT, all[0]);
    assert_eq!(scene.maps().read_flows().unwrap().len(), 4);
    agent.configure(&config(&all, "draining")).unwrap();
    // New connections go elsewhere at once.
    for frontend in [FRONTEND, PATIENT] {
        let dialled = pod.dial(frontend.parse().unwrap()).unwrap();
        assert_eq!(dialled.reached, Some(all[1]));
    }
    if let Err(error) = destroy::check() {
        let status = agent.status().unwrap();
        assert!(status.datapath.degraded.contains(&error.to_string()), "{status:?}");
        println!("skipped: {error}");
        return;
    }
    assert_eq!(pod.await_end(impatient).unwrap(), libc::ECONNABORTED);
    let status = agent.until(|status| status.drained.drain_timeout == 1).unwrap();
    let drained = status.drained;
    assert_eq!((drained.backend_gone, drained.not_found, drained.failed), (0, 0, 0));
    assert_eq!(drained.latest_error, None);
    // All others live, those to the same backend included.
    assert_eq!(scene.maps().read_flows().unwrap().len(), 5);
    pod.close(patient, false).unwrap();
    let to_first = scene.kernel_backends()[&all[0]];
    assert_eq!(to_first.1, 0, "nothing is counted on what was destroyed");

    // A backend that the file does not name any more may well be alive: its connections stay.
    let only = config(&all, "active").replace(&format!(", \"{}\"", all[1]), "");
    agent.configure(&only).unwrap();
    agent.until(|status| status.differences.is_empty()).unwrap();
    assert_eq!(scene.maps().read_flows().unwrap().len(), 4);
}
