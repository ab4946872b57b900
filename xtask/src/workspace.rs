//! Where things are: the repository, its target directory, the kernel object; and cargo itself.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The package whose executables load eBPF, and so run as root.
pub(crate) const TESTS_PACKAGE: &str = "balancer-tests";

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// The target directory: `CARGO_TARGET_DIR`, or `target` in the repository.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(chosen) => root().join(chosen),
        None => root().join("target"),
    }
}

/// Where the compiled kernel object is; `balancer-agent/build.rs` embeds it from here.
pub(crate) fn object() -> PathBuf {
    target().join("bpf").join("balancer.o")
}

/// Where xtask installs tools of its own (`bin/bpf-linker`), as `cargo install --root` wants it.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// Where `what` is kept outside the repository, so that a clean checkout makes nothing anew.
pub(crate) fn cache(what: &str) -> PathBuf {
    let home = || env::home_dir().unwrap_or_else(env::temp_dir).join(".cache");
    let base = env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty());
    base.map_or_else(home, PathBuf::from).join("balancer").join(what)
}

/// Whether this is a CI run, in which nothing may be skipped.
pub(crate) fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// The path of the cargo that runs xtask.
pub(crate) fn cargo_path() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// The cargo that runs xtask, in the repository, for what runs on this host.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(cargo_path());
    command.current_dir(root());
    without_package_variables(&mut command);
    command
}

/// Removes what `cargo run` told xtask about xtask: it would mislead every child.
pub(crate) fn without_package_variables(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let about_xtask = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
            .iter()
            .any(|prefix| text.starts_with(prefix));
        if about_xtask || text == "CARGO_PRIMARY_PACKAGE" {
            command.env_remove(&name);
        }
    }
    // `cargo run` puts its own toolchain's libraries first; another rustc must not load them.
    command.env_remove("LD_LIBRARY_PATH");
}

/// The variable that tells tests, demo and benchmarks which agent to run.
pub(crate) fn agent_variable(profile: &str) -> (&'static str, String) {
    let agent = target().join(profile).join("balancer-agent");
    ("BALANCER_AGENT_BIN", agent.display().to_string())
}
