//! Moves that the kernel was asked for, until it has made them.

use super::{super::startup::Started, accounts::End};
use crate::core::model::ServiceName;
use balancer_common::http2::{
    Http2Request,
    flow::{Http2Flow, Http2Key, Visibility},
    gate::{WANTED, WANTED_NOW},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long a move is waited for at all. An idle connection moves with its next keepalive probe.
const WAITED_MAX: Duration = Duration::from_mins(5);

#[derive(Clone, Debug)]
struct Wish {
    /// Whose connection it is.
    service: ServiceName,
    key: Http2Key,
    at: Instant,
    /// How long a quiet moment is waited for, in which no stream is in flight. After that any boundary
    /// between frames will do; never, if there is none.
    patience: Option<Duration>,
    /// Whether the kernel may move it with streams in flight.
    is_urgent: bool,
}

/// Moves that were asked for, by socket cookie.
#[derive(Debug, Default)]
pub(super) struct Wishes(BTreeMap<u64, Wish>);

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Those that came to an end, each by the service that it was begun for.
    pub(super) ends: Vec<(ServiceName, End)>,
    pub(super) error: Option<String>,
}

/// What is to be done about a move that was not made yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Wait,
    Urge,
    GiveUp,
}

// === impl Wish ===

impl Wish {
    fn due(&self, waited: Duration) -> Due {
        if waited > WAITED_MAX {
            Due::GiveUp
        } else if !self.is_urgent && self.patience.is_some_and(|patience| waited >= patience) {
            Due::Urge
        } else {
            Due::Wait
        }
    }
}

// === impl Wishes ===

impl Wishes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks for a move at the next quiet moment, or at once without patience; whether the connection was still
    /// there.
    pub(super) fn begin(
        &mut self,
        started: &Started,
        (service, cookie): (&ServiceName, u64),
        key: Http2Key,
        patience: Option<Duration>,
    ) -> Result<bool, String> {
        let is_urgent = patience == Some(Duration::ZERO);
        let wanted = if is_urgent { WANTED | WANTED_NOW } else { WANTED };
        let request = Http2Request { key, cookie, wanted };
        let is_there = started.request(&request)?;
        if is_there {
            let service = service.clone();
            self.0.insert(cookie, Wish { service, key, at: Instant::now(), patience, is_urgent });
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
            let mut end = |end| outcome.ends.push((wish.service.clone(), end));
            let Some((_, flow)) = seen.get(cookie) else {
                // Closed: after the move if all went well, and for reasons of its own if not.
                end(End::Made);
                return false;
            };
            match flow.visibility() {
                Visibility::Moved => {
                    end(End::Made);
                    return false;
                }
                Visibility::OutOfSync | Visibility::Opaque => {
                    end(End::GivenUp);
                    return false;
                }
                Visibility::Awaited | Visibility::Visible => {}
            }
            let ask =
                |wanted| started.request(&Http2Request { key: wish.key, cookie: *cookie, wanted });
            let result = match wish.due(wish.at.elapsed()) {
                Due::GiveUp => {
                    end(End::GivenUp);
                    ask(0).map(|_| false)
                }
                Due::Urge => {
                    wish.is_urgent = true;
                    ask(WANTED | WANTED_NOW)
                }
                Due::Wait => Ok(true),
            };
            result.unwrap_or_else(|error| {
                outcome.error = Some(error);
                false
            })
        });
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_moment_is_waited_for_as_long_as_was_asked() {
        let wish = |patience, is_urgent| Wish {
            service: ServiceName::new("shop").unwrap(),
            key: Http2Key::default(),
            at: Instant::now(),
            patience,
            is_urgent,
        };
        let ms = Duration::from_millis;
        let some = wish(Some(ms(500)), false);
        assert_eq!([ms(499), ms(500)].map(|waited| some.due(waited)), [Due::Wait, Due::Urge]);
        assert_eq!(wish(Some(ms(500)), true).due(ms(501)), Due::Wait, "it was urged already");
        let never = wish(None, false);
        assert_eq!([ms(1), WAITED_MAX].map(|waited| never.due(waited)), [Due::Wait; 2]);
        assert_eq!(never.due(WAITED_MAX + ms(1)), Due::GiveUp);
    }
}
