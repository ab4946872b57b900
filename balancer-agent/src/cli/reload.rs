//! `reload`: the agent reads its configuration file again, as on SIGHUP, and says what came of it.

use super::{
    arguments::Global,
    exit::Exit,
    page::{self, Page, Report},
};
use crate::admin::{self, Answer, Request, client};
use anyhow::bail;
use serde::Serialize;

#[derive(Serialize)]
struct ReloadReport {
    changed: bool,
}

impl Report for ReloadReport {
    fn lay_out(&self, page: &mut Page) {
        page.line(if self.changed {
            "the new content is in force"
        } else {
            "the file has not changed"
        });
    }
}

pub(super) fn run(global: &Global) -> anyhow::Result<Exit> {
    let socket = admin::socket_path(&global.runtime_dir);
    let Answer::Reloaded { changed } = client::ask(&socket, &Request::Reload)? else {
        bail!("the agent answered something else; hint: use the balancer-agent that runs here");
    };
    page::print(global.output, &ReloadReport { changed })?;
    Ok(Exit::Ok)
}
