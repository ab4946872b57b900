//! What the daemon answers to commands.

use super::Daemon;
use crate::admin::{Answer, Request, Status};
use tokio::sync::oneshot;

impl Daemon {
    pub(super) fn answer(&mut self, request: Request, reply: oneshot::Sender<Answer>) {
        let answer = match request {
            Request::Status => {
                self.memory.is_due = true;
                self.status()
            }
            Request::Reload => {
                self.reload_replies.push(reply);
                self.file.reload();
                return;
            }
            Request::Pods => Answer::Pods { pods: self.pods.status() },
            Request::Drain { backend, undo, force } => self.drain_backend(backend, undo, force),
            Request::Rebalance { service, dry_run } => self.rebalance(&service, dry_run),
            Request::Trace => Answer::Failed { error: "traces do not come this way".into() },
        };
        let _ = reply.send(answer);
    }

    fn status(&self) -> Answer {
        let mut datapath = self.started.status(&self.options);
        datapath.hooks_repaired = self.hooks_repaired;
        datapath.degraded.extend(self.drainer.unable.clone());
        let dns = serde_json::to_value(self.dns_health.snapshot());
        let desired = serde_json::to_value(self.engine.core.report());
        let (Ok(dns), Ok(desired)) = (dns, desired) else {
            return Answer::Failed { error: "the status cannot be written as JSON".into() };
        };
        let problems = self.engine.core.problems();
        let problems = problems.iter().map(ToString::to_string).chain(self.dns_health.problem());
        let problems = problems.collect();
        Answer::Status(Box::new(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started_at.elapsed().as_secs(),
            config: self.config_status.clone(),
            datapath,
            self_test: self.self_test.clone(),
            desired,
            problems,
            differences: self.engine.differences(),
            dns,
            kubernetes: self.kubernetes.report().and_then(|it| serde_json::to_value(it).ok()),
            work: self.engine.work(),
            drained: self.drainer.status.clone(),
            user_drained: self.engine.core.drained().iter().copied().collect(),
            http2: self.http2.status.clone(),
        }))
    }
}
