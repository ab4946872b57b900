//! Each target over its corpus, and over a bounded number of seeded changes of it.
#![expect(clippy::unwrap_used, reason = "what a test's own functions cannot do fails the test")]

use balancer_fuzz::{TARGETS, Target, corpus, mutation, target};
use std::{collections::BTreeSet, fs, panic};

/// Inputs of each target; `BALANCER_FUZZ_INPUTS` takes another number.
const INPUTS: u64 = 2_000;
/// Where random numbers begin; `BALANCER_FUZZ_SEED` takes another one. Another one each day would find more, but
/// not by the one who broke it.
const SEED: u64 = 1;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

fn run(target: &Target) {
    let (seed, inputs) =
        (number("BALANCER_FUZZ_SEED", SEED), number("BALANCER_FUZZ_INPUTS", INPUTS));
    println!("{}: {inputs} inputs, seed {seed}: {}", target.name, target.property);
    let kept = corpus::read(target.name).unwrap();
    assert!(!kept.is_empty(), "{} has no corpus", target.name);
    for (name, bytes) in &kept {
        check(target, bytes, name);
    }
    let kept: Vec<_> = kept.into_iter().map(|(_, bytes)| bytes).collect();
    for input in 0..inputs {
        let bytes = mutation::input(seed, input, &kept, target.words);
        check(target, &bytes, &format!("seed-{seed}-input-{input}"));
    }
}

/// Keeps an input that fails, so that it can be looked at, and put into the corpus.
fn check(target: &Target, bytes: &[u8], name: &str) {
    if let Err(cause) = panic::catch_unwind(|| (target.check)(bytes)) {
        let file = std::env::temp_dir().join(format!("balancer-fuzz-{}-{name}", target.name));
        let kept = fs::write(&file, bytes).map(|()| file.display().to_string());
        eprintln!("{} fails by {name} (kept: {kept:?}): {}", target.name, bytes.escape_ascii());
        panic::resume_unwind(cause);
    }
}

macro_rules! targets {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            run(target($name).unwrap());
        })*
        const TESTED: &[&str] = &[$($name),*];
    };
}

targets! {
    http2_grid: "http2-grid",
    http2_track: "http2-track",
    http2_shift: "http2-shift",
    config: "config",
    cgroup_path: "cgroup-path",
    admin_request: "admin-request",
    drained: "drained",
    kubernetes: "kubernetes",
    pod: "pod",
    dns_answer: "dns-answer",
    adoption: "adoption",
}

#[test]
fn every_target_is_tested_and_every_corpus_is_of_one() {
    let targets: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(targets, TESTED.iter().copied().collect());
    let folders = fs::read_dir(corpus::folder("")).unwrap();
    let folders: BTreeSet<String> =
        folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(folders, targets.iter().map(ToString::to_string).collect());
}

#[test]
fn the_same_seed_gives_the_same_input() {
    let kept = [b"one two three".to_vec(), Vec::new()];
    let inputs = |seed| {
        (0..50).map(|input| mutation::input(seed, input, &kept, &["word"])).collect::<Vec<_>>()
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
    assert!(inputs(1).iter().collect::<BTreeSet<_>>().len() > 40);
}
