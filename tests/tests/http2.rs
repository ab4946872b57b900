//! HTTP/2 in the kernel: the real programs over packet histories, and real clients that are moved.
#![expect(clippy::unwrap_used, reason = "what a test's own functions cannot do fails the test")]

use balancer_tests::{capability, fixture::Fixture};

#[test]
fn the_programs_are_loaded() {
    if !capability::can_load_ebpf() {
        return;
    }
    let fixture = Fixture::new("http2-load").unwrap();
    println!("{:?}", fixture.degraded());
    assert_eq!(fixture.degraded(), &[] as &[String]);
}
