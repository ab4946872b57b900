//! Outcomes: each run of a program ends in one reason, which is counted and, if asked for, traced.

use crate::{context, lookup, maps, pod};
use balancer_common::{address::Address, flow::Flow, reason::Reason, trace::TraceEvent};

/// What a run was about; filled in as far as it got.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) frontend: Address,
    pub(crate) frontend_port_be: u16,
    pub(crate) family: u16,
    pub(crate) service: u32,
    pub(crate) pick: Pick,
}

/// What was picked, from how many, and where it serves.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pick {
    pub(crate) address: Address,
    pub(crate) port_be: u16,
    pub(crate) incarnation: u32,
    pub(crate) backend: u32,
    pub(crate) generation: u32,
    pub(crate) slot: u32,
    pub(crate) slots: u32,
}

/// Counts and traces the outcome of a dial.
#[inline(always)]
pub(crate) fn dialled(reason: Reason, subject: &Subject, cookie: impl FnOnce() -> u64) {
    lookup::count(reason);
    if is_traced() {
        trace_dial(reason, subject, cookie());
    }
}

// VERIFIER: a function of its own, as is `trace_flow`: the event would not fit the caller's stack.
#[inline(never)]
fn trace_dial(reason: Reason, subject: &Subject, cookie: u64) {
    emit(&TraceEvent {
        time_ns: context::now_ns(),
        pod: pod::current(),
        cookie,
        frontend: subject.frontend,
        frontend_port_be: subject.frontend_port_be,
        family: subject.family,
        reason: reason as u32,
        service: subject.service,
        backend: subject.pick.backend,
        generation: subject.pick.generation,
        slot: subject.pick.slot,
        slots: subject.pick.slots,
        pid: context::current_pid(),
    });
}

/// Counts and traces what became of a tracked connection.
#[inline(always)]
pub(crate) fn observed(reason: Reason, cookie: u64, flow: &Flow) {
    lookup::count(reason);
    if is_traced() {
        trace_flow(reason, cookie, flow);
    }
}

#[inline(never)]
fn trace_flow(reason: Reason, cookie: u64, flow: &Flow) {
    emit(&TraceEvent {
        time_ns: context::now_ns(),
        pod: flow.pod,
        cookie,
        frontend: flow.frontend,
        frontend_port_be: flow.frontend_port_be,
        family: flow.frontend_family,
        reason: reason as u32,
        service: flow.service,
        backend: flow.backend,
        ..TraceEvent::default()
    });
}

#[inline(always)]
fn is_traced() -> bool {
    let until_ns = lookup::trace_until_ns();
    until_ns != 0 && context::now_ns() < until_ns
}

#[inline(always)]
fn emit(event: &TraceEvent) {
    // A full ring buffer loses the event, never the connection.
    let _ = maps::TRACES.output(event, 0);
}
