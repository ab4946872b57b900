//! `unload`: everything of ours leaves the kernel, and nothing of others.

use super::{arguments::Global, exit::Exit};
use std::io::Write;

pub(super) fn run(global: &Global) -> anyhow::Result<Exit> {
    let pins = global.pins();
    let mut stdout = std::io::stdout().lock();
    if !pins.path().exists() {
        writeln!(stdout, "nothing is pinned at {}", pins.path().display())?;
        return Ok(Exit::Ok);
    }
    // A running agent would attach its programs again.
    let lock = pins.lock()?;
    pins.remove()?;
    drop(lock);
    writeln!(
        stdout,
        "removed all programs and maps of {}",
        pins.path().display()
    )?;
    Ok(Exit::Ok)
}
