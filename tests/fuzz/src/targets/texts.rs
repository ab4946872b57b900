//! Texts: the configuration, cgroup paths, requests on the admin socket, and the file of drained backends.

use super::check_message;
use balancer_agent::{
    admin::Request,
    config::Config,
    core::pods::cgroup_path::{Driver, KubeCgroup},
    daemon::drained,
};
use std::fs;

/// Keys and values of the configuration.
pub const CONFIG_WORDS: &[&str] = &[
    "version: 1\n",
    "services:\n",
    "- name: a\n",
    "  frontends: ['10.0.0.1:80']\n",
    "  backends:\n",
    "  - address: 10.1.0.1:80\n",
    "policy: maglev\n",
    "weight: 0",
    "dns:",
    "kubernetes:",
    "limits:",
    "keepalive:",
    "off",
    "null",
    "1e9",
    ".inf",
    "!!binary ",
    "&a ",
    "*a",
    "<<: ",
    "[",
    "]",
    "{",
    "}",
    "\"\\u0000\"",
    "? ",
    "---\n",
    "# ",
    "99999999999999999999",
    "1s",
    "::1",
    "[::]:0",
];
/// Parts of cgroups' paths.
pub const CGROUP_WORDS: &[&str] = &[
    "kubepods.slice/",
    "kubepods/",
    "kubepods-burstable.slice/",
    "burstable/",
    "besteffort/",
    "-pod",
    "kubepods-pod",
    ".slice",
    ".scope",
    "cri-containerd-",
    "crio-",
    "docker-",
    "/",
    "-",
    "_",
    "..",
    "7d4b9ac4_7c4a_4a9c_8d4a_1f7b0c6e0a51",
    "7d4b9ac4-7c4a-4a9c-8d4a-1f7b0c6e0a51",
];
/// Parts of requests.
pub const ADMIN_WORDS: &[&str] = &[
    "{\"request\":\"",
    "status",
    "reload",
    "pods",
    "drain",
    "rebalance",
    "trace",
    "\"}",
    "\"backend\":",
    "\"10.0.0.1:80\"",
    "\"[::1]:1\"",
    "\"undo\":true",
    "\"force\":false",
    "\"service\":\"",
    "\"dry_run\":",
    ",",
];
/// Parts of lists of addresses.
pub const DRAINED_WORDS: &[&str] =
    &["[", "]", ",", "\"10.0.0.1:80\"", "\"[fd00::1]:443\"", "\"[fe80::1%3]:1\"", "null", "{}"];

/// A configuration file.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Config::parse(&text, "balancer.yaml") {
        Ok(config) => assert!(config.restart_needed(&config).is_empty(), "it differs from itself"),
        Err(error) => {
            assert!(!error.problems.is_empty());
            assert!(error.problems.is_sorted_by_key(|problem| problem.at));
            for problem in &error.problems {
                check_message(&problem.cause.hint());
                problem.to_string().lines().for_each(check_message);
                // A carriage return alone ends a line of YAML as well (YAML 1.2, section 5.4).
                let lines = text.split(['\n', '\r']).count();
                assert!(problem.at.line as usize <= lines, "{problem}");
            }
        }
    }
}

/// A path below the root of cgroup v2.
pub fn cgroup_path(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some(read) = KubeCgroup::parse(&text) else { return };
    for driver in [Driver::Systemd, Driver::Cgroupfs] {
        let printed = match &read {
            KubeCgroup::Pod(pod) => pod.path(driver, &[]),
            // Only the driver that it was read with names all runtimes.
            KubeCgroup::Container(container) => container.pod.path(driver, &[]),
            KubeCgroup::Kubepods | KubeCgroup::Class(_) => return,
        };
        let again = KubeCgroup::parse(&printed).and_then(KubeCgroup::into_pod);
        assert_eq!(again, read.clone().into_pod(), "`{printed}` is another pod");
    }
}

/// A line on the admin socket.
pub fn admin_request(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(request) = serde_json::from_str::<Request>(&text) else { return };
    let printed = serde_json::to_string(&request).expect("requests can be printed");
    assert!(!printed.contains('\n'), "a request is one line");
    assert_eq!(serde_json::from_str::<Request>(&printed).ok(), Some(request));
}

/// The file of drained backends.
pub fn drained(bytes: &[u8]) {
    let runtime = tempfile::tempdir().expect("a directory");
    fs::write(runtime.path().join(drained::FILE), bytes).expect("writable");
    let read = drained::read(runtime.path());
    drained::write(runtime.path(), &read).expect("writable");
    assert_eq!(drained::read(runtime.path()), read);
}
