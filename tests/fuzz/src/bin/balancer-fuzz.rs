//! The long run of one target, guided by coverage: libFuzzer's own main function. `cargo xtask fuzz` builds it.
#![no_main]

use balancer_fuzz::{Target, target};
use std::sync::LazyLock;

/// Named by the environment: the command line is libFuzzer's.
static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("BALANCER_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("BALANCER_FUZZ_TARGET names no target: `{name}`"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (TARGET.check)(bytes));
