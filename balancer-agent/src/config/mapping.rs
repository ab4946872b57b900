//! A mapping of the document, opened against the keys that may stand in it.

use super::{
    cause::Cause,
    error::{KeyPath, Problems},
    tree::{Node, Value, excerpt},
};

/// A mapping whose keys are known, each at most once.
#[derive(Clone, Copy)]
pub(super) struct Mapping<'n> {
    /// The node that it is.
    pub(super) node: &'n Node<'n>,
    /// The way to it.
    pub(super) path: KeyPath<'n>,
    entries: &'n [(Node<'n>, Node<'n>)],
}

// === impl Mapping ===

impl<'n> Mapping<'n> {
    /// Opens `node`; keys that are not among `known`, or repeated, are noted as mistakes.
    pub(super) fn open(
        node: &'n Node<'n>,
        path: KeyPath<'n>,
        known: &'static [&'static str],
        problems: &mut Problems,
    ) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            let cause =
                Cause::Kind { expected: "a mapping of keys to values", found: node.found() };
            problems.add(node.at, path, cause);
            return None;
        };
        let mut first_lines = vec![None; known.len()];
        for (key, _) in entries {
            let Some(text) = key.text() else {
                let cause = Cause::Kind { expected: "the name of a key", found: key.found() };
                problems.add(key.at, path, cause);
                continue;
            };
            let Some(index) = known.iter().position(|candidate| *candidate == text) else {
                let similar = similar(text, known);
                problems.add(
                    key.at,
                    path,
                    Cause::UnknownKey { key: excerpt(text), similar, known },
                );
                continue;
            };
            match first_lines[index] {
                Some(first_line) => {
                    problems.add(key.at, path.key(text), Cause::RepeatedKey { first_line });
                }
                None => first_lines[index] = Some(key.at.line),
            }
        }
        Some(Self { node, path, entries })
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node<'n>> {
        self.entries.iter().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value)
    }

    /// The value of a key, decoded; nothing if it is missing or wrong.
    pub(super) fn read<T>(
        &self,
        key: &str,
        problems: &mut Problems,
        decode: impl FnOnce(&Node<'n>) -> Result<T, Cause>,
    ) -> Option<T> {
        let node = self.get(key)?;
        decode(node).map_err(|cause| problems.add(node.at, self.path.key(key), cause)).ok()
    }

    /// As [`Self::read`]; a missing key is a mistake.
    pub(super) fn require<T>(
        &self,
        key: &'static str,
        example: &'static str,
        problems: &mut Problems,
        decode: impl FnOnce(&Node<'n>) -> Result<T, Cause>,
    ) -> Option<T> {
        if self.get(key).is_none() {
            problems.add(self.node.at, self.path, Cause::MissingKey { key, example });
        }
        self.read(key, problems, decode)
    }

    /// The items of a list; none if the key is missing or no list.
    pub(super) fn list(&self, key: &str, problems: &mut Problems) -> &'n [Node<'n>] {
        let Some(node) = self.get(key) else {
            return &[];
        };
        let Value::List(items) = &node.value else {
            let cause =
                Cause::Kind { expected: "a list, `[]` if it is empty", found: node.found() };
            problems.add(node.at, self.path.key(key), cause);
            return &[];
        };
        items
    }
}

/// The known key that is at most two edits away.
fn similar(key: &str, known: &'static [&'static str]) -> Option<&'static str> {
    const KEY_CHARS_MAX: usize = 32;
    if key.chars().nth(KEY_CHARS_MAX).is_some() {
        return None;
    }
    let key = key.to_lowercase().replace('_', "-");
    known
        .iter()
        .map(|candidate| (edits(&key, candidate), *candidate))
        .filter(|(edits, candidate)| *edits <= 2 && *edits < candidate.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, to) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_proposed() {
        for (key, expected) in [
            ("polcy", Some("policy")),
            ("Policy", Some("policy")),
            ("min_ttl", Some("min-ttl")),
            ("completely-different", None),
            ("", None),
        ] {
            assert_eq!(similar(key, &["policy", "min-ttl", "max-ttl"]), expected, "{key}");
        }
    }
}
