//! Address families: which socket reaches which backend through which frontend.

use balancer_common::reason::Reason;
use balancer_tests::{
    backend::Backend,
    capability,
    fixture::{Fixture, service::ServiceSpec},
};

#[test]
fn smoke() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("families").unwrap();
    let backend = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let frontend = "10.96.0.1:80".parse().unwrap();
    let served = fixture
        .serve(ServiceSpec::new(frontend, [backend.address()]))
        .unwrap();
    let before = fixture.reasons().unwrap();
    let pod = fixture.pod("pod").unwrap();
    let dialled = pod.dial(frontend).unwrap();
    println!("{dialled:?} {:?}", fixture.reasons_since(&before));
    assert_eq!(dialled.reached, Some(backend.address()));
    pod.close(dialled.handle, false).unwrap();
    println!("{:?}", fixture.stats(served.id, backend.address()));
    println!("{:?}", fixture.reasons_since(&before));
    assert_eq!(fixture.reasons_since(&before).unwrap()[&Reason::Picked], 1);
}
