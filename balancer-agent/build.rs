//! Embeds the compiled kernel object, so that the agent is one file.

use std::{env, path::PathBuf, process::exit};

fn main() {
    println!("cargo:rerun-if-env-changed=BALANCER_EBPF_OBJECT");
    println!("cargo:rerun-if-env-changed=CARGO_TARGET_DIR");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let object = env::var_os("BALANCER_EBPF_OBJECT").map_or_else(default_object, PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    if let Err(error) = std::fs::copy(&object, out_dir.join("balancer.o")) {
        eprintln!("error: no kernel object at {}: {error}", object.display());
        eprintln!("hint: build it with `cargo xtask build`");
        exit(1);
    }
}

/// Where `cargo xtask build` puts it.
fn default_object() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../target"),
        PathBuf::from,
    );
    target.join("bpf/balancer.o")
}
