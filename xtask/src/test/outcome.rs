//! What test programs printed, summed up.

use std::{fmt::Write as _, process::ExitStatus, time::Duration};

/// What one test program came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    passed: u64,
    failed: u64,
    ignored: u64,
    filtered_out: u64,
    /// The names of the tests that failed, or what became of a program that died.
    failures: Vec<String>,
    /// The lines that start with SKIP.
    skips: Vec<String>,
}

impl Outcome {
    /// Reads one line of a libtest program.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(at) = line.find("SKIP ") {
            // The name of the running test may stand before it on the same line.
            if at == 0 || line.starts_with("test ") {
                self.skips.push(line[at + "SKIP ".len()..].trim().to_owned());
            }
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
            self.ignored += count(counts, "ignored");
            self.filtered_out += count(counts, "filtered out");
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix("... FAILED"))
        {
            self.failures.push(name.trim().to_owned());
        }
    }

    /// Adds how the program ended: it may have died before it could print a result.
    pub(super) fn finish(&mut self, status: ExitStatus) {
        if !status.success() && self.failed == 0 {
            self.failed = 1;
            self.failures.push(format!("the test program itself: {status}"));
        }
    }
}

/// The number before `what` in `ok. 3 passed; 0 failed; …`.
fn count(text: &str, what: &str) -> u64 {
    text.split([';', '.'])
        .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
        .unwrap_or(0)
}

/// What all test programs came to.
#[derive(Debug, Default)]
pub(super) struct Summary {
    total: Outcome,
    programs: u64,
}

impl Summary {
    /// Adds one program.
    pub(super) fn add(&mut self, program: &str, outcome: Outcome) {
        self.programs += 1;
        self.total.passed += outcome.passed;
        self.total.failed += outcome.failed;
        self.total.ignored += outcome.ignored;
        self.total.filtered_out += outcome.filtered_out;
        let within = |name: String| format!("{program}: {name}");
        self.total.failures.extend(outcome.failures.into_iter().map(within));
        self.total.skips.extend(outcome.skips.into_iter().map(within));
    }

    /// Whether anything failed.
    pub(super) fn failed(&self) -> bool {
        self.total.failed > 0
    }

    /// The closing lines, the last one as libtest's own.
    pub(super) fn render(&self, elapsed: Duration) -> String {
        let Outcome { passed, failed, ignored, filtered_out, failures, skips } = &self.total;
        let mut text = String::new();
        for skip in skips {
            let _ = writeln!(text, "skipped: {skip}");
        }
        for failure in failures {
            let _ = writeln!(text, "failed:  {failure}");
        }
        let _ = writeln!(text, "{} test programs, {} skips", self.programs, skips.len());
        let _ = write!(
            text,
            "test result: {}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; \
             {filtered_out} filtered out; finished in {:.2}s",
            if self.failed() { "FAILED" } else { "ok" },
            elapsed.as_secs_f64()
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn outcome(text: &str, code: i32) -> Outcome {
        let mut outcome = Outcome::default();
        text.lines().for_each(|line| outcome.read(line));
        outcome.finish(ExitStatus::from_raw(code << 8));
        outcome
    }

    #[test]
    fn results_failures_and_skips_are_read() {
        let text = "test a ... ok\ntest b::c ... FAILED\nSKIP d: no IPv6 here\n\
            test e ... SKIP e: no tcx\nok\n\
            test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.01s";
        let read = outcome(text, 101);
        assert_eq!((read.passed, read.failed, read.filtered_out), (3, 1, 2));
        assert_eq!(read.failures, ["b::c"]);
        assert_eq!(read.skips, ["d: no IPv6 here", "e: no tcx"]);
    }

    #[test]
    fn a_program_that_dies_without_a_result_is_a_failure() {
        let read = outcome("running 3 tests\n", 134);
        assert_eq!(read.failed, 1);
        assert!(read.failures[0].contains("the test program itself"));
        assert_eq!(outcome("test result: ok. 1 passed; 0 failed\n", 0).failed, 0);
    }

    #[test]
    fn the_summary_ends_like_libtest() {
        let mut summary = Summary::default();
        summary.add("x/y", outcome("SKIP d: reason\ntest result: ok. 2 passed; 0 failed\n", 0));
        summary.add("x/z", outcome("test result: ok. 3 passed; 0 failed\n", 0));
        let text = summary.render(Duration::from_millis(1500));
        assert!(!summary.failed());
        assert!(text.contains("skipped: x/y: d: reason"), "{text}");
        let last = "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s";
        assert_eq!(text.lines().last(), Some(last));
    }
}
