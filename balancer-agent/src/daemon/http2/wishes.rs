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
/// How long a calm moment is waited for after that, in which streams are in flight, but none was opened or ended
/// for a while. In others, more of what a client is about to send meets the frame.
const CALM_PATIENCE: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
struct Wish {
    /// Whose connection it is.
    service: ServiceName,
    key: Http2Key,
    at: Instant,
    /// How long a quiet moment is waited for, in which no stream is in flight; for ever, if there is none.
    patience: Option<Duration>,
    urgency: Urgency,
}

/// Which moment will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// One in which no stream is in flight.
    Quiet,
    /// One in which none was opened or ended for a while.
    Calm,
    /// Any boundary between frames.
    Any,
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
    Urge(Urgency),
    GiveUp,
}

// === impl Urgency ===

impl Urgency {
    /// That of a move which has waited for so long.
    fn after(waited: Duration, patience: Option<Duration>) -> Self {
        match patience {
            Some(Duration::ZERO) => Self::Any,
            Some(patience) if waited >= patience + CALM_PATIENCE => Self::Any,
            Some(patience) if waited >= patience => Self::Calm,
            Some(_) | None => Self::Quiet,
        }
    }

    /// What the kernel is asked for.
    const fn wanted(self) -> u64 {
        match self {
            Self::Quiet => WANTED,
            Self::Calm => WANTED | WANTED_NOW,
            Self::Any => WANTED_NOW,
        }
    }
}

// === impl Wish ===

impl Wish {
    fn due(&self, waited: Duration) -> Due {
        let urgency = Urgency::after(waited, self.patience);
        if waited > WAITED_MAX {
            Due::GiveUp
        } else if urgency > self.urgency {
            Due::Urge(urgency)
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
        let urgency = Urgency::after(Duration::ZERO, patience);
        let request = Http2Request { key, cookie, wanted: urgency.wanted() };
        let is_there = started.request(&request)?;
        if is_there {
            let service = service.clone();
            self.0.insert(cookie, Wish { service, key, at: Instant::now(), patience, urgency });
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
                Due::Urge(urgency) => {
                    wish.urgency = urgency;
                    ask(urgency.wanted())
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
        let wish = |patience, urgency| Wish {
            service: ServiceName::new("shop").unwrap(),
            key: Http2Key::default(),
            at: Instant::now(),
            patience,
            urgency,
        };
        let ms = Duration::from_millis;
        let begun = |patience| wish(patience, Urgency::after(Duration::ZERO, patience));
        let some = begun(Some(ms(500)));
        let expected = [Due::Wait, Due::Urge(Urgency::Calm), Due::Urge(Urgency::Any)];
        assert_eq!([499, 500, 750].map(|waited| some.due(ms(waited))), expected);
        let calm = wish(Some(ms(500)), Urgency::Calm);
        assert_eq!(calm.due(ms(749)), Due::Wait, "it was urged already");
        assert_eq!(begun(Some(ms(0))).due(WAITED_MAX), Due::Wait, "it was urgent from the start");
        let never = begun(None);
        assert_eq!([ms(1), WAITED_MAX].map(|waited| never.due(waited)), [Due::Wait; 2]);
        assert_eq!(never.due(WAITED_MAX + ms(1)), Due::GiveUp);
    }
}
