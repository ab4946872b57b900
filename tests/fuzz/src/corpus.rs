//! Inputs that are kept: where each target begins, and whatever once made one fail.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where the inputs of a target are.
pub fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// All inputs of a target with their names, in the order of these.
///
/// # Errors
/// Names what cannot be read.
pub fn read(target: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let folder = folder(target);
    let named = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("read {}: {error}", path.display()))
    };
    let mut inputs = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|error| named(&folder, error))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        inputs.push((name, fs::read(&path).map_err(|error| named(&path, error))?));
    }
    inputs.sort();
    Ok(inputs)
}
