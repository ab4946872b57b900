//! Properties of the parser over arbitrary and over damaged documents.

use crate::{
    config::{Config, keys},
    core::model::{BackendSource, FrontendSource},
};
use proptest::prelude::*;
use std::{fmt::Write, net::Ipv4Addr};

/// An error that names no place and no mistake would leave its reader alone.
fn parse_and_check(text: &str) -> Result<(), TestCaseError> {
    let Err(error) = Config::parse(text, "balancer.yaml") else {
        return Ok(());
    };
    prop_assert!(!error.problems.is_empty());
    prop_assert!(error.problems.is_sorted_by_key(|problem| problem.at));
    for problem in &error.problems {
        prop_assert!(!problem.cause.hint().is_empty(), "{problem}");
        prop_assert!(problem.at.line as usize <= text.lines().count() + 1, "{problem}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        parse_and_check(&text)?;
    }

    #[test]
    fn yaml_like_text_never_panics(
        text in "(version: 1\n)?((services|dns|limits|defaults|node):( |\n  )([-&*!{\\[\\]},:'\"|>%@ \n0-9a-z]|off|name: ){0,40}\n){0,4}"
    ) {
        parse_and_check(&text)?;
    }

    #[test]
    fn a_damaged_example_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<char>()), 1..6)
    ) {
        let mut letters: Vec<char> = Config::example().chars().collect();
        for (index, act, letter) in edits {
            if letters.is_empty() { letters.push(letter); }
            let index = index.index(letters.len());
            match act {
                0 => { letters.remove(index); }
                1 => letters.insert(index, letter),
                2 => letters.truncate(index),
                _ => letters[index] = letter,
            }
        }
        parse_and_check(&letters.into_iter().collect::<String>())?;
    }

    #[test]
    fn any_value_at_any_key_never_panics(
        key in prop::sample::select(keys().collect::<Vec<_>>()),
        value in prop::sample::select(vec![
            "", "0", "-1", "99999999999999999999", "1.5", ".inf", ".nan", "true", "off", "[]", "{}",
            "[[]]", "[{}]", "{a: b}", "1s", "'\\0'", "!!binary AA==", "*a", "&a [*a]", "\"\\u0007\"",
        ]),
    ) {
        // `a.b[].c` becomes `{a: {b: [{c: VALUE}]}}`.
        let mut text = value.to_owned();
        for step in key.rsplit('.') {
            text = match step.strip_suffix("[]") {
                Some(list) => format!("{{{list}: [{text}]}}"),
                None => format!("{{{step}: {text}}}"),
            };
        }
        parse_and_check(&text)?;
    }

    #[test]
    fn what_is_written_is_read(
        services in prop::collection::btree_map(
            "[a-z][a-z0-9/-]{0,30}",
            prop::collection::btree_map(any::<u16>(), (1..=1_000_u32, any::<bool>()), 1..8),
            0..20,
        )
    ) {
        let mut text = "version: 1\nservices:".to_owned();
        text.push_str(if services.is_empty() { " []\n" } else { "\n" });
        for (index, (name, backends)) in services.iter().enumerate() {
            let port = 1 + index;
            writeln!(text, "- name: '{name}'\n  frontends: ['10.0.0.1:{port}']\n  backends:").unwrap();
            for (host, (weight, draining)) in backends {
                let address = Ipv4Addr::from(0x0a01_0000 + u32::from(*host));
                let state = if *draining { "draining" } else { "active" };
                writeln!(text, "  - {{address: {address}:80, weight: {weight}, state: {state}}}").unwrap();
            }
        }
        let config = Config::parse(&text, "balancer.yaml")
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(config.services.len(), services.len());
        for (read, (name, backends)) in config.services.iter().zip(&services) {
            prop_assert_eq!(read.name.as_str(), name);
            prop_assert!(matches!(read.frontends.first(), Some(FrontendSource::Fixed(_))));
            let weights: Vec<u32> = read.backends.iter().map(|backend| match backend {
                BackendSource::Fixed(endpoint) => endpoint.weight,
                BackendSource::Resolved { .. } => 0,
            }).collect();
            let expected: Vec<u32> = backends.values().map(|(weight, _)| *weight).collect();
            prop_assert_eq!(weights, expected);
        }
    }
}
