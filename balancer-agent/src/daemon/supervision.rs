//! Attached programs: taken over at the start, proved by a connection, looked after from then on.

use super::Daemon;
use crate::datapath::{
    hooks,
    self_test::{self, SelfTest},
};
use std::time::Duration;

/// Self-tests that must fail in a row before the hooks count as broken.
const SELF_TESTS: u32 = 3;
/// The pause between these.
const SELF_TEST_PAUSE: Duration = Duration::from_millis(200);

impl Daemon {
    /// Attaches the programs, or replaces those that run, and proves that they work.
    pub(super) async fn take_over(&mut self) -> anyhow::Result<()> {
        self.started.attach(&self.options, &mut self.engine.maps)?;
        let before = self.self_test.clone();
        for _ in 0..SELF_TESTS {
            self.self_test = self_test::run(&mut self.engine.maps, &self.options.cgroup).await;
            if self.self_test.passed {
                break;
            }
            // A link that somebody removed goes on counting until the kernel lets go of it.
            tokio::time::sleep(SELF_TEST_PAUSE).await;
        }
        // A test that goes on failing in the same way was reported when it began to.
        if !self.self_test.passed && self.self_test == before {
            return Ok(());
        }
        if self.self_test.passed {
            tracing::info!(detail = self.self_test.detail, "self-test passed");
        } else {
            let SelfTest { detail, hint, .. } = &self.self_test;
            tracing::error!(
                detail,
                hint,
                "self-test failed: the node is not balanced as it should"
            );
        }
        Ok(())
    }

    /// Attaches again what somebody else took away, and tests it. A test that failed is repeated:
    /// its cause may be gone.
    pub(super) async fn check_hooks(&mut self) {
        let missing: Vec<_> = hooks::HOOKS
            .iter()
            .filter(|(name, _)| !matches!(hooks::link_info(&self.options.pins, name), Ok(Some(info)) if info.cgroup_id != 0))
            .map(|(name, _)| *name)
            .collect();
        if missing.is_empty() && self.self_test.passed {
            return;
        }
        if !missing.is_empty() {
            tracing::error!(hooks = missing.join(", "), "hooks are gone; attaching them again");
            self.hooks_repaired += missing.len() as u64;
        }
        if let Err(error) = self.take_over().await {
            tracing::error!("{error:#}");
            self.self_test = SelfTest { passed: false, detail: format!("{error:#}"), hint: None };
        }
    }
}
