//! Forwards what the kernel programs log (aya-log) into the agent's own log.

use crate::datapath::log::DatapathLog;
use aya::Ebpf;

/// Starts forwarding. Without a log level the programs have no log calls left, and this only waits.
pub(super) fn start(ebpf: &mut Ebpf) {
    match DatapathLog::open(ebpf) {
        Ok(log) => {
            tokio::spawn(log.forward());
        }
        Err(error) => tracing::warn!(%error, "the kernel programs' log is not available"),
    }
}
