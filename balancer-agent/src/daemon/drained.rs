//! Backends that a user has taken out of service on this node: kept in a file beside the admin socket, so
//! that an agent that is started again does not send connections there.

use anyhow::Context;
use std::{collections::BTreeSet, fs, io, net::SocketAddr, path::Path};

/// The file in the runtime directory.
pub const FILE: &str = "drained.json";

/// What an earlier agent has written. What cannot be read counts as empty, and is told.
pub fn read(runtime: &Path) -> BTreeSet<SocketAddr> {
    let path = runtime.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeSet::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "nothing is drained: read the file");
            return BTreeSet::new();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(
            path = %path.display(),
            %error,
            "nothing is drained: the file is no list of addresses; `balancer-agent drain` writes it anew"
        );
        BTreeSet::new()
    })
}

/// Replaces the file in one step.
///
/// # Errors
/// Names the file.
pub fn write(runtime: &Path, drained: &BTreeSet<SocketAddr>) -> anyhow::Result<()> {
    let path = runtime.join(FILE);
    let draft = path.with_extension("json.new");
    let text = serde_json::to_vec(drained)?;
    fs::write(&draft, text).with_context(|| format!("write {}", draft.display()))?;
    fs::rename(&draft, &path).with_context(|| format!("rename to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_garbage_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path()).is_empty());
        let drained: BTreeSet<SocketAddr> =
            ["10.0.0.1:50051".parse().unwrap(), "[fd00::1]:443".parse().unwrap()].into();
        write(directory.path(), &drained).unwrap();
        assert_eq!(read(directory.path()), drained);
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert!(read(directory.path()).is_empty());
    }
}
