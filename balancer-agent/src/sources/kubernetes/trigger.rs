//! When the changes began that EndpointSlices tell of: the controller writes down the time of the
//! change of Pod or Service that made it write the slice. Whole seconds, in most cases.

use super::health::KubernetesHealth;
use crate::core::{discovery::ObjectKey, event::Event};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};
use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

/// `EndpointsLastChangeTriggerTime` of k8s.io/api/core/v1.
const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Older ones tell of clocks or of copied objects, not of latency.
const AGE_MAX: Duration = Duration::from_hours(1);

/// The times of a batch of changes, each with the Service whose slice carries it.
#[derive(Debug, Default)]
pub(super) struct Triggers(Vec<(ObjectKey, SystemTime)>);

/// When a slice's change began, if it says so. What cannot be is counted and left out.
pub(super) fn read(metadata: &ObjectMeta, health: &KubernetesHealth) -> Option<SystemTime> {
    let text = metadata.annotations.as_ref()?.get(ANNOTATION)?;
    let time = parse(text, SystemTime::now());
    if time.is_none() {
        health.note_trigger_ignored();
    }
    time
}

/// RFC 3339, not in the future and not long ago.
fn parse(text: &str, now: SystemTime) -> Option<SystemTime> {
    let time = SystemTime::from(text.parse::<Timestamp>().ok()?);
    now.duration_since(time).is_ok_and(|age| age <= AGE_MAX).then_some(time)
}

// === impl Triggers ===

impl Triggers {
    /// Takes in when a change of a Service began.
    pub(super) fn add(&mut self, service: ObjectKey, time: SystemTime) {
        self.0.push((service, time));
    }

    /// The times of those changes that came to something.
    pub(super) fn of(&self, events: &[Event]) -> Vec<SystemTime> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let changed: BTreeSet<&str> = events
            .iter()
            .filter_map(|event| match event {
                Event::ServiceChanged { service, .. } => Some(service.name.as_str()),
                _ => None,
            })
            // A service is named by its Service and port.
            .filter_map(|name| Some(name.rsplit_once(':')?.0))
            .collect();
        let of_changed = self.0.iter().filter(|(key, _)| changed.contains(&*key.to_string()));
        of_changed.map(|(_, time)| *time).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_time_of_the_last_hour_counts() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        for (text, age_s) in [
            ("2026-01-02T03:04:04Z", Some(1)),
            ("2026-01-02T03:04:05Z", Some(0)),
            ("2026-01-02T05:04:03.000000000+02:00", Some(2)),
            ("2026-01-02T02:04:05Z", Some(3_600)),
            ("2026-01-02T02:04:04Z", None),
            ("2026-01-02T03:04:06Z", None),
            ("1970-01-01T00:00:00Z", None),
            ("0001-01-01T00:00:00Z", None),
            ("9999-12-30T22:00:00Z", None),
            ("2026-01-02", None),
            ("yesterday", None),
            ("", None),
        ] {
            let age = parse(text, now).map(|time| now.duration_since(time).unwrap().as_secs());
            assert_eq!(age, age_s, "{text}");
        }
    }
}
