//! A rule on documents: a reader who starts at the README finds every one of them.

use super::{Source, Violation};

const ENTRANCES: [&str; 2] = ["README.md", "ARCHITECTURE.md"];

/// Checks that every document is linked.
pub(super) fn check(sources: &[Source]) -> Vec<Violation> {
    let entrances: Vec<&Source> =
        sources.iter().filter(|source| ENTRANCES.contains(&source.path.as_str())).collect();
    if entrances.is_empty() {
        return Vec::new();
    }
    let is_linked =
        |path: &str| entrances.iter().any(|entrance| entrance.text.contains(&format!("({path}")));
    sources
        .iter()
        .filter(|source| source.path.starts_with("docs/") && !is_linked(&source.path))
        .map(|source| {
            let rule = "no reader can find it";
            let fix = format!("link to `({})` from README.md or ARCHITECTURE.md", source.path);
            Violation::new(&source.path, 1, rule, fix)
        })
        .collect()
}
