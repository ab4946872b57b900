//! Dashboard and alerts: every metric and label that a query names is one that the agent exposes.

use crate::{read, yaml};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Labels that Prometheus adds to what it scrapes.
const ADDED_LABELS: [&str; 2] = ["instance", "job"];
/// Metrics that Prometheus makes by itself.
const OWN_METRICS: [&str; 1] = ["up"];

/// The labels of each sample's name in the golden exposition.
fn exposed() -> BTreeMap<String, BTreeSet<String>> {
    let golden = read("balancer-agent/src/http/exposition/metrics.golden");
    let mut exposed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sample in golden.lines().filter(|line| !line.starts_with('#')) {
        let end = sample.find(['{', ' ']).unwrap();
        let keys = sample
            .match_indices("=\"")
            .map(|(end, _)| sample[..end].rsplit(['{', ',']).next().unwrap().to_owned());
        exposed.entry(sample[..end].to_owned()).or_default().extend(keys);
    }
    exposed
}

/// The expressions of every panel and variable.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("deploy/monitoring/dashboard.json")).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let targets = panel["targets"].as_array().into_iter().flatten();
        let found: Vec<_> = targets.map(|it| it["expr"].as_str().unwrap().to_owned()).collect();
        assert!(panel["type"] == "row" || !found.is_empty(), "an empty panel: {panel}");
        queries.extend(found);
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        queries.extend(variable["query"]["query"].as_str().map(str::to_owned));
    }
    queries
}

fn rules() -> Vec<Value> {
    let alerts = yaml("deploy/monitoring/alerts.yaml");
    let groups = alerts["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// The words of a query outside of quotes, each with what follows it.
fn words(query: &str) -> Vec<(&str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut words = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(|c: char| is_word(c) || c == '"') {
        rest = &rest[start..];
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = &quoted[quoted.find('"').expect("a closed quote") + 1..];
            continue;
        }
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        words.push((word, behind));
        rest = behind;
    }
    words
}

/// What is wrong with a query.
fn mistakes(query: &str, exposed: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut known: BTreeSet<&str> = ADDED_LABELS.into();
    let mut labels = BTreeSet::new();
    let mut metrics = 0;
    for (word, behind) in words(query) {
        if OWN_METRICS.contains(&word) || word.starts_with("balancer_") {
            metrics += 1;
            match exposed.get(word) {
                Some(keys) => known.extend(keys.iter().map(String::as_str)),
                None if OWN_METRICS.contains(&word) => {}
                None => mistakes.push(format!("there is no metric `{word}`")),
            }
        }
        let behind = behind.trim_start();
        if ["=", "!="].iter().any(|sign| behind.starts_with(sign)) && !behind.starts_with("==") {
            labels.insert(word);
        }
    }
    for list in ["by (", "on ("].iter().flat_map(|start| query.split(*start).skip(1)) {
        let inside = list.split(')').next().unwrap();
        labels.extend(inside.split(',').map(str::trim));
    }
    if metrics == 0 {
        mistakes.push("it names no metric".into());
    }
    let unknown = labels.difference(&known).map(|label| format!("there is no label `{label}`"));
    mistakes.extend(unknown);
    mistakes
}

#[test]
fn every_query_asks_for_what_is_exposed() {
    let exposed = exposed();
    let mut queries = dashboard_queries();
    queries.extend(rules().iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()));
    assert!(queries.len() > 30);
    for query in queries {
        assert_eq!(mistakes(&query, &exposed), Vec::<String>::new(), "in `{query}`");
        let count = |c: char| query.matches(c).count();
        assert!(count('(') == count(')') && count('{') == count('}'), "unbalanced: `{query}`");
    }
}

#[test]
fn a_query_for_what_is_not_exposed_is_found() {
    let exposed = exposed();
    for (query, expected) in [
        ("balancer_nothing_total > 0", "there is no metric `balancer_nothing_total`"),
        ("sum by (pod) (balancer_services)", "there is no label `pod`"),
        ("balancer_service_connections{state=\"x\"}", "there is no label `state`"),
        ("vector(1)", "it names no metric"),
    ] {
        assert_eq!(mistakes(query, &exposed), [expected], "{query}");
    }
}

#[test]
fn every_alert_has_a_name_of_its_own_and_says_what_to_do() {
    let mut names = BTreeSet::new();
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap().to_owned();
        for key in ["summary", "description"] {
            assert!(rule["annotations"][key].is_string(), "{name} has no {key}");
        }
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["info", "warning", "critical"].contains(&severity), "{name}: {severity}");
        assert!(names.insert(name.clone()), "{name} stands twice");
    }
    assert!(names.len() > 10);
}
