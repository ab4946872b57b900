//! The table of the kernel matrix: on the terminal, and in docs/kernels.md.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use comfy_table::{ContentArrangement, Table, presets};

use super::{
    Kernel,
    guest::{Console, Smoke},
};
use crate::process;

const BEGIN: &str = "<!-- table: cargo xtask test-kernels --write-docs -->";
const END: &str = "<!-- end of table -->";

/// One kernel's line.
#[derive(Debug)]
pub(super) struct Row {
    /// The kernel.
    pub(super) kernel: Kernel,
    /// What came of it.
    pub(super) verdict: Verdict,
    /// Its version; empty if it was not found.
    pub(super) version: String,
    booted: bool,
    /// What the program in it told.
    pub(super) smoke: Option<Smoke>,
    elapsed: Duration,
}

/// What came of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All is well.
    Passed,
    /// It did not boot, or the program did not do what it should.
    Failed(String),
    /// It could not be tried.
    Skipped(String),
}

impl Row {
    /// A kernel that could not be tried.
    pub(super) fn skipped(kernel: Kernel, reason: String) -> Self {
        let verdict = Verdict::Skipped(reason);
        let (version, elapsed) = (String::new(), Duration::ZERO);
        Self { kernel, verdict, version, booted: false, smoke: None, elapsed }
    }

    /// A kernel that was started.
    pub(super) fn new(kernel: Kernel, version: String, console: Result<Console>) -> Self {
        let (verdict, console) = match console {
            Ok(console) => (judge(&console), console),
            Err(error) => (Verdict::Failed(format!("{error:#}")), Console::default()),
        };
        let Console { booted, result, elapsed, .. } = console;
        Self { kernel, verdict, version, booted, smoke: result.and_then(Result::ok), elapsed }
    }

    fn cells(&self) -> [String; 9] {
        let yes = |value: bool| if value { "yes" } else { "**no**" }.to_owned();
        let of = |part: fn(&Smoke) -> bool| {
            self.smoke.as_ref().map_or_else(|| "-".into(), |smoke| yes(part(smoke)))
        };
        let degraded = match (&self.verdict, &self.smoke) {
            (Verdict::Skipped(reason), _) => format!("skipped: {reason}"),
            (Verdict::Failed(cause), _) => format!("failed: {cause}"),
            (Verdict::Passed, Some(smoke)) if !smoke.degraded.is_empty() => {
                smoke.degraded.join("; ")
            }
            (Verdict::Passed, _) => "nothing".into(),
        };
        let version = if self.version.is_empty() { self.kernel.name } else { &self.version };
        [
            version.into(),
            self.kernel.stands_for.into(),
            yes(self.booted),
            of(|smoke| smoke.loads),
            of(|smoke| smoke.attaches),
            of(|smoke| smoke.balanced),
            self.smoke.as_ref().and_then(|smoke| smoke.moved).map_or_else(|| "-".into(), yes),
            degraded,
            format!("{:.1}", self.elapsed.as_secs_f64()),
        ]
    }
}

fn judge(console: &Console) -> Verdict {
    let fail = |cause: String| Verdict::Failed(cause);
    match (&console.result, console.exit_code) {
        (None, _) if !console.booted && console.timed_out => fail("did not boot in time".into()),
        (None, _) if !console.booted => fail("did not boot".into()),
        (None, _) if console.timed_out => fail("gave no result in time".into()),
        (None, code) => fail(format!("gave no result (exit code {code:?})")),
        (Some(Err(error)), _) => fail(error.clone()),
        (Some(Ok(smoke)), code) => match (smoke.loads && smoke.attaches && smoke.balanced, code) {
            (true, Some(0)) => Verdict::Passed,
            (true, code) => fail(format!("ended badly after its result (exit code {code:?})")),
            (false, _) => fail(smoke.error.clone().unwrap_or_else(|| "smoke test failed".into())),
        },
    }
}

const HEADER: [&str; 9] = [
    "kernel",
    "stands for",
    "boots",
    "loads",
    "attaches",
    "balanced",
    "moves",
    "degraded",
    "seconds",
];

/// The table for a terminal.
pub(super) fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(HEADER);
    if table.width().is_none() {
        table.set_width(140);
    }
    for row in rows {
        table.add_row(row.cells().map(|cell| cell.replace("**", "")));
    }
    table.to_string()
}

/// Replaces the table in the document at `path`.
pub(super) fn write_docs(path: &Path, rows: &[Row]) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let date = process::output(std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let new = replace(&text, &markdown(rows, date.trim()))
        .with_context(|| format!("{} lacks the lines `{BEGIN}` and `{END}`", path.display()))?;
    fs::write(path, new).with_context(|| format!("write {}", path.display()))?;
    process::say(format!("wrote {}", path.display()));
    Ok(())
}

fn replace(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn markdown(rows: &[Row], date: &str) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&HEADER.map(String::from));
    text += &line(&HEADER.map(|_| "---".into()));
    for row in rows {
        text += &line(&row.cells().map(|cell| cell.replace('|', "\\|").replace('\n', " ")));
    }
    let _ = writeln!(text, "\nMeasured on {date}, in QEMU's emulator on one virtual CPU.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(balanced: bool, exit_code: i32) -> Console {
        let line = format!("{{\"loads\":true,\"attaches\":true,\"balanced\":{balanced}}}");
        let smoke: Smoke = serde_json::from_str(&line).expect("a result");
        let (result, exit_code) = (Some(Ok(smoke)), Some(exit_code));
        Console { booted: true, result, exit_code, ..Console::default() }
    }

    #[test]
    fn only_a_whole_success_passes() {
        assert_eq!(judge(&console(true, 0)), Verdict::Passed);
        let silent = Console { booted: true, ..Console::default() };
        let slow = Console { timed_out: true, ..Console::default() };
        for failed in [console(false, 0), console(true, 1), silent, slow] {
            assert!(matches!(judge(&failed), Verdict::Failed(_)), "{failed:?}");
        }
    }

    #[test]
    fn the_table_in_a_document_is_replaced_and_the_rest_kept() {
        let text = format!("# Title\n{BEGIN}\nold\n{END}\nrest\n");
        let rows = [Row::new(super::super::MATRIX[0], "5.10.0-30".into(), Ok(console(true, 0)))];
        let new = replace(&text, &markdown(&rows, "2026-01-02")).expect("both markers are there");
        assert!(new.starts_with("# Title\n") && new.ends_with("\nrest\n"), "{new}");
        assert!(
            new.contains("| 5.10.0-30 |") && new.contains("2026-01-02") && !new.contains("old")
        );
        assert_eq!(replace(&new, "x\n").map(|text| text.contains("5.10.0-30")), Some(false));
        assert_eq!(replace("no markers", "x"), None);
    }
}
