//! Whether the agent is alive, and whether it does its work. Pure.
//!
//! Ready means that this node balances what it knows of: every source has told all of its services,
//! the maps hold what is wanted, and a test connection proved the hooks. What does not count:
//! services in conflict or over a limit, names that do not resolve, and a configuration file that is
//! refused. They are this node's as much as every other's, have metrics of their own, and would stop
//! a rollout for the mistake of one user.

use super::vitals::Vitals;

/// What is said of an agent whose loop does not answer.
pub(super) const SILENT: &str = "the agent's loop does not answer: it is starting, or stuck";

/// Everything that keeps the agent from being ready; empty when it is.
pub(super) fn obstacles(vitals: Option<&Vitals>) -> Vec<String> {
    let Some(vitals) = vitals else {
        return vec![SILENT.to_owned()];
    };
    let mut obstacles = Vec::new();
    for source in &vitals.unsynced {
        obstacles.push(format!("not synced yet: {source}"));
    }
    if vitals.needs_retry {
        obstacles
            .push("the maps are not reconciled: a write failed and will be tried again".into());
    }
    if !vitals.self_test.passed {
        let detail = &vitals.self_test.detail;
        let hint = vitals.self_test.hint.as_ref().map(|hint| format!("; hint: {hint}"));
        obstacles
            .push(format!("the self-test has not passed: {detail}{}", hint.unwrap_or_default()));
    }
    obstacles
}

#[cfg(test)]
mod tests {
    use super::{super::exposition::tests::vitals, *};

    #[test]
    fn an_agent_is_ready_when_nothing_stands_in_its_way() {
        let ready = vitals();
        assert_eq!(obstacles(Some(&ready)), Vec::<String>::new());
        assert_eq!(obstacles(None), [SILENT]);

        let mut waiting = ready.clone();
        waiting.unsynced = vec!["services of source file".into()];
        assert_eq!(obstacles(Some(&waiting)), ["not synced yet: services of source file"]);

        let mut broken = ready;
        broken.needs_retry = true;
        broken.self_test.passed = false;
        broken.self_test.detail = "refused".into();
        broken.self_test.hint = Some("look".into());
        let found = obstacles(Some(&broken));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("not reconciled"), "{found:?}");
        assert_eq!(found[1], "the self-test has not passed: refused; hint: look");
    }
}
