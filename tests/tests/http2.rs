//! HTTP/2 in the kernel: the real programs over packet histories, and real clients that are moved.
#![expect(clippy::unwrap_used, reason = "what a test's own functions cannot do fails the test")]

#[path = "http2/accounts.rs"]
mod accounts;
#[path = "http2/agent.rs"]
mod agent;
#[path = "http2/calls.rs"]
mod calls;
#[path = "http2/cases.rs"]
mod cases;
#[path = "http2/ends.rs"]
mod ends;
#[path = "http2/held.rs"]
mod held;
#[path = "http2/histories.rs"]
mod histories;
#[path = "http2/kernel.rs"]
mod kernel;
#[path = "http2/model.rs"]
mod model;
#[path = "http2/moves.rs"]
mod moves;
#[path = "http2/races.rs"]
mod races;
#[path = "http2/segment.rs"]
mod segment;

use self::{
    histories::{CLEAN, CURT, ROUGH, TORN},
    kernel::Kernel,
};
use balancer_agent::datapath::loader;
use balancer_tests::{
    capability,
    fixture::Fixture,
    verified::{
        self,
        figures::{Figures, Judgement},
    },
};
use std::path::Path;

/// Histories of each kind; `BALANCER_HISTORIES` takes another number.
const HISTORIES: u64 = 300;

#[test]
fn the_programs_are_loaded() {
    if !capability::can_load_ebpf() {
        return;
    }
    let fixture = Fixture::new("http2-load").unwrap();
    assert_eq!(fixture.degraded(), &[] as &[String]);
    assert_eq!(fixture.loaded().http2.len(), loader::HTTP2_PROGRAMS.len());
}

#[test]
fn no_program_outgrows_its_verified_instructions() {
    const HOW: &str = "`UPDATE_GOLDEN=1 cargo xtask test outgrows`";
    if !capability::can_load_ebpf() {
        return;
    }
    let mut fixture = Fixture::new("verified").unwrap();
    let run = verified::run(fixture.loaded_mut()).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/verified/figures.golden");
    let mut figures = Figures::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (program, is) in &run.counts {
        let was = figures.committed(&run, program);
        println!("{program}: {is} instructions verified, committed {was:?}");
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        figures.accept(&run);
        std::fs::write(&path, figures.render()).unwrap();
    }
    match figures.judge(&run, HOW) {
        Judgement::Kept => {}
        // Not a skip: which kernels and compilers have figures is a choice, not a lack of this machine.
        Judgement::Unguarded(why) => eprintln!("unguarded: {why}"),
        Judgement::Grown(grown) => panic!("{}", grown.join("\n")),
    }
}

#[test]
fn no_history_of_packets_changes_what_either_side_gets() {
    if !capability::can_load_ebpf() {
        return;
    }
    let histories = std::env::var("BALANCER_HISTORIES").ok().and_then(|text| text.parse().ok());
    let histories = histories.unwrap_or(HISTORIES);
    // Another seed each day would find more, but not by the one who broke it.
    for bounded in [false, true] {
        let mut kernel = Kernel::load(loader::object(), bounded);
        let clean = histories::run(&mut kernel, 0..histories, CLEAN);
        assert!(clean.iter().all(|outcome| outcome.in_sync), "nothing was lost on a clean path");
        assert!(clean.iter().any(|outcome| outcome.moved));
        let rough = histories::run(&mut kernel, 0..histories, ROUGH);
        assert!(rough.iter().any(|outcome| outcome.moved));
        assert!(rough.iter().all(|outcome| outcome.in_sync), "what was lost came again");
        let torn = histories::run(&mut kernel, 0..histories, TORN);
        let lost = torn.iter().filter(|outcome| !outcome.in_sync).count() as u64;
        assert!((1..histories).contains(&lost), "{lost} of {histories}");
        println!("{lost} of {histories} lost sight of on a torn path");
        let curt = histories::run(&mut kernel, 0..histories, CURT);
        assert!(curt.iter().any(|outcome| outcome.moved));
        println!("{} packets through the programs, bounded: {bounded}", kernel.packets());
    }
}

#[test]
fn two_processors_put_one_frame_in() {
    if !capability::can_load_ebpf() {
        return;
    }
    for bounded in [false, true] {
        let mut kernel = Kernel::load(loader::object(), bounded);
        let raced: Vec<_> = (0..HISTORIES).map(|seed| races::race(&mut kernel, seed)).collect();
        let missed = raced.iter().filter(|raced| raced.missed).count();
        let moved = raced.iter().filter(|raced| raced.moved).count();
        println!("{moved} of {HISTORIES} moved, {missed} missed a segment");
        assert!(moved > 0);
    }
}

#[test]
fn a_peer_that_lies_harms_no_other_connection() {
    if !capability::can_load_ebpf() {
        return;
    }
    for bounded in [false, true] {
        let mut kernel = Kernel::load(loader::object(), bounded);
        for seed in 0..HISTORIES {
            races::lie(&mut kernel, seed, 100);
        }
    }
}
