//! The files in `deploy/`: manifests keep to what they promise, and every query asks for what exists.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "deploy/container.rs"]
mod container;
#[path = "deploy/manifests.rs"]
mod manifests;
#[path = "deploy/queries.rs"]
mod queries;

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A path of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    let path = repository(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The texts of a list.
fn texts(list: &Value) -> Vec<&str> {
    let items = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    items.iter().map(|item| item.as_str().unwrap()).collect()
}
