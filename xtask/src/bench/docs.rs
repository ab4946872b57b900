//! Writes measured tables into docs/performance.md, each between the markers of its benchmark.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::process;

const END: &str = "<!-- end of table -->";

/// What a benchmark saves.
#[derive(Deserialize)]
struct Report {
    benchmark: String,
    table: Vec<Vec<String>>,
}

/// Replaces the table of one benchmark in the document at `docs` by the report at `saved`.
pub(super) fn write(docs: &Path, saved: &Path) -> Result<()> {
    let json = fs::read(saved).with_context(|| format!("read {}", saved.display()))?;
    let report: Report =
        serde_json::from_slice(&json).with_context(|| format!("understand {}", saved.display()))?;
    let text = fs::read_to_string(docs).with_context(|| format!("read {}", docs.display()))?;
    let table = markdown(&report.table, &machine()?);
    let begin = begin(&report.benchmark);
    let new = replace(&text, &begin, &table)
        .with_context(|| format!("{} lacks the lines `{begin}` and `{END}`", docs.display()))?;
    fs::write(docs, new).with_context(|| format!("write {}", docs.display()))?;
    process::say(format!("wrote {}", docs.display()));
    Ok(())
}

fn begin(benchmark: &str) -> String {
    format!("<!-- table: cargo xtask bench --write-docs {benchmark} -->")
}

/// Date, processor and kernel, without which figures mean nothing.
fn machine() -> Result<String> {
    let date = process::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let kernel = process::output(Command::new("uname").arg("-r"))?;
    let cpus = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let load = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("a processor that does not name itself", |(_, model)| model);
    let number = cpus.lines().filter(|line| line.starts_with("processor")).count();
    Ok(format!(
        "Measured on {}, Linux {}, {number} CPUs of {model}; load average when it ended: {}.",
        date.trim(),
        kernel.trim(),
        load.split_whitespace().next().unwrap_or_default(),
    ))
}

fn markdown(table: &[Vec<String>], machine: &str) -> String {
    let mut text = String::new();
    for (index, row) in table.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if index == 0 {
            let _ = writeln!(text, "|{}", " --- |".repeat(row.len()));
        }
    }
    let _ = writeln!(text, "\n{machine}");
    text
}

fn replace(text: &str, begin: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_of_the_benchmark_is_replaced() {
        let text = format!(
            "# P\n{}\nold rpc\n{END}\n{}\nold connect\n{END}\nend\n",
            begin("rpc"),
            begin("connect")
        );
        let rows = [["figure", "median"], ["p50", "1.010x"]];
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.map(String::from).into()).collect();
        let table = markdown(&rows, "Measured now.");
        let new = replace(&text, &begin("connect"), &table).expect("both markers are there");
        assert!(new.contains("| p50 | 1.010x |") && new.contains("| --- | --- |"), "{new}");
        assert!(new.contains("old rpc") && !new.contains("old connect"), "{new}");
        assert!(new.ends_with(&format!("Measured now.\n{END}\nend\n")), "{new}");
        assert_eq!(replace("no markers", "x", "y"), None);
    }
}
