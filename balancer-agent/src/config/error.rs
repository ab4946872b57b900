//! What is wrong with a configuration file, mistake by mistake.

use super::cause::Cause;
use std::fmt;

/// Most mistakes that are shown; the rest are counted.
const PROBLEMS_SHOWN_MAX: usize = 20;

/// A place in the file, both counted from 1; zero where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column in characters.
    pub column: u32,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Where it stands.
    pub at: Position,
    /// The key, such as `services[2].backends[0].weight`; empty for the whole document.
    pub path: String,
    /// What is wrong and how to mend it.
    pub cause: Cause,
}

/// Why a configuration was refused: every mistake that one pass can find, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file_name: String,
    /// At least one mistake, and not more than are worth showing.
    pub problems: Vec<Problem>,
    /// Mistakes beyond those.
    pub problems_left_out: usize,
}

/// Collects mistakes; bounded, as a file may have a million of them.
#[derive(Debug, Default)]
pub(super) struct Problems {
    shown: Vec<Problem>,
    left_out: usize,
}

/// The way to a key, rendered only for a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyPath<'p> {
    parent: Option<&'p KeyPath<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'p> {
    Key(&'p str),
    Index(usize),
}

// === impl Position ===

impl From<serde_saphyr::Location> for Position {
    fn from(location: serde_saphyr::Location) -> Self {
        let clamp = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self { line: clamp(location.line()), column: clamp(location.column()) }
    }
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.line > 0 {
            write!(f, "{}:{}: ", self.at.line, self.at.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}\n  hint: {}", self.cause, self.cause.hint())
    }
}

// === impl ConfigError ===

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{problem}", self.file_name)?;
        }
        if self.problems_left_out > 0 {
            write!(f, "\n{}: {} more mistakes", self.file_name, self.problems_left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

// === impl Problems ===

impl Problems {
    /// Notes a mistake.
    pub(super) fn add(&mut self, at: Position, path: KeyPath<'_>, cause: Cause) {
        if self.shown.len() < PROBLEMS_SHOWN_MAX {
            self.shown.push(Problem { at, path: path.to_string(), cause });
        } else {
            self.left_out += 1;
        }
    }

    /// The error, if there was a mistake.
    pub(super) fn finish(mut self, file_name: &str) -> Result<(), ConfigError> {
        if self.shown.is_empty() {
            return Ok(());
        }
        self.shown.sort_by_key(|problem| problem.at);
        Err(ConfigError {
            file_name: file_name.to_owned(),
            problems: self.shown,
            problems_left_out: self.left_out,
        })
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self { shown: vec![problem], left_out: 0 }
    }
}

// === impl KeyPath ===

impl<'p> KeyPath<'p> {
    /// The whole document.
    pub(super) const ROOT: KeyPath<'static> = KeyPath { parent: None, step: Step::Key("") };

    /// A key below this.
    pub(super) const fn key(&'p self, key: &'p str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }

    /// An item of the list that this is.
    pub(super) const fn item(&'p self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }
}

impl fmt::Display for KeyPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else {
            return Ok(());
        };
        parent.fmt(f)?;
        match self.step {
            Step::Key(key) if parent.parent.is_some() => write!(f, ".{key}"),
            Step::Key(key) => f.write_str(key),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}
