//! Seeded storms of events against the core and a datapath in memory.
//!
//! `BALANCER_SEED=<number>` replays one seed exactly; without it a few fixed seeds and fresh ones
//! run. The seed of a failing run is printed.

#[path = "simulation/crowd.rs"]
mod crowd;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/storm.rs"]
mod storm;
#[path = "simulation/world.rs"]
mod world;

use std::time::Instant;
use storm::Storm;

const STEPS: u32 = 300;
const FIXED_SEEDS: std::ops::Range<u64> = 0..16;
/// Seeds that found a fault once.
const FORMER_SEEDS: [u64; 3] =
    [9_923_006_925_026_803_571, 12_922_910_086_881_785_329, 8_862_643_316_023_191_307];
const FRESH_SEEDS: usize = 32;

#[test]
fn no_storm_leaves_the_kernel_wrong() {
    let seeds: Vec<u64> = if let Ok(seed) = std::env::var("BALANCER_SEED") {
        vec![seed.parse().expect("BALANCER_SEED must be a number, for example 42")]
    } else {
        let fresh = std::iter::repeat_with(rand::random::<u64>).take(FRESH_SEEDS);
        FIXED_SEEDS.chain(FORMER_SEEDS).chain(fresh).collect()
    };
    let started = Instant::now();
    let mut events: u64 = 0;
    for seed in &seeds {
        println!("seed {seed} (replay: BALANCER_SEED={seed})");
        let mut storm = Storm::new(*seed);
        for _ in 0..STEPS {
            storm.step();
        }
        storm.calm_down();
        println!("  {}", storm.statistics());
        events += storm.events();
    }
    let elapsed_ms = started.elapsed().as_millis().max(1);
    let rate = u128::from(events) * 1_000 / elapsed_ms;
    println!("{} seeds, {events} events, {rate} events/s", seeds.len());
}

#[test]
fn a_seed_replays_exactly() {
    let run = || {
        let mut storm = Storm::new(7);
        for _ in 0..STEPS {
            storm.step();
        }
        storm.fingerprint()
    };
    assert_eq!(run(), run());
}

#[test]
fn one_change_among_ten_thousand_services_is_planned_alone() {
    let mut crowd = crowd::Crowd::new(10_000, 10);
    let started = Instant::now();
    let rounds = 1_000;
    for round in 0..rounds {
        let change = crowd.change_one(round);
        assert!(change.writes.len() < 20, "{change:#?}");
    }
    println!("{} us per change", started.elapsed().as_micros() / u128::from(rounds));
}
