//! The desired state of a fleet as it is kept in a file, to start from while the store is away.
//!
//! The file is lines of JSON: a header, then one line for each entry of the store. The header has the
//! number of entries and a digest of their lines, so that a damaged file is not taken for a small fleet.
//! Whoever reads it knows from the fleet's id, the epoch and the revision whether it is older than what
//! they have.

use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::StoreRevision;
use crate::spec::Sha256Digest;

/// The version of the format.
const FORMAT: u32 = 1;

/// The entries of a store at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptState {
    /// The id of the fleet. Empty: the fleet has none yet.
    pub fleet_id: String,
    /// How often the store's revisions have begun anew.
    pub epoch: u64,
    /// The revision of the store that the entries are from.
    pub revision: StoreRevision,
    /// When the store was read, in seconds since 1970.
    pub saved_at: u64,
    /// The entries, in the order of their keys.
    pub entries: Vec<KeptEntry>,
}

/// An entry of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptEntry {
    /// The key in the store.
    pub key: String,
    /// The value: JSON, or a name.
    pub value: String,
    /// The revision of the write that set the value.
    pub revision: StoreRevision,
}

/// The first line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format: u32,
    fleet_id: String,
    epoch: u64,
    revision: StoreRevision,
    saved_at: u64,
    entries: usize,
    sha256: Sha256Digest,
}

/// What the first line of a file says about its entries, in any format.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptStateHeader {
    /// The id of the fleet. Empty: the fleet has none yet.
    pub fleet_id: String,
    /// How often the store's revisions have begun anew.
    #[serde(default)]
    pub epoch: u64,
    /// The revision of the store that the entries are from.
    #[serde(default)]
    pub revision: StoreRevision,
}

impl KeptStateHeader {
    /// Reads the first line of a file. `None` if it is no header.
    #[must_use]
    pub fn read(first_line: &[u8]) -> Option<Self> {
        serde_json::from_slice(first_line).ok()
    }
}

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeptStateError {
    /// The file was written by a version with another format.
    #[error("it has the format {0}, and this version reads the format {FORMAT}")]
    Format(u32),
    /// The file is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

impl KeptState {
    /// Returns the content of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        for entry in &self.entries {
            push_line(&mut lines, entry);
        }
        let header = Header {
            format: FORMAT,
            fleet_id: self.fleet_id.clone(),
            epoch: self.epoch,
            revision: self.revision,
            saved_at: self.saved_at,
            entries: self.entries.len(),
            sha256: digest(&lines),
        };
        let mut content = Vec::with_capacity(lines.len() + 256);
        push_line(&mut content, &header);
        content.append(&mut lines);
        content
    }

    /// Reads the content of a file.
    ///
    /// # Errors
    /// [`KeptStateError`].
    pub fn decode(content: &[u8]) -> Result<Self, KeptStateError> {
        let damaged = |error: serde_json::Error| KeptStateError::Damaged(error.to_string());
        let end = content.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| KeptStateError::Damaged("it has no header".into()))?;
        let (header, lines) = (&content[..end], &content[end + 1..]);
        // The other fields of another format may differ.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(header).map_err(damaged)?;
        if format != FORMAT {
            return Err(KeptStateError::Format(format));
        }
        let header: Header = serde_json::from_slice(header).map_err(damaged)?;
        if digest(lines) != header.sha256 {
            return Err(KeptStateError::Damaged("its digest is wrong".into()));
        }
        let entries = serde_json::Deserializer::from_slice(lines).into_iter::<KeptEntry>();
        let entries = entries.collect::<Result<Vec<_>, _>>().map_err(damaged)?;
        if entries.len() != header.entries {
            return Err(KeptStateError::Damaged("entries are missing".into()));
        }
        Ok(Self {
            fleet_id: header.fleet_id,
            epoch: header.epoch,
            revision: header.revision,
            saved_at: header.saved_at,
            entries,
        })
    }
}

/// Appends a value as a line of JSON.
fn push_line(lines: &mut Vec<u8>, value: &impl Serialize) {
    // Texts and numbers: serializing them cannot fail.
    lines.extend(serde_json::to_vec(value).unwrap_or_default());
    lines.push(b'\n');
}

fn digest(lines: &[u8]) -> Sha256Digest {
    Sha256Digest(sha2::Sha256::digest(lines).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state(entries: Vec<(String, String)>) -> KeptState {
        let entries = entries.into_iter().enumerate();
        KeptState {
            fleet_id: "f".into(),
            epoch: 3,
            revision: StoreRevision(9),
            saved_at: 1,
            entries: entries
                .map(|(index, (key, value))| KeptEntry {
                    key,
                    value,
                    revision: StoreRevision(index as u64),
                })
                .collect(),
        }
    }

    #[test]
    fn file_of_another_format_is_refused_whatever_its_fields_are() {
        let content = b"{\"format\": 2, \"new\": []}\n";
        assert_eq!(KeptState::decode(content), Err(KeptStateError::Format(2)));
    }

    proptest! {
        #[test]
        fn file_is_read_as_it_was_written_and_never_when_it_is_damaged(
            entries in prop::collection::vec((".{0,20}", ".{0,40}"), 0..20),
            at in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let state = state(entries);
            let mut content = state.encode();
            prop_assert_eq!(KeptState::decode(&content), Ok(state.clone()));
            let at = at.index(content.len());
            if cut {
                content.truncate(at);
            } else {
                content[at] ^= 1;
            }
            // A changed number in the header is still a header.
            let is_same = KeptState::decode(&content).is_ok_and(|read| {
                read.entries != state.entries
            });
            prop_assert!(!is_same);
        }
    }
}
