//! Metrics and health of a running agent, as a scraper and a probe see them.

#![expect(clippy::float_cmp, reason = "small counts are exact")]

use crate::scene::{FRONTEND, Scene, reach};
use balancer_tests::{agent::Agent, capability, scrape};
use std::net::{SocketAddr, TcpListener};

/// What the agent logs once it listens.
const SERVING: &str = "serving /metrics";

fn with_http(config: &str, address: SocketAddr) -> String {
    format!("{config}http: {{listen: \"{address}\"}}\n")
}

/// Status code and body of a GET.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    scrape::get(address, path).unwrap()
}

/// The value of a series.
fn sample(address: SocketAddr, series: &str) -> f64 {
    scrape::sample(address, series).unwrap()
}

fn is_serving(agent: &Agent<'_>) {
    agent.until(|_| agent.log().contains(SERVING)).unwrap();
}

#[test]
fn a_scrape_tells_what_connections_did() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("http", 2);
    let all = scene.addresses();
    let address = scrape::free_address().unwrap();
    let agent = Agent::start(&scene.world, &with_http(&scene.config(), address)).unwrap();
    is_serving(&agent);
    assert_eq!(get(address, "/healthz"), (200, "ok\n".into()));
    assert_eq!(get(address, "/readyz"), (200, "ready\n".into()));
    assert_eq!(get(address, "/nothing").0, 404);

    let pod = scene.pod("pod");
    let to = FRONTEND.parse().unwrap();
    let open: Vec<_> = (0..4).map(|_| pod.dial(to).unwrap()).collect();
    assert!(open.iter().all(|it| it.errno == 0), "{open:?}");
    let service = |name: &str| sample(address, &format!("balancer_service_{name}"));
    assert_eq!(service("connections{service=\"shop\"}"), 4.0);
    assert_eq!(service("connections_established_total{service=\"shop\"}"), 4.0);
    assert_eq!(service("backends{service=\"shop\",state=\"active\"}"), 2.0);
    for backend in &all {
        let series = format!(
            "balancer_backend_connections_opened_total{{service=\"shop\",backend=\"{backend}\"}}"
        );
        assert_eq!(sample(address, &series), 2.0);
    }
    assert_eq!(sample(address, "balancer_table_entries{table=\"connections\"}"), 4.0);
    assert!(sample(address, "balancer_programming_duration_seconds_count") >= 1.0);
    for connection in open {
        pod.close(connection.handle, false).unwrap();
    }
    assert_eq!(service("connections_ended_total{service=\"shop\",how=\"closed\"}"), 4.0);

    // What a backend counted stays in its service's total when the backend goes.
    let before = agent.status().unwrap().work.changes;
    let fewer = with_http(&Scene::config_with(&all[..1], 4_096), address);
    agent.configure(&fewer).unwrap();
    agent.until(|status| status.work.changes > before).unwrap();
    reach(&pod, 1);
    assert_eq!(service("connections_opened_total{service=\"shop\"}"), 5.0);
    assert_eq!(sample(address, "balancer_config_loads_total{result=\"applied\"}"), 2.0);
}

#[test]
fn an_address_in_use_is_told_of_and_taken_later() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("http-busy", 2);
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let agent = Agent::start(&scene.world, &with_http(&scene.config(), address)).unwrap();
    agent.until(|_| agent.log().contains("Address already in use")).unwrap();
    assert!(agent.log().contains("http.listen"), "{}", agent.log());
    scene.assert_balanced(&scene.pod("pod"));
    assert_eq!(agent.status().unwrap().complaints(), Vec::<String>::new());
    drop(other);
    is_serving(&agent);
    assert_eq!(get(address, "/readyz"), (200, "ready\n".into()));
}

#[test]
fn nothing_listens_unless_it_is_asked_for() {
    if !capability::can_load_ebpf() {
        return;
    }
    let scene = Scene::new("http-off", 1);
    let agent = Agent::start(&scene.world, &scene.config()).unwrap();
    let pid = agent.pid();
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    for table in ["tcp", "tcp6"] {
        // proc(5): the fourth column is the state, 0A is LISTEN; the tenth is the inode.
        let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap();
        for columns in sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()) {
            let listens = columns.get(3) == Some(&"0A");
            let own = columns.get(9).is_some_and(|inode| inodes.iter().any(|it| it == inode));
            assert!(!(listens && own), "the agent listens: {columns:?}");
        }
    }
}
