//! `config`: an example to start from, a check before a file is used, and what the agent has in force.

use super::{
    arguments::{ConfigAction, Global},
    exit::Exit,
    page::{self, Page, Report, joined},
};
use crate::{
    admin::{self, Answer, ConfigStatus, Request, client},
    config::Config,
};
use anyhow::{Context, bail};
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(Serialize)]
struct ExampleReport {
    example: &'static str,
}

#[derive(Serialize)]
struct CheckReport {
    file: PathBuf,
    valid: bool,
    services: Option<usize>,
    /// Every mistake, with its line, key, cause and fix.
    error: Option<String>,
}

#[derive(Serialize)]
struct ShowReport {
    #[serde(flatten)]
    status: ConfigStatus,
    /// What the file holds now; in force unless it was refused.
    content: Option<String>,
}

impl Report for ExampleReport {
    fn lay_out(&self, page: &mut Page) {
        page.line(self.example.trim_end());
    }
}

impl Report for CheckReport {
    fn lay_out(&self, page: &mut Page) {
        match (&self.error, self.services) {
            (Some(error), _) => page.line(error.trim_end()),
            (None, services) => {
                let (file, services) = (self.file.display(), services.unwrap_or_default());
                page.line(&format!("{file}: valid, {services} services"));
            }
        }
    }
}

impl Report for ShowReport {
    fn lay_out(&self, page: &mut Page) {
        let status = &self.status;
        let state = match &status.rejected {
            Some(_) => "refused; the last good content is in force",
            None => "in force",
        };
        page.pairs(&[
            ("file", status.path.display().to_string()),
            ("state", state.into()),
            ("refused so far", status.rejections.to_string()),
            ("restart needed for", joined(&status.restart_needed)),
        ]);
        if let Some(error) = &status.rejected {
            page.heading("why it is refused");
            page.line(error.trim_end());
        }
        if let Some(content) = &self.content {
            page.heading("content");
            page.line(content.trim_end());
        }
    }
}

pub(super) fn run(global: &Global, action: &ConfigAction) -> anyhow::Result<Exit> {
    if let Some(file) = &action.check {
        return check(global, file);
    }
    if action.show {
        return show(global);
    }
    let example = Config::example();
    page::print(global.output, &ExampleReport { example })?;
    Ok(Exit::Ok)
}

fn check(global: &Global, file: &Path) -> anyhow::Result<Exit> {
    let text = fs::read_to_string(file).with_context(|| format!("read `{}`", file.display()))?;
    let parsed = Config::parse(&text, &file.display().to_string());
    let report = CheckReport {
        file: file.into(),
        valid: parsed.is_ok(),
        services: parsed.as_ref().ok().map(|config| config.services.len()),
        error: parsed.err().map(|error| error.to_string()),
    };
    page::print(global.output, &report)?;
    Ok(if report.valid { Exit::Ok } else { Exit::Unhealthy })
}

fn show(global: &Global) -> anyhow::Result<Exit> {
    let socket = admin::socket_path(&global.runtime_dir);
    let Answer::Status(status) = client::ask(&socket, &Request::Status)? else {
        bail!("the agent answered something else; hint: use the balancer-agent that runs here");
    };
    let status = status.config;
    let content = fs::read_to_string(&status.path).ok();
    let exit = match status.rejected {
        Some(_) => Exit::Unhealthy,
        None => Exit::Ok,
    };
    page::print(global.output, &ShowReport { status, content })?;
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_as_golden() {
        let status = ConfigStatus {
            path: "/etc/balancer/config.yaml".into(),
            rejected: Some("config.yaml:2:1: node: no such key `rnak`\n  hint: rank".into()),
            rejections: 1,
            restart_needed: vec!["limits".into()],
        };
        let content = Some("version: 1\n".into());
        page::check_golden("config-show", &ShowReport { status, content }, None);
        let valid =
            CheckReport { file: "a.yaml".into(), valid: true, services: Some(3), error: None };
        page::check_golden("config-check", &valid, None);
    }
}
