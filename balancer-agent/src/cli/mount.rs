//! `mount`: bpffs for the pins, mounted before the agent starts.
//!
//! A command of its own because the agent's container may not hand a mount on to its node: what it
//! mounted by itself would end with it, and with that everything that was pinned.

use super::{
    arguments::Global,
    exit::Exit,
    page::{self, Page, Report},
};
use serde::Serialize;

#[derive(Serialize)]
struct MountReport {
    mounted: bool,
}

impl Report for MountReport {
    fn lay_out(&self, page: &mut Page) {
        page.line(if self.mounted { "bpffs was mounted" } else { "bpffs was mounted before" });
    }
}

pub(super) fn run(global: &Global) -> anyhow::Result<Exit> {
    let mounted = global.pins().mount()?;
    page::print(global.output, &MountReport { mounted })?;
    Ok(Exit::Ok)
}
