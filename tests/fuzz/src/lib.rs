//! Fuzz targets for every parser of bytes that come from others, and a bounded run of them.
//!
//! A target is a function that takes any bytes and panics where its property does not hold. `cargo test` runs
//! each over its corpus and over seeded changes of it ([`mutation`]); `cargo xtask fuzz` runs them for as long as
//! one likes, guided by coverage (libFuzzer).

pub mod corpus;
pub mod mutation;
pub mod targets;

/// A parser under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name; its corpus is in the folder of that name.
    pub name: &'static str,
    /// What holds for all inputs, beside that nothing panics.
    pub property: &'static str,
    /// Checks one input.
    pub check: fn(&[u8]),
    /// Pieces that its inputs are made of.
    pub words: &'static [&'static str],
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "http2-grid",
        property: "frames are the same however their bytes are cut into segments",
        check: targets::http2::grid,
        words: targets::http2::WORDS,
    },
    Target {
        name: "http2-track",
        property: "a track in sync stands where the bytes say, in whatever order segments came",
        check: targets::http2::track,
        words: targets::http2::WORDS,
    },
    Target {
        name: "http2-shift",
        property: "what the client acknowledges is what the server sent",
        check: targets::http2::shift,
        words: &[],
    },
    Target {
        name: "config",
        property: "a refusal names place, cause and fix; what is accepted equals itself",
        check: targets::texts::config,
        words: targets::texts::CONFIG_WORDS,
    },
    Target {
        name: "cgroup-path",
        property: "a pod's path that is read is read the same after it was printed",
        check: targets::texts::cgroup_path,
        words: targets::texts::CGROUP_WORDS,
    },
    Target {
        name: "admin-request",
        property: "a request that is read is read the same after it was printed",
        check: targets::texts::admin_request,
        words: targets::texts::ADMIN_WORDS,
    },
    Target {
        name: "drained",
        property: "the file that is written after any file was read holds the same addresses",
        check: targets::texts::drained,
        words: targets::texts::DRAINED_WORDS,
    },
    Target {
        name: "kubernetes",
        property: "refusals are printable and bounded; addresses can be dialled; objects are settled once",
        check: targets::kubernetes::history,
        words: targets::kubernetes::WORDS,
    },
    Target {
        name: "pod",
        property: "refusals are printable; a pod that is kept has a name, a namespace and a UID",
        check: targets::kubernetes::pod,
        words: targets::kubernetes::WORDS,
    },
    Target {
        name: "dns-answer",
        property: "weights are within bounds, targets in order, addresses of the family asked for",
        check: targets::dns::answer,
        words: &[],
    },
    Target {
        name: "adoption",
        property: "whatever the maps hold, one plan makes them as desired, within their sizes",
        check: targets::adoption::adopt,
        words: &[],
    },
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
