//! `check`: what this machine offers and lacks, before the agent is started or when it is unwell.

mod capability;
mod host;
mod programs;
mod proof;

use super::{
    arguments::Global,
    exit::Exit,
    page::{self, Page, Report, or_dash},
};
use serde::Serialize;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ok,
    /// Works, with a loss.
    Warn,
    /// Does not work.
    Fail,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    #[serde(rename = "check")]
    name: &'static str,
    verdict: Verdict,
    finding: String,
    hint: Option<String>,
}

impl Check {
    fn ok(check: &'static str, finding: impl Into<String>) -> Self {
        Self { name: check, verdict: Verdict::Ok, finding: finding.into(), hint: None }
    }

    fn warn(check: &'static str, finding: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, hint: Some(hint.into()), ..Self::ok(check, finding) }
    }

    fn fail(check: &'static str, finding: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(check, finding, hint) }
    }

    /// A failure told by an error whose text may end in a hint of its own.
    fn error(check: &'static str, error: &str) -> Self {
        match error.split_once("; hint: ") {
            Some((finding, hint)) => Self::fail(check, finding, hint),
            None => Self::fail(check, error, "see the finding"),
        }
    }
}

#[derive(Debug, Serialize)]
struct CheckReport {
    /// Whether no check failed.
    passed: bool,
    checks: Vec<Check>,
}

impl CheckReport {
    fn new(checks: Vec<Check>) -> Self {
        let passed = checks.iter().all(|check| check.verdict != Verdict::Fail);
        Self { passed, checks }
    }

    fn count(&self, verdict: Verdict) -> usize {
        let checks = self.checks.iter();
        checks.filter(|check| check.verdict == verdict).count()
    }
}

impl Report for CheckReport {
    fn lay_out(&self, page: &mut Page) {
        let row = |check: &Check| {
            let verdict = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            vec![
                check.name.to_owned(),
                verdict.to_owned(),
                check.finding.clone(),
                or_dash(check.hint.as_ref()),
            ]
        };
        let rows = self.checks.iter().map(row).collect();
        page.table(&["check", "result", "~finding", "~hint"], rows);
        page.line(&format!(
            "\n{} ok, {} warnings, {} failures",
            self.count(Verdict::Ok),
            self.count(Verdict::Warn),
            self.count(Verdict::Fail)
        ));
    }
}

pub(super) fn run(global: &Global) -> anyhow::Result<Exit> {
    let release = host::release();
    let mut checks = vec![host::kernel(release), capability::check(release), host::cgroup(global)];
    checks.extend(host::cgroup_v1(release));
    checks.extend([host::bpffs(global), host::jit(), host::lockdown(), host::loopback()]);
    checks.push(host::destroying());
    checks.extend(programs::check(global));
    checks.push(host::agent(global));
    // The last one, since it takes a while.
    checks.extend(proof::check());
    let report = CheckReport::new(checks);
    page::print(global.output, &report)?;
    Ok(if report.passed { Exit::Ok } else { Exit::Unhealthy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_golden() {
        let report = CheckReport::new(vec![
            Check::ok("kernel", "6.12.0"),
            Check::warn("jit", "the JIT compiler is off", "`sysctl -w net.core.bpf_jit_enable=1`"),
            Check::error("cgroup v2", "no cgroup v2 hierarchy is mounted; hint: mount one"),
        ]);
        assert!(!report.passed);
        page::check_golden("check", &report, None);
    }
}
