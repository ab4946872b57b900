//! Rules on text: no unfinished work, no path of one machine, no host that only one network knows.

use super::{Source, Violation};

/// Marks of work that is not finished.
const UNFINISHED: [&str; 5] = ["TODO", "FIXME", "XXX", "todo!", "unimplemented!"];

/// Where a file of one machine or one person would be.
const MACHINE_PATHS: [&str; 6] = ["/root/", "/home/", "/Users/", "/tmp/", "/work/", "/workspace/"];

/// Hosts that everybody can reach, each with what is below it.
const PUBLIC_HOSTS: [&str; 25] = [
    "apache.org",
    "apt.llvm.org",
    "aya-rs.dev",
    "contributor-covenant.org",
    "crates.io",
    "datatracker.ietf.org",
    "doc.rust-lang.org",
    "docs.ebpf.io",
    "docs.rs",
    "envoyproxy.io",
    "github.com",
    "gnu.org",
    "grpc.io",
    "kernel.org",
    "keepachangelog.com",
    "kubernetes.io",
    "k8s.io",
    "man7.org",
    "opensource.org",
    "research.google",
    "rfc-editor.org",
    "rustup.rs",
    "semver.org",
    "sigs.k8s.io",
    "spdx.org",
];

/// Names that stand for no host of this world (RFC 2606, RFC 6761, RFC 8375).
const EXAMPLE_HOSTS: [&str; 9] = [
    "example",
    "example.com",
    "example.org",
    "example.net",
    "test",
    "invalid",
    "localhost",
    "local",
    "internal",
];

/// Checks one file.
pub(super) fn check(source: &Source) -> Vec<Violation> {
    // The rules name what they forbid.
    if source.path.starts_with("xtask/src/tidy") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let mut report = |rule: String, fix: &str| {
            found.push(Violation::new(&source.path, index + 1, rule, fix));
        };
        if let Some(mark) = UNFINISHED.into_iter().find(|mark| has_word(line, mark)) {
            report(format!("`{mark}` marks unfinished work"), "finish it, or open an issue");
        }
        if let Some(path) = MACHINE_PATHS.into_iter().find(|path| has_path(line, path)) {
            let fix = "find the place at run time, such as with tempfile or the environment";
            report(format!("`{path}` is a place of one machine"), fix);
        }
        if let Some(host) = hosts(line).find(|host| !is_public(host)) {
            let fix = "use a public or an example host, or add it to xtask/src/tidy/words.rs";
            report(format!("`{host}` is no public host"), fix);
        }
    }
    found
}

fn has_word(line: &str, word: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_letter) && !after.is_some_and(is_letter)
    })
}

/// Whether the line holds `path` as the start of an absolute path.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-/}~$*".contains(c))
    })
}

/// The hosts of the URLs in a line.
fn hosts(line: &str) -> impl Iterator<Item = &str> {
    ["http://", "https://"]
        .into_iter()
        .flat_map(|scheme| line.split(scheme).skip(1))
        .map(|rest| {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".-_".contains(c)));
            rest[..end.unwrap_or(rest.len())].trim_end_matches('.')
        })
        // Empty: a placeholder such as `{address}`, or an address in brackets.
        .filter(|host| !host.is_empty())
}

fn is_public(host: &str) -> bool {
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    let below = |name: &&str| host == *name || host.ends_with(&format!(".{name}"));
    is_address || PUBLIC_HOSTS.iter().any(below) || EXAMPLE_HOSTS.iter().any(below)
}
