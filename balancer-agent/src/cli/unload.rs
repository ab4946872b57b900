//! `unload`: everything of ours leaves the kernel, and nothing of others.

use super::{
    arguments::Global,
    exit::Exit,
    page::{self, Page, Report},
};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Serialize)]
struct UnloadReport {
    pin_root: PathBuf,
    /// Whether there was anything.
    removed: bool,
}

impl Report for UnloadReport {
    fn lay_out(&self, page: &mut Page) {
        let path = self.pin_root.display();
        page.line(&if self.removed {
            format!("removed all programs and maps of {path}")
        } else {
            format!("nothing is pinned at {path}")
        });
    }
}

pub(super) fn run(global: &Global) -> anyhow::Result<Exit> {
    let pins = global.pins();
    let mut removed = false;
    if pins.path().exists() {
        // A running agent would attach its programs again.
        let lock = pins.lock()?;
        removed = pins.remove()?;
        drop(lock);
    }
    let pin_root = pins.path().into();
    page::print(global.output, &UnloadReport { pin_root, removed })?;
    Ok(Exit::Ok)
}
