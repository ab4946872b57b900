//! Every key of the configuration in one list, against which documentation and example are held.

use super::{behaviour, endpoint, http, kubernetes, section, service};

/// Keys of the document.
pub(super) const ROOT_KEYS: &[&str] =
    &["version", "node", "dns", "kubernetes", "limits", "log", "http", "defaults", "services"];

/// Every mapping of the schema by its path, with the keys that may stand in it.
const MAPPINGS: &[(&str, &[&str])] = &[
    ("", ROOT_KEYS),
    ("node.", section::NODE_KEYS),
    ("dns.", section::DNS_KEYS),
    ("kubernetes.", kubernetes::KUBERNETES_KEYS),
    ("limits.", section::LIMITS_KEYS),
    ("log.", section::LOG_KEYS),
    ("http.", http::HTTP_KEYS),
    ("defaults.", behaviour::BEHAVIOUR_KEYS),
    ("defaults.keepalive.", behaviour::KEEPALIVE_KEYS),
    ("services[].", service::SERVICE_KEYS),
    ("services[].frontends[].", endpoint::FRONTEND_KEYS),
    ("services[].backends[].", endpoint::BACKEND_KEYS),
    ("services[].dns.", endpoint::SERVICE_DNS_KEYS),
    ("services[].keepalive.", behaviour::KEEPALIVE_KEYS),
];

/// The path of every key, such as `services[].backends[].weight`.
pub fn keys() -> impl Iterator<Item = String> {
    let paths = |(path, keys): &(&'static str, &'static [&'static str])| {
        let path = *path;
        keys.iter().map(move |key| format!("{path}{key}"))
    };
    MAPPINGS.iter().flat_map(paths)
}
