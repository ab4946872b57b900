//! Single settings written as text: the annotations of a Kubernetes Service. They take the values,
//! ranges and words of the configuration file, so that both are learnt once.

use super::{
    behaviour,
    cause::Cause,
    endpoint,
    error::{KeyPath, Problems},
    scalar,
    tree::{self, Node, excerpt},
};
use crate::core::model::{Keepalive, Policy};
use std::{num::NonZeroU32, sync::Arc};

/// Longest text that is read; the longest sensible one has 45 characters.
const BYTES_MAX: usize = 1_024;

fn read<T>(text: &str, decode: impl FnOnce(&Node<'_>) -> Result<T, Cause>) -> Result<T, Cause> {
    if text.len() > BYTES_MAX {
        return Err(Cause::TextTooLong { text: excerpt(text), bytes_max: BYTES_MAX });
    }
    let node = tree::read(text).map_err(|problem| problem.cause)?;
    decode(&node)
}

/// `true` or `false`.
///
/// # Errors
/// What is wrong with the text, and how to mend it.
pub fn boolean(text: &str) -> Result<bool, Cause> {
    read(text, scalar::boolean)
}

/// How a backend is picked.
///
/// # Errors
/// What is wrong with the text, and how to mend it.
pub fn policy(text: &str) -> Result<Policy, Cause> {
    read(text, |node| scalar::word(node, &Policy::ALL, Policy::name))
}

/// A weight.
///
/// # Errors
/// What is wrong with the text, and how to mend it.
pub fn weight(text: &str) -> Result<u32, Cause> {
    read(text, endpoint::weight)
}

/// Session affinity in seconds.
///
/// # Errors
/// What is wrong with the text, and how to mend it.
pub fn affinity(text: &str) -> Result<Option<NonZeroU32>, Cause> {
    read(text, behaviour::affinity)
}

/// `TCP_USER_TIMEOUT` in milliseconds.
///
/// # Errors
/// What is wrong with the text, and how to mend it.
pub fn user_timeout(text: &str) -> Result<Option<NonZeroU32>, Cause> {
    read(text, behaviour::user_timeout)
}

/// How long a draining backend keeps its connections, in seconds.
///
/// # Errors
/// What is wrong with the text, and how to mend it.
pub fn drain_timeout(text: &str) -> Result<Option<NonZeroU32>, Cause> {
    read(text, behaviour::drain_timeout)
}

/// How long a move waits for a quiet moment, in milliseconds.
///
/// # Errors
/// What is wrong with the text, and how to mend it.
pub fn move_patience(text: &str) -> Result<Option<u32>, Cause> {
    read(text, behaviour::move_patience)
}

/// TCP keepalive, such as `{idle: 10s, interval: 5s, probes: 3}`.
///
/// # Errors
/// What is wrong with the text, and how to mend it: the first mistake of several.
pub fn keepalive(text: &str) -> Result<Option<Keepalive>, Cause> {
    read(text, |node| {
        let mut problems = Problems::default();
        let keepalive = behaviour::keepalive(node, KeyPath::ROOT, &mut problems);
        match problems.finish("") {
            Ok(()) => Ok(keepalive),
            Err(error) => {
                let first = error.problems.into_iter().next();
                Err(first.map_or(Cause::Empty, |problem| problem.cause))
            }
        }
    })
}

/// A DNS name, in lower case and without the trailing dot.
///
/// # Errors
/// What is wrong with the text, and how to mend it.
pub fn host_name(text: &str) -> Result<Arc<str>, Cause> {
    scalar::host(text)
}
