//! How a service treats its connections: the keys that `defaults` and each service share.

use super::{
    cause::Cause,
    error::{KeyPath, Problems},
    mapping::Mapping,
    scalar,
    tree::{Node, Value},
};
use crate::core::model::{Behaviour, Keepalive, Policy};
use std::num::NonZeroU32;

/// Keys of `defaults`, which services have too.
pub(super) const BEHAVIOUR_KEYS: &[&str] = &[
    "policy",
    "session-affinity",
    "tcp-user-timeout",
    "keepalive",
    "drain-timeout",
    "tracking",
    "ejection",
    "http2",
    "move-patience",
];
/// Keys of `keepalive`.
pub(super) const KEEPALIVE_KEYS: &[&str] = &["idle", "interval", "probes"];

/// What Kubernetes takes for `sessionAffinity: ClientIP` without a timeout.
const AFFINITY_CLIENT_S: u32 = 10_800;
/// Longest affinity, as in Kubernetes.
const AFFINITY_S_MAX: u32 = 86_400;
/// `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` of the kernel's include/net/tcp.h.
const KEEPALIVE_S_MAX: u32 = 32_767;
/// `MAX_TCP_KEEPCNT` of the kernel's include/net/tcp.h.
const KEEPALIVE_PROBES_MAX: u32 = 127;
/// `do_tcp_setsockopt` of the kernel's net/ipv4/tcp.c takes the timeout as an `int` of milliseconds.
const USER_TIMEOUT_MS_MAX: u32 = i32::MAX as u32;
/// Longest wait for a quiet moment. Who does not move for longer is taken for one that never will.
const MOVE_PATIENCE_MS_MAX: u32 = 60_000;
/// Longest drain, a week: what drains longer is better left to end by itself.
const DRAIN_S_MAX: u32 = 604_800;

// === impl Behaviour ===

impl Behaviour {
    /// Reads the keys that `map` has; those that it has not are as in `base`.
    pub(super) fn read(map: &Mapping<'_>, base: Self, problems: &mut Problems) -> Self {
        let behaviour = Self {
            policy: map
                .read("policy", problems, |node| scalar::word(node, &Policy::ALL, Policy::name))
                .unwrap_or(base.policy),
            affinity_s: map.read("session-affinity", problems, affinity).unwrap_or(base.affinity_s),
            user_timeout_ms: map
                .read("tcp-user-timeout", problems, user_timeout)
                .unwrap_or(base.user_timeout_ms),
            keepalive: match map.get("keepalive") {
                Some(node) => keepalive(node, map.path.key("keepalive"), problems),
                None => base.keepalive,
            },
            drain_timeout_s: map
                .read("drain-timeout", problems, drain_timeout)
                .unwrap_or(base.drain_timeout_s),
            tracked: map.read("tracking", problems, scalar::boolean).unwrap_or(base.tracked),
            ejects: map.read("ejection", problems, scalar::boolean).unwrap_or(base.ejects),
            http2: map.read("http2", problems, scalar::boolean).unwrap_or(base.http2),
            move_patience_ms: map
                .read("move-patience", problems, move_patience)
                .unwrap_or(base.move_patience_ms),
        };
        // A service that sets neither key inherits the clash, which is told once, where it stands.
        let (key, set) = match map.get("tracking") {
            Some(node) => ("tracking", Some(node)),
            None => ("policy", map.get("policy")),
        };
        if let Some(node) = set
            && behaviour.policy.needs_counts()
            && !behaviour.tracked
        {
            problems.add(
                node.at,
                map.path.key(key),
                Cause::UntrackedCounts { policy: behaviour.policy.name() },
            );
        }
        behaviour
    }
}

pub(super) fn is_off(node: &Node<'_>) -> bool {
    node.text() == Some("off")
}

/// Zero is below every range here, so that the number is there.
fn some(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

pub(super) fn affinity(node: &Node<'_>) -> Result<Option<NonZeroU32>, Cause> {
    if is_off(node) {
        return Ok(None);
    }
    if node.text() == Some("client") {
        return Ok(some(AFFINITY_CLIENT_S));
    }
    expect_duration_or("a duration such as `3h`, `client`, or `off`", node)?;
    scalar::seconds(node, 1..=AFFINITY_S_MAX).map(some)
}

pub(super) fn user_timeout(node: &Node<'_>) -> Result<Option<NonZeroU32>, Cause> {
    if is_off(node) {
        return Ok(None);
    }
    expect_duration_or("a duration such as `20s`, or `off`", node)?;
    scalar::milliseconds(node, 1..=USER_TIMEOUT_MS_MAX).map(some)
}

pub(super) fn drain_timeout(node: &Node<'_>) -> Result<Option<NonZeroU32>, Cause> {
    if is_off(node) {
        return Ok(None);
    }
    expect_duration_or("a duration such as `5m`, or `off`", node)?;
    scalar::seconds(node, 1..=DRAIN_S_MAX).map(some)
}

pub(super) fn move_patience(node: &Node<'_>) -> Result<Option<u32>, Cause> {
    if is_off(node) {
        return Ok(None);
    }
    expect_duration_or("a duration such as `500ms`, or `off`", node)?;
    scalar::milliseconds(node, 0..=MOVE_PATIENCE_MS_MAX).map(Some)
}

/// Refuses what is neither text nor number with all that may stand there.
fn expect_duration_or(expected: &'static str, node: &Node<'_>) -> Result<(), Cause> {
    match node.value {
        Value::Text(_) | Value::Integer(_) | Value::Float(_) => Ok(()),
        _ => Err(Cause::Kind { expected, found: node.found() }),
    }
}

pub(super) fn keepalive(
    node: &Node<'_>,
    path: KeyPath<'_>,
    problems: &mut Problems,
) -> Option<Keepalive> {
    if is_off(node) {
        return None;
    }
    if !matches!(node.value, Value::Map(_)) {
        let expected = "`off`, or `{idle: 10s, interval: 5s, probes: 3}`";
        let found = node.found();
        problems.add(node.at, path, Cause::Kind { expected, found });
        return None;
    }
    let map = Mapping::open(node, path, KEEPALIVE_KEYS, problems)?;
    let time = |node: &Node<'_>| scalar::seconds(node, 1..=KEEPALIVE_S_MAX);
    let probes = |node: &Node<'_>| scalar::number(node, 1..=KEEPALIVE_PROBES_MAX);
    let idle_s = map.require("idle", "idle: 10s", problems, time);
    let interval_s = map.require("interval", "interval: 5s", problems, time);
    let probes = map.require("probes", "probes: 3", problems, probes);
    Some(Keepalive {
        idle_s: idle_s.and_then(some)?,
        interval_s: interval_s.and_then(some)?,
        probes: probes.and_then(some)?,
    })
}
