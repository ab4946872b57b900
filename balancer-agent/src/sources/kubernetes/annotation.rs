//! What annotations of a Service say about balancing. A wrong one is a fault with cause and fix, and
//! the default applies; the others count.

use crate::{
    config::{Cause, annotation as read},
    core::discovery::{ANNOTATION_PREFIX, Fault, Overrides},
};
use std::{collections::BTreeMap, sync::Arc};

/// What may stand behind [`ANNOTATION_PREFIX`].
pub const ANNOTATIONS: [&str; 11] = [
    "balance",
    "policy",
    "weight",
    "session-affinity",
    "tcp-user-timeout",
    "keepalive",
    "drain-timeout",
    "tracking",
    "ejection",
    "http2",
    "move-patience",
];
/// Annotations in which external-dns finds the names of a Service, newest first.
const HOSTNAMES: [&str; 2] =
    ["external-dns.kubernetes.io/hostname", "external-dns.alpha.kubernetes.io/hostname"];
/// Most names of one Service that are looked up.
const HOSTS_MAX: usize = 16;
/// Most unknown annotations that are told of.
const UNKNOWN_MAX: usize = 8;
/// Edits that a misspelt annotation may be away from the one that was meant.
const EDITS_MAX: usize = 3;

/// What annotations say.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) balance: Option<bool>,
    pub(super) overrides: Overrides,
    pub(super) hosts: Vec<Arc<str>>,
    pub(super) faults: Vec<Fault>,
}

/// Reads all annotations of a Service.
pub(super) fn read_all(annotations: &BTreeMap<String, String>) -> Said {
    let mut said = Said::default();
    let ours = annotations.range(ANNOTATION_PREFIX.to_owned()..);
    let mut unknown = 0;
    for (key, text) in ours.take_while(|(key, _)| key.starts_with(ANNOTATION_PREFIX)) {
        let name = &key[ANNOTATION_PREFIX.len()..];
        let result = match name {
            "balance" => read::boolean(text).map(|it| said.balance = Some(it)),
            "policy" => read::policy(text).map(|it| said.overrides.policy = Some(it)),
            "weight" => read::weight(text).map(|it| said.overrides.weight = Some(it)),
            "session-affinity" => {
                read::affinity(text).map(|it| said.overrides.affinity_s = Some(it))
            }
            "tcp-user-timeout" => {
                read::user_timeout(text).map(|it| said.overrides.user_timeout_ms = Some(it))
            }
            "keepalive" => read::keepalive(text).map(|it| said.overrides.keepalive = Some(it)),
            "drain-timeout" => {
                read::drain_timeout(text).map(|it| said.overrides.drain_timeout_s = Some(it))
            }
            "tracking" => read::boolean(text).map(|it| said.overrides.tracked = Some(it)),
            "ejection" => read::boolean(text).map(|it| said.overrides.ejects = Some(it)),
            "http2" => read::boolean(text).map(|it| said.overrides.http2 = Some(it)),
            "move-patience" => {
                read::move_patience(text).map(|it| said.overrides.move_patience_ms = Some(it))
            }
            _ => {
                unknown += 1;
                if unknown <= UNKNOWN_MAX {
                    said.faults.push(not_known(key, name));
                }
                Ok(())
            }
        };
        if let Err(cause) = result {
            said.faults.push(fault(key, &cause));
        }
    }
    read_hosts(annotations, &mut said);
    said
}

fn field(key: &str) -> String {
    let short: String = key.chars().take(128).flat_map(char::escape_debug).collect();
    format!("metadata.annotations[{short}]")
}

fn fault(key: &str, cause: &Cause) -> Fault {
    Fault {
        field: field(key),
        cause: format!("{cause}, so that the default applies"),
        fix: cause.hint(),
    }
}

fn not_known(key: &str, name: &str) -> Fault {
    let distance = |known: &&str| strsim::damerau_levenshtein(name, known);
    let nearest = ANNOTATIONS.iter().min_by_key(|known| distance(known));
    let fix = match nearest.filter(|known| distance(known) <= EDITS_MAX) {
        Some(known) => format!("did you mean `{ANNOTATION_PREFIX}{known}`?"),
        None => format!("known behind `{ANNOTATION_PREFIX}`: {}", ANNOTATIONS.join(", ")),
    };
    Fault { field: field(key), cause: "there is no such annotation".into(), fix }
}

fn read_hosts(annotations: &BTreeMap<String, String>, said: &mut Said) {
    for key in HOSTNAMES {
        let Some(text) = annotations.get(key) else {
            continue;
        };
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        for name in names {
            if said.hosts.len() == HOSTS_MAX {
                said.faults.push(Fault {
                    field: field(key),
                    cause: format!(
                        "there are more than {HOSTS_MAX} names; the others are left out"
                    ),
                    fix: format!("keep {HOSTS_MAX} of them"),
                });
                return;
            }
            match read::host_name(name) {
                Ok(host) if said.hosts.contains(&host) => {}
                Ok(host) => said.hosts.push(host),
                Err(cause) => said.faults.push(Fault {
                    field: field(key),
                    cause: format!("{cause}, so that clients of this name are not balanced"),
                    fix: cause.hint(),
                }),
            }
        }
    }
    // Garbage may have a mistake in each of thousands of names.
    said.faults.truncate(ANNOTATIONS.len() + UNKNOWN_MAX + HOSTS_MAX);
}
