//! One copy of each text that many endpoints share: names of nodes, zones and ports.

use std::{collections::HashSet, sync::Arc};

/// Texts after which unused ones are let go.
const SWEEP_AT_MIN: usize = 1_024;

/// Texts, and lists of them, that are in use.
#[derive(Debug, Default)]
pub(super) struct Interner {
    texts: HashSet<Arc<str>>,
    lists: HashSet<Arc<[Arc<str>]>>,
    sweep_at: usize,
}

// === impl Interner ===

impl Interner {
    /// The one copy of a text.
    pub(super) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        self.sweep();
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }

    /// The one copy of a list of texts.
    pub(super) fn list<'t>(&mut self, texts: impl Iterator<Item = &'t str>) -> Arc<[Arc<str>]> {
        let list: Vec<Arc<str>> = texts.map(|text| self.get(text)).collect();
        if let Some(known) = self.lists.get(list.as_slice()) {
            return known.clone();
        }
        let list: Arc<[Arc<str>]> = list.into();
        self.lists.insert(list.clone());
        list
    }

    /// Lets go of what only this holds, whenever it has doubled.
    fn sweep(&mut self) {
        if self.texts.len() + self.lists.len() < self.sweep_at.max(SWEEP_AT_MIN) {
            return;
        }
        self.lists.retain(|list| Arc::strong_count(list) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.sweep_at = 2 * (self.texts.len() + self.lists.len());
    }
}
