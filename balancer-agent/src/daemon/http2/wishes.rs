//! Moves that the kernel was asked for, until it has made them.

use super::super::startup::Started;
use balancer_common::http2::{
    Http2Request,
    flow::{Http2Flow, Http2Key, Visibility},
    gate::{WANTED, WANTED_NOW},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long a quiet moment is waited for, in which no stream is in flight. After that any boundary between
/// frames will do.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a move is waited for at all. An idle connection moves with its next keepalive probe.
const WAITED_MAX: Duration = Duration::from_mins(5);

#[derive(Clone, Copy, Debug)]
struct Wish {
    key: Http2Key,
    at: Instant,
    /// Whether the kernel may move it with streams in flight.
    is_urgent: bool,
}

/// Moves that were asked for, by socket cookie.
#[derive(Debug, Default)]
pub(super) struct Wishes(BTreeMap<u64, Wish>);

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) made: u64,
    pub(super) given_up: u64,
    pub(super) error: Option<String>,
}

// === impl Wishes ===

impl Wishes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks for a move at the next quiet moment; whether the connection was still there.
    pub(super) fn begin(
        &mut self,
        started: &Started,
        cookie: u64,
        key: Http2Key,
    ) -> Result<bool, String> {
        let request = Http2Request { key, cookie, wanted: WANTED };
        let is_there = started.request(&request)?;
        if is_there {
            self.0.insert(cookie, Wish { key, at: Instant::now(), is_urgent: false });
        }
        Ok(is_there)
    }

    /// Looks at what became of the moves that were asked for.
    pub(super) fn follow(
        &mut self,
        started: &Started,
        seen: &BTreeMap<u64, (Http2Key, Http2Flow)>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        self.0.retain(|cookie, wish| {
            let Some((_, flow)) = seen.get(cookie) else {
                // Closed: after the move if all went well, and for reasons of its own if not.
                outcome.made += 1;
                return false;
            };
            match flow.visibility() {
                Visibility::Moved => {
                    outcome.made += 1;
                    return false;
                }
                Visibility::OutOfSync | Visibility::Opaque => {
                    outcome.given_up += 1;
                    return false;
                }
                Visibility::Awaited | Visibility::Visible => {}
            }
            let ask =
                |wanted| started.request(&Http2Request { key: wish.key, cookie: *cookie, wanted });
            let waited = wish.at.elapsed();
            let result = if waited > WAITED_MAX {
                outcome.given_up += 1;
                ask(0).map(|_| false)
            } else if waited > PATIENCE && !wish.is_urgent {
                wish.is_urgent = true;
                ask(WANTED | WANTED_NOW)
            } else {
                Ok(true)
            };
            result.unwrap_or_else(|error| {
                outcome.error = Some(error);
                false
            })
        });
        outcome
    }
}
