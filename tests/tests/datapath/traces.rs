//! Traced decisions: only while a tracer asks for them, and with all that explains them.

use aya::maps::RingBuf;
use balancer_agent::datapath::{maps::open_traces, reader::socket_address};
use balancer_common::{reason::Reason, trace::TraceEvent};
use balancer_tests::{
    backend::Backend,
    capability,
    dialer::storm::now_ns,
    fixture::{Fixture, service::ServiceSpec},
};

fn read(traces: &mut RingBuf<aya::maps::MapData>) -> Vec<TraceEvent> {
    let mut events = Vec::new();
    while let Some(event) = traces.next() {
        events.push(bytemuck::pod_read_unaligned(&event));
    }
    events
}

#[test]
fn decisions_are_traced_while_somebody_asks() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("traces").unwrap();
    let backend = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let frontend = "10.96.0.1:80".parse().unwrap();
    let served = fixture.serve(ServiceSpec::new(frontend, [backend.address()])).unwrap();
    let mut traces = open_traces(fixture.world().pins()).unwrap();
    let pod = fixture.pod("pod").unwrap();
    let pod_id =
        balancer_agent::datapath::cgroup::id(&fixture.world().cgroup().join("pod")).unwrap();

    pod.dial(frontend).unwrap();
    assert_eq!(read(&mut traces), [], "nobody asked");

    fixture.trace_until(now_ns() + 3_600_000_000_000).unwrap();
    let dialled = pod.dial(frontend).unwrap();
    pod.close(dialled.handle, false).unwrap();
    let events = read(&mut traces);
    let reasons: Vec<_> = events.iter().map(|it| Reason::from_code(it.reason).unwrap()).collect();
    let expected = [Reason::Picked, Reason::Established, Reason::PeernameRestored, Reason::Closed];
    assert_eq!(reasons, expected);
    for event in &events {
        assert_eq!(socket_address(event.frontend, event.frontend_port_be), frontend);
        assert_eq!((event.pod, event.service, event.backend), (pod_id, served.id, 1));
        assert_eq!(event.cookie, events[0].cookie);
    }
    assert_eq!((events[0].slots, events[0].generation), (1, served.record.generation));

    fixture.trace_until(now_ns()).unwrap();
    pod.dial(frontend).unwrap();
    assert_eq!(read(&mut traces), [], "the time is over");
}
