//! Every mistake and its answer, held in `mistakes.golden`; `UPDATE_GOLDEN=1` rewrites the answers.

use crate::config::Config;
use std::{collections::BTreeSet, fmt::Write, path::Path};

const GOLDEN: &str = include_str!("mistakes.golden");
const DOCUMENT: &str = "=== document\n";
const ANSWER: &str = "=== answer\n";

fn answer(document: &str) -> String {
    let result = Config::parse(document, "balancer.yaml");
    result.map_or_else(|error| format!("{error}\n"), |_| "accepted\n".to_owned())
}

fn cases() -> impl Iterator<Item = (&'static str, &'static str)> {
    GOLDEN.split(DOCUMENT).skip(1).map(|case| case.split_once(ANSWER).unwrap())
}

#[test]
fn every_mistake_has_its_answer() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let mut golden = String::new();
        for (document, _) in cases() {
            write!(golden, "{DOCUMENT}{document}{ANSWER}{}", answer(document)).unwrap();
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/tests/mistakes.golden");
        std::fs::write(path, golden).unwrap();
        return;
    }
    for (document, expected) in cases() {
        assert_eq!(answer(document), expected, "the answer to:\n{document}");
    }
}

#[test]
fn no_case_is_accepted_and_none_stands_twice() {
    let mut seen = BTreeSet::new();
    for (document, answer) in cases() {
        assert!(answer.contains("balancer.yaml:"), "accepted:\n{document}");
        assert!(answer.contains("\n  hint: "), "no hint for:\n{document}");
        assert!(seen.insert(document), "twice:\n{document}");
    }
    assert!(seen.len() > 90);
}
