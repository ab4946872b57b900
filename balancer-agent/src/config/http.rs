//! What the configuration says about metrics and health over HTTP. It stands apart because the HTTP
//! server needs this much of the configuration and no more.

use super::{
    cause::Cause,
    error::{KeyPath, Problems},
    mapping::Mapping,
    scalar,
    tree::{Node, Value},
};
use std::net::SocketAddr;

/// Keys of `http`.
pub(super) const HTTP_KEYS: &[&str] = &["listen", "services-max", "backends-max"];

/// Most services, and most backends, that a scrape may be told to name.
const SERIES_MAX: u32 = 100_000;

/// Where metrics and health are served, and how much a scrape may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Where to listen; nothing is served without.
    pub listen: Option<SocketAddr>,
    /// Services that have series of their own, the first by name.
    pub services_max: usize,
    /// Backends that have series of their own, the first by service and address.
    pub backends_max: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self { listen: None, services_max: 1_000, backends_max: 1_000 }
    }
}

/// Reads `http`.
pub(super) fn http(node: &Node<'_>, path: KeyPath<'_>, problems: &mut Problems) -> HttpSettings {
    let mut http = HttpSettings::default();
    let Some(map) = Mapping::open(node, path, HTTP_KEYS, problems) else {
        return http;
    };
    if let Some(listen) = map.read("listen", problems, listen) {
        http.listen = listen;
    }
    let limits =
        [("services-max", &mut http.services_max), ("backends-max", &mut http.backends_max)];
    for (key, limit) in limits {
        let number = map.read(key, problems, |node| scalar::number(node, 0..=SERIES_MAX));
        if let Some(number) = number {
            *limit = usize::try_from(number).unwrap_or(usize::MAX);
        }
    }
    http
}

fn listen(node: &Node<'_>) -> Result<Option<SocketAddr>, Cause> {
    match node.value {
        Value::Text(_) if node.text() == Some("off") => Ok(None),
        Value::Text(_) => scalar::listen_address(node).map(Some),
        _ => Err(Cause::Kind {
            expected: "an address such as `127.0.0.1:9463` or `\"[::]:9463\"`, or `off`",
            found: node.found(),
        }),
    }
}
