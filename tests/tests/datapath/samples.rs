//! Round-trip samples: some are taken of each connection, and anew after a segment was sent again.

use aya::maps::{MapData, RingBuf};
use balancer_agent::datapath::maps::open_traces;
use balancer_common::{flow::Flow, reason::Reason, trace::TraceEvent};
use balancer_tests::{
    capability,
    dialer::{Dialer, storm::now_ns},
    fixture::{Fixture, service::ServiceSpec},
    trouble::Losing,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd as _;

/// As `SAMPLES_MAX` of balancer-ebpf/src/tcp.rs.
const SAMPLES_MAX: u32 = 32;
/// Longest wait for the retransmission timer, which starts at 200 ms on a path as short as this.
const WAIT_MS: u16 = 10_000;
/// Tries until the kernel has sent nothing again by itself, as it does where a machine is held up.
const TRIES_MAX: usize = 20;

struct Stage {
    fixture: Fixture,
    pod: Dialer,
    handle: u64,
}

impl Stage {
    fn flow(&self) -> Flow {
        self.fixture.only_flow().unwrap()
    }

    /// Exchanges until so many samples were taken since the last segment that was sent again, and
    /// then no more than that are: each byte that is acknowledged would be one.
    fn sample_until_enough(&self) {
        for _ in 0..TRIES_MAX {
            let before = self.flow();
            self.pod.exchange(self.handle, SAMPLES_MAX - before.samples).unwrap();
            let enough = self.flow();
            self.pod.exchange(self.handle, SAMPLES_MAX).unwrap();
            let after = self.flow();
            if after.retransmits != before.retransmits {
                continue;
            }
            assert_eq!((enough.samples, after.samples), (SAMPLES_MAX, SAMPLES_MAX));
            assert!(after.srtt_us > 0);
            assert_eq!(after.srtt_us, enough.srtt_us, "a sample that is not taken changes nothing");
            return;
        }
        panic!("segments were sent again in each of {TRIES_MAX} tries");
    }
}

/// Waits until the kernel says that a segment was sent again.
fn await_retransmission(traces: &mut RingBuf<MapData>) {
    loop {
        while let Some(event) = traces.next() {
            let event: TraceEvent = bytemuck::pod_read_unaligned(&event);
            if event.reason == Reason::Retransmitted as u32 {
                return;
            }
        }
        let mut watched = [PollFd::new(traces.as_fd(), PollFlags::POLLIN)];
        assert_ne!(poll(&mut watched, PollTimeout::from(WAIT_MS)).unwrap(), 0, "nothing happens");
    }
}

#[test]
fn samples_are_taken_anew_after_a_segment_was_sent_again() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("samples").unwrap();
    let mut server = Losing::start().unwrap();
    let frontend = "10.96.0.1:80".parse().unwrap();
    fixture.serve(ServiceSpec::new(frontend, [server.address()])).unwrap();
    let pod = fixture.pod("pod").unwrap();
    let handle = pod.dial(frontend).unwrap().handle;
    let mut stage = Stage { fixture, pod, handle };
    stage.sample_until_enough();
    let before = stage.flow();

    // Twice: what armed it once must do so again.
    for lost in 1..=2 {
        let mut traces = open_traces(stage.fixture.world().pins()).unwrap();
        stage.fixture.trace_until(now_ns() + 3_600_000_000_000).unwrap();
        server.lose().unwrap();
        stage.pod.send(handle).unwrap();
        await_retransmission(&mut traces);
        stage.fixture.trace_until(0).unwrap();
        let flow = stage.flow();
        assert!(flow.retransmits >= before.retransmits + lost);
        assert_eq!(flow.samples, 0, "nothing is acknowledged yet, so that nothing can be sampled");
        server.lose_no_more().unwrap();
        stage.pod.receive_back(handle).unwrap();
        stage.sample_until_enough();
    }
}
