//! What the configuration says about DNS. It stands apart because the DNS source needs this much
//! of the configuration and no more.

use std::{net::SocketAddr, time::Duration};

/// How names are resolved, and how long answers count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// Servers to ask; empty means those of the system's resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// An answer is not asked for again sooner than this, whatever its TTL.
    pub ttl_min: Duration,
    /// An answer is asked for again after this at the latest, whatever its TTL.
    pub ttl_max: Duration,
    /// How long one attempt waits for a server.
    pub timeout: Duration,
    /// Attempts per server before a query has failed.
    pub attempts: usize,
    /// How long the last good set is kept while answers fail (RFC 8767).
    pub serve_stale: Duration,
    /// How long an address must be missing from the answers before it has departed.
    pub removal_delay: Duration,
    /// How long a departed address stays a frontend, for clients that remember it.
    pub grace: Duration,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            ttl_min: Duration::from_secs(1),
            ttl_max: Duration::from_mins(5),
            timeout: Duration::from_secs(2),
            attempts: 2,
            // RFC 8767 section 5 suggests one to three days; clients of a day-old address fail
            // anyway if it is wrong, and work if it is right.
            serve_stale: Duration::from_hours(24),
            removal_delay: Duration::from_secs(10),
            grace: Duration::from_mins(10),
        }
    }
}
