//! What a test needs of the machine: probed, and said when it is missing.

use crate::{cluster::version::Version, interop::program::Programs};
use nix::unistd::Uid;
use std::{io::Write as _, path::Path};

/// The environment variable that turns every skip into a failure, as CI wants it.
pub const REQUIRE: &str = "BALANCER_REQUIRE";

/// Says whether real kernel tests can run here. Prints why not; panics where CI requires them.
pub fn can_load_ebpf() -> bool {
    has_all(missing_for_ebpf())
}

/// The same for tests with a real control plane of Kubernetes, pods and kernel programs.
pub fn can_run_cluster(version: Version) -> bool {
    let missing = missing_for_ebpf();
    has_all(missing.or_else(|| version.programs().err().map(|error| error.to_string())))
}

/// The programs of other gRPC implementations, if tests with them can run; `tonic` is our own.
pub fn interop_programs(tonic: &Path) -> Option<Programs> {
    if !can_load_ebpf() {
        return None;
    }
    match Programs::find(tonic) {
        Ok(programs) => Some(programs),
        Err(error) => {
            has_all(Some(error.to_string()));
            None
        }
    }
}

fn missing_for_ebpf() -> Option<String> {
    if !Uid::effective().is_root() {
        Some("not root: `cargo xtask test` asks sudo for it".to_owned())
    } else if let Err(error) = balancer_agent::datapath::cgroup::root() {
        Some(error.to_string())
    } else if !Path::new("/proc/self/ns/net").exists() {
        Some("the kernel has no network namespaces".to_owned())
    } else {
        None
    }
}

fn has_all(missing: Option<String>) -> bool {
    let Some(missing) = missing else { return true };
    assert!(
        std::env::var_os(REQUIRE).is_none(),
        "{REQUIRE} is set, but this test cannot run: {missing}"
    );
    // Past the test harness, which keeps what a passing test prints: a skip has to be seen.
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {missing}");
    false
}
