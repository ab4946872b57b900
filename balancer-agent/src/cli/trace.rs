//! `trace`: decisions as the kernel makes them, through the agent, or from the ring buffer if it is down.

mod event;

use self::event::{EventReport, Names};
use super::{
    arguments::{self, Global, Output},
    exit::Exit,
    snapshot::Snapshot,
};
use crate::{
    admin::{
        self, Answer, Request,
        client::{ClientError, Exchange},
    },
    datapath::trace::Tracer,
};
use anyhow::{Context, bail};
use balancer_common::{reason::Reason, trace::TraceEvent};
use std::{
    io::{self, Write},
    time::Instant,
};

pub(super) fn run(global: &Global, flags: &arguments::Trace) -> anyhow::Result<Exit> {
    let mut names = Names::open(global)?;
    let service = flags.service.as_deref();
    let service = service.map(|name| anyhow::Ok(Snapshot::read(global)?.service(name)?));
    let pod = flags.pod.as_deref();
    let pod = pod.map(|text| names.pods.parse(text)).transpose()?;
    let filter =
        Filter { service: service.transpose()?, reason: flags.reason, pod: pod.map(|pod| pod.id) };
    let printer = Printer {
        names,
        filter,
        output: global.output,
        left: flags.count,
        deadline: flags.timeout.map(|timeout| Instant::now() + timeout),
    };
    let socket = admin::socket_path(&global.runtime_dir);
    match Exchange::start(&socket, &Request::Trace) {
        Ok(exchange) => printer.follow_agent(exchange)?,
        Err(ClientError::Down { .. }) => printer.follow_ring_buffer(global)?,
        Err(error) => return Err(error.into()),
    }
    Ok(Exit::Ok)
}

/// What the user wants to see.
#[derive(Default)]
struct Filter {
    service: Option<u32>,
    reason: Option<Reason>,
    pod: Option<u64>,
}

impl Filter {
    fn passes(&self, event: &TraceEvent) -> bool {
        self.service.is_none_or(|id| id == event.service)
            && self.reason.is_none_or(|reason| reason as u32 == event.reason)
            && self.pod.is_none_or(|id| id == event.pod)
    }
}

struct Printer {
    names: Names,
    filter: Filter,
    output: Output,
    /// How many events are still wanted.
    left: Option<u64>,
    deadline: Option<Instant>,
}

impl Printer {
    fn follow_agent(mut self, mut exchange: Exchange) -> anyhow::Result<()> {
        eprintln!("tracing through the agent; Ctrl-C ends it");
        while !self.is_done() {
            let answer = match self.deadline {
                None => exchange.receive()?,
                Some(deadline) => {
                    let patience = deadline.saturating_duration_since(Instant::now());
                    exchange.receive_within(patience)?
                }
            };
            match answer {
                Some(Answer::Trace { event }) => {
                    let event = bytemuck::try_pod_read_unaligned(&event);
                    // Events of another length are another version's.
                    if let Ok(event) = event {
                        self.print(&event)?;
                    }
                }
                None if self.is_done() => {}
                _ => bail!("the agent has ended the trace; hint: `balancer-agent status`"),
            }
        }
        Ok(())
    }

    fn follow_ring_buffer(mut self, global: &Global) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the async runtime")?;
        runtime.block_on(async {
            let mut tracer = Tracer::start(&global.pins())?;
            eprintln!("agent down, reading the kernel's own ring buffer; Ctrl-C ends it");
            while !self.is_done() {
                let event = match self.deadline {
                    None => tracer.next().await?,
                    Some(deadline) => {
                        match tokio::time::timeout_at(deadline.into(), tracer.next()).await {
                            Ok(event) => event?,
                            Err(_) => break,
                        }
                    }
                };
                self.print(&event)?;
            }
            Ok(())
        })
    }

    fn is_done(&self) -> bool {
        self.left == Some(0) || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn print(&mut self, event: &TraceEvent) -> anyhow::Result<()> {
        if !self.filter.passes(event) {
            return Ok(());
        }
        let report = EventReport::new(event, &mut self.names);
        let mut stdout = io::stdout().lock();
        match self.output {
            Output::Json => {
                // One object a line, so that each can be read as it comes.
                serde_json::to_writer(&mut stdout, &report).map_err(io::Error::from)?;
                writeln!(stdout)?;
            }
            Output::Table => writeln!(stdout, "{report}")?,
        }
        stdout.flush()?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_join() {
        let event = TraceEvent {
            service: 3,
            reason: Reason::Picked as u32,
            pod: 7,
            ..TraceEvent::default()
        };
        let filter = |service, reason, pod| Filter { service, reason, pod };
        assert!(filter(None, None, None).passes(&event));
        assert!(filter(Some(3), Some(Reason::Picked), Some(7)).passes(&event));
        assert!(!filter(Some(4), Some(Reason::Picked), Some(7)).passes(&event));
        assert!(!filter(Some(3), Some(Reason::Refused), Some(7)).passes(&event));
        assert!(!filter(Some(3), Some(Reason::Picked), Some(8)).passes(&event));
    }
}
