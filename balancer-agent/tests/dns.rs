//! The DNS source against real DNS servers on the loopback interface. Each test has servers of its
//! own, on ports of their own; tests await queries and events instead of time.

#![expect(clippy::unwrap_used, reason = "a test may panic over what it wrote itself")]

#[path = "dns/failures.rs"]
mod failures;
#[path = "dns/hosts.rs"]
mod hosts;
#[path = "dns/log.rs"]
mod log;
#[path = "dns/scale.rs"]
mod scale;
#[path = "dns/server.rs"]
mod server;
#[path = "dns/services.rs"]
mod services;
#[path = "dns/source.rs"]
mod source;
#[path = "dns/system.rs"]
mod system;
