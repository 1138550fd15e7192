//! What the store has that this version does not understand.

use std::collections::BTreeMap;

use crate::store::keys;

/// The most entries that are named in notes.
const MAX_NAMED: usize = 5;

/// The part of an entry that is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
enum IgnoredPart {
    /// Fields, by their paths.
    Fields(Vec<String>),
    /// All of it, for this reason.
    Entry(String),
}

/// The entries of the store that this version does not understand completely, by key.
#[derive(Debug, Default)]
pub(super) struct IgnoredParts {
    entries: BTreeMap<String, IgnoredPart>,
}

impl IgnoredParts {
    /// Records the unknown fields of an entry that was read; none: it is understood.
    pub(super) fn set_fields(&mut self, key: &str, fields: Vec<String>) {
        if fields.is_empty() {
            self.remove(key);
        } else {
            self.set(key, IgnoredPart::Fields(fields));
        }
    }

    /// Records that an entry is not understood at all.
    pub(super) fn set_entry(&mut self, key: &str, reason: String) {
        self.set(key, IgnoredPart::Entry(reason));
    }

    fn set(&mut self, key: &str, part: IgnoredPart) {
        if self.entries.get(key) != Some(&part) {
            match &part {
                IgnoredPart::Fields(fields) => tracing::warn!(
                    key,
                    ?fields,
                    "an entry of the store has fields that this version does not know: they are ignored"
                ),
                IgnoredPart::Entry(error) => {
                    tracing::error!(key, error, "an entry of the store is ignored");
                }
            }
        }
        self.entries.insert(key.to_owned(), part);
    }

    /// Forgets an entry. Returns whether there was one.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        self.entries.remove(key).is_some()
    }

    /// Forgets all entries that are not among `present`.
    pub(super) fn retain(&mut self, present: impl Fn(&str) -> bool) {
        self.entries.retain(|key, _| present(key));
    }

    /// The ignored fields of one entry.
    pub(super) fn fields(&self, key: &str) -> &[String] {
        match self.entries.get(key) {
            Some(IgnoredPart::Fields(fields)) => fields,
            _ => &[],
        }
    }

    /// Returns whether an entry is not understood at all.
    pub(super) fn is_undecoded(&self, key: &str) -> bool {
        matches!(self.entries.get(key), Some(IgnoredPart::Entry(_)))
    }

    /// The keys of the entries that are not understood at all.
    pub(super) fn undecoded(&self) -> impl Iterator<Item = &str> {
        let entries = self.entries.iter();
        let entries = entries.filter(|(_, part)| matches!(part, IgnoredPart::Entry(_)));
        entries.map(|(key, _)| key.as_str())
    }

    /// Sentences for people about the first entries.
    pub(super) fn notes(&self) -> Vec<String> {
        let named = self.entries.iter().take(MAX_NAMED);
        let mut notes: Vec<_> = named
            .map(|(key, part)| {
                let name = key.strip_prefix(keys::ROOT).unwrap_or(key);
                match part {
                    IgnoredPart::Fields(fields) => format!(
                        "{name} has fields that this controller is too old for and ignores ({}): upgrade it",
                        fields.join(", ")
                    ),
                    IgnoredPart::Entry(error) => format!(
                        "{name} is not understood by this controller and ignored ({error}): upgrade it, or correct the entry"
                    ),
                }
            })
            .collect();
        let others = self.entries.len().saturating_sub(MAX_NAMED);
        if others > 0 {
            notes.push(format!(
                "{others} more entries are ignored completely or in part"
            ));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_entries_are_named_and_the_others_counted() {
        let mut parts = IgnoredParts::default();
        for i in 0..7 {
            parts.set_fields(&format!("{}models/m{i}", keys::ROOT), vec!["spec.x".into()]);
        }
        let notes = parts.notes();
        assert_eq!(notes.len(), MAX_NAMED + 1);
        assert!(notes[0].starts_with("models/m0 has fields"), "{}", notes[0]);
        assert!(
            notes[MAX_NAMED].starts_with("2 more"),
            "{}",
            notes[MAX_NAMED]
        );
        parts.set_fields(&format!("{}models/m0", keys::ROOT), Vec::new());
        parts.retain(|key| key.ends_with("m1"));
        parts.set_entry("/flotilla/v1/nodes/n", "no JSON".into());
        assert_eq!(parts.notes().len(), 2);
    }
}
