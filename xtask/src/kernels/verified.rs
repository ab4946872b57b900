//! Instructions that the kernels' verifiers went through: printed, compared with the committed figures, and
//! accepted anew by `UPDATE_GOLDEN=1`.

use std::{collections::BTreeSet, env, fs};

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};

use self::figures::{Figures, Judgement, Run};
use super::report::{Row, Verdict};
use crate::{process, workspace};

#[path = "../../../tests/src/verified/figures.rs"]
#[expect(unreachable_pub, reason = "its own crate is a library")]
mod figures;

/// The committed figures, from the root of the repository.
const FILE: &str = "tests/src/verified/figures.golden";
/// How new figures are accepted.
const HOW: &str = "`UPDATE_GOLDEN=1 cargo xtask test-kernels`";

/// Prints what the kernels told, and fails those where a program grew by more than it may.
pub(super) fn judge(rows: &mut [Row]) -> Result<()> {
    let path = workspace::root().join(FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut figures = Figures::parse(&text)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("read {}", path.display()))?;
    let runs: Vec<Option<Run>> = rows.iter().map(run).collect();
    let told: Vec<&Run> = runs.iter().flatten().collect();
    if told.is_empty() {
        return Ok(());
    }
    println!(
        "Verified instructions, and the change to the committed figures:\n{}",
        table(&told, &figures)
    );
    if env::var_os("UPDATE_GOLDEN").is_some() {
        for run in &told {
            figures.accept(run);
        }
        fs::write(&path, figures.render()).with_context(|| format!("write {}", path.display()))?;
        process::say(format!("wrote {}", path.display()));
    }
    for (row, run) in rows.iter_mut().zip(&runs) {
        let Some(run) = run else { continue };
        match figures.judge(run, HOW) {
            Judgement::Kept => {}
            Judgement::Unguarded(why) => {
                process::say(format!("kernel {}: unguarded: {why}", row.kernel.name));
            }
            Judgement::Grown(grown) => {
                for line in &grown {
                    process::say(format!("kernel {}: FAILED: {line}", row.kernel.name));
                }
                row.verdict = Verdict::Failed(grown.join("; "));
            }
        }
    }
    Ok(())
}

/// What a kernel told; nothing if the smoke test did not run there.
fn run(row: &Row) -> Option<Run> {
    let smoke = row.smoke.as_ref().filter(|_| row.verdict == Verdict::Passed)?;
    // Another program than the smoke test tells nothing of this.
    let toolchain = Some(smoke.toolchain.clone()).filter(|toolchain| !toolchain.is_empty())?;
    Some(Run { kernel: row.version.clone(), toolchain, counts: smoke.verified.clone() })
}

fn table(runs: &[&Run], figures: &Figures) -> Table {
    let programs: BTreeSet<&String> = runs.iter().flat_map(|run| run.counts.keys()).collect();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["program"].into_iter().chain(runs.iter().map(|run| run.kernel.as_str())));
    for program in programs {
        let cell = |run: &&Run| {
            let is = run.counts.get(program);
            is.map_or_else(|| "-".into(), |is| cell(*is, figures.committed(run, program)))
        };
        table.add_row([program.clone()].into_iter().chain(runs.iter().map(cell)));
    }
    table
}

fn cell(is: u32, was: Option<u32>) -> String {
    match was {
        None => format!("{is} (new)"),
        Some(was) if was == is => is.to_string(),
        Some(was) => {
            let change = (f64::from(is) / f64::from(was.max(1)) - 1.0) * 100.0;
            format!("{is} ({change:+.1} %)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_figures_are_read_and_written_the_same() {
        let text = fs::read_to_string(workspace::root().join(FILE)).expect("readable");
        assert_eq!(Figures::parse(&text).expect("valid").render(), text);
    }

    #[test]
    fn a_table_shows_what_changed() {
        let counts = [("a".into(), 110), ("b".into(), 7)].into();
        let run = Run { kernel: "6.1.0".into(), toolchain: "rustc-1".into(), counts };
        let old = Run { kernel: "5.10.0".into(), toolchain: "rustc-1".into(), ..Run::default() };
        let figures = Figures::parse("6.1 rustc-1 a 100").expect("valid");
        let text = table(&[&old, &run], &figures).to_string();
        for said in ["110 (+10.0 %)", "7 (new)", "-", "6.1.0", "5.10.0"] {
            assert!(text.contains(said), "{text}");
        }
    }
}
