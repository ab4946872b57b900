//! The house rules as a test: what rustfmt and clippy do not check, each with its fix.
//!
//! Run by `cargo xtask lint` and `cargo xtask test`. A rule is a pure function from sources to
//! violations, so that each can be shown to find one.

mod arrows;
mod links;
mod shape;
mod syntax;
mod words;

#[cfg(test)]
mod rule_tests;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::workspace;

/// One file of the repository.
pub(super) struct Source {
    /// Its path from the root, with `/` between the parts.
    path: String,
    text: String,
    /// Its syntax, if it is Rust.
    syntax: Option<syn::File>,
}

impl Source {
    fn new(path: &str, text: &str) -> Result<Self, Violation> {
        let syntax = if Path::new(path).extension().is_some_and(|extension| extension == "rs") {
            let parsed = syn::parse_file(text).map_err(|error| {
                let line = error.span().start().line;
                Violation::new(path, line, format!("does not parse: {error}"), "make it compile")
            })?;
            Some(parsed)
        } else {
            None
        };
        Ok(Self { path: path.into(), text: text.into(), syntax })
    }

    /// The file's name without its extension.
    fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        name.split('.').next().unwrap_or(name)
    }
}

/// A rule that is broken somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    path: String,
    line: usize,
    rule: String,
    fix: String,
}

impl Violation {
    fn new(path: &str, line: usize, rule: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { path: path.into(), line, rule: rule.into(), fix: fix.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; fix: {}", self.path, self.line, self.rule, self.fix)
    }
}

/// Every rule, on all sources.
fn check(sources: &[Source]) -> Vec<Violation> {
    let mut violations: Vec<Violation> = sources.iter().flat_map(check_file).collect();
    violations.extend(shape::check_folders(sources));
    violations.extend(links::check(sources));
    violations
}

/// The rules that need to see one file only.
fn check_file(source: &Source) -> Vec<Violation> {
    [shape::check, syntax::check, words::check, arrows::check]
        .into_iter()
        .flat_map(|rule| rule(source))
        .collect()
}

/// Directories that hold nothing of ours.
const SKIPPED: [&str; 4] = [".git", "target", ".cache", "node_modules"];

fn read(directory: &Path, prefix: &str, found: &mut Vec<(String, PathBuf)>) {
    let mut entries: Vec<_> = directory
        .read_dir()
        .expect("the repository is readable")
        .map(|entry| entry.expect("the repository is readable"))
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() {
            read(&entry.path(), &format!("{path}/"), found);
        } else {
            found.push((path, entry.path()));
        }
    }
}

#[test]
fn the_house_rules_hold() {
    let mut files = Vec::new();
    read(&workspace::root(), "", &mut files);
    let mut violations = Vec::new();
    let mut sources = Vec::new();
    for (path, file) in files {
        // What is not text has no rules.
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match Source::new(&path, &text) {
            Ok(source) => sources.push(source),
            Err(violation) => violations.push(violation),
        }
    }
    assert!(sources.len() > 10, "only {} files were found", sources.len());
    violations.extend(check(&sources));
    violations.extend(arrows::check_dependencies(&arrows::dependencies()));
    let text: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(text.is_empty(), "{} violations:\n{}", text.len(), text.join("\n"));
}
