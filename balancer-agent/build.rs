//! Hands the compiled kernel object to the agent, which embeds it: one binary file to install.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Overrides where the kernel object is.
const VARIABLE: &str = "BALANCER_EBPF_OBJECT";

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let object = object();
    println!("cargo::rerun-if-changed={}", object.display());
    let copy = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("balancer.o");
    match fs::copy(&object, copy) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the compiled kernel programs at {}: {error}", object.display());
            eprintln!("hint: run `cargo xtask build` once, or set {VARIABLE} to a compiled object");
            ExitCode::FAILURE
        }
    }
}

/// The variable's path, or where `cargo xtask build` puts the object: `bpf/balancer.o` in the
/// target directory.
fn object() -> PathBuf {
    if let Some(path) = env::var_os(VARIABLE) {
        return path.into();
    }
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let workspace = manifest.parent().unwrap_or(&manifest);
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace.join(target).join("bpf").join("balancer.o")
}
