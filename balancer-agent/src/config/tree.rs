//! The YAML document as a tree whose every node knows its line and column.
//!
//! It stands apart because going through a tree finds all mistakes of a file at once, where a
//! derived deserializer stops at the first and cannot name the key.

use super::{
    cause::Cause,
    error::{Position, Problem},
};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{
    DefaultMessageFormatter, DuplicateKeyPolicy, Error, MergeKeyPolicy, MessageFormatter, Options,
    Spanned,
};
use std::{borrow::Cow, fmt};

/// Most nodes of a document; 10,000 services of 10 backends in their longest form have a million.
const NODES_MAX: usize = 4_000_000;
/// Most events that aliases may expand to, so that a small file cannot become a huge one.
const ALIAS_EVENTS_MAX: usize = 100_000;
/// Deepest nesting; the schema needs six levels.
const DEPTH_MAX: usize = 32;

/// A value and where it stands.
#[derive(Debug, PartialEq)]
pub(super) struct Node<'t> {
    /// Where it begins.
    pub(super) at: Position,
    /// What it is.
    pub(super) value: Value<'t>,
}

/// A YAML value of the core schema.
#[derive(Debug, PartialEq)]
pub(super) enum Value<'t> {
    /// Nothing was written.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// Text, quoted or plain.
    Text(Cow<'t, str>),
    /// A sequence.
    List(Vec<Node<'t>>),
    /// A mapping in the order written, repeated keys included.
    Map(Vec<(Node<'t>, Node<'t>)>),
}

/// Reads one document.
pub(super) fn read(text: &str) -> Result<Node<'_>, Problem> {
    let mut options = Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    options.merge_keys = MergeKeyPolicy::Error;
    options.strict_booleans = true;
    options.with_snippet = false;
    options.emit_comments = false;
    options.alias_limits.max_total_replayed_events = ALIAS_EVENTS_MAX;
    if let Some(budget) = options.budget.as_mut() {
        budget.max_nodes = NODES_MAX;
        budget.max_events = 2 * NODES_MAX;
        budget.max_depth = DEPTH_MAX;
    }
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location().map_or(Position::default(), Position::from);
        let cause = match error.without_snippet() {
            Error::MultipleDocuments { .. } => Cause::SecondDocument,
            Error::MergeKeyNotAllowed { .. } => Cause::MergeKey,
            Error::RecursiveReferencesRequireWeakTypes { .. } => Cause::AliasLoop,
            other => Cause::Syntax {
                message: DefaultMessageFormatter.format_message(other).into_owned(),
            },
        };
        Problem { at, path: String::new(), cause }
    })
}

// === impl Node ===

impl Node<'_> {
    /// What stands here, for a message.
    pub(super) fn found(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("`{value}`"),
            Value::Integer(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::Text(text) => format!("the text `{}`", excerpt(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }

    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Text that fits a message and cannot garble a terminal.
pub(super) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut short: String = text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value<'de>>::deserialize(deserializer)?;
        Ok(Self { at: spanned.referenced.into(), value: spanned.value })
    }
}

// === impl Value ===

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        // No key takes a number beyond this, so that the largest stands for all above it.
        Ok(Value::Integer(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element()? {
            nodes.push(node);
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}
