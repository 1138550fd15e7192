//! The record of changes and refusals: who did what, to what, and with which result. It has no key, no prompt and no
//! body of a request.

use serde::{Deserialize, Serialize};

/// The longest object of a record, in characters. It comes from the path of a request.
const MAX_OBJECT: usize = 200;

/// A change, or a request that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// When the request was answered, in milliseconds since 1970.
    pub at: u64,
    /// The id of the controller that answered.
    pub controller: String,
    /// Who sent the request, such as `key ci (0123456789ab)`, `socket user 0`, or `open` where nobody was identified.
    pub principal: String,
    /// The address that the request came from; empty for the admin socket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// The method and the path of the request, without its query.
    pub action: String,
    /// What the request is about, such as `model/m`. Empty where it has no name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// The HTTP status of the response.
    pub status: u16,
    /// The digest of the object before the request. `None`: there was none, or it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The digest of the object after the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// How many records were lost before this one, since more came than could be written.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_before: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl AuditRecord {
    /// The record as a line of JSON, with its line break.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        // Texts and numbers: serializing them cannot fail.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Whether the request was refused for who sent it.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        is_refusal(self.status)
    }
}

/// Whether a response with this HTTP status refuses a request for who has sent it.
#[must_use]
pub fn is_refusal(status: u16) -> bool {
    matches!(status, 401 | 403)
}

/// A text from a request as a record has it: without control characters, and cut off where it is too long.
#[must_use]
pub fn recorded_text(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(MAX_OBJECT).collect()
}

/// Reads the records in the content of a file that are from `since` on, in milliseconds since 1970. Leaves out lines that
/// are none, such as the last one after a power cut.
#[must_use]
pub fn read(content: &[u8], since: u64) -> Vec<AuditRecord> {
    let lines = content.split(|byte| *byte == b'\n');
    let records = lines.filter_map(|line| serde_json::from_slice::<AuditRecord>(line).ok());
    records.filter(|record| record.at >= since).collect()
}

/// Merges the records of several controllers or files: the newest `limit`, the oldest of them first.
#[must_use]
pub fn merge(parts: impl IntoIterator<Item = Vec<AuditRecord>>, limit: usize) -> Vec<AuditRecord> {
    let mut records: Vec<_> = parts.into_iter().flatten().collect();
    records.sort_by_key(|record| record.at);
    let excess = records.len().saturating_sub(limit);
    records.split_off(excess)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(at: u64) -> AuditRecord {
        AuditRecord {
            at,
            controller: "c".into(),
            principal: "open".into(),
            address: "127.0.0.1".into(),
            action: "PUT /api/v1/models/m".into(),
            object: "model/m".into(),
            status: 201,
            before: None,
            after: Some("d".into()),
            lost_before: 0,
        }
    }

    #[test]
    fn records_are_read_as_they_were_written_and_damaged_lines_left_out() {
        let mut content = [record(1).line(), record(2).line()].concat();
        content.extend(b"{\"at\": 3, \"contr");
        assert_eq!(read(&content, 0), [record(1), record(2)]);
        assert_eq!(read(&content, 2), [record(2)]);
    }

    #[test]
    fn the_newest_records_of_all_are_kept_in_their_order() {
        let merged = merge([vec![record(1), record(4)], vec![record(2), record(3)]], 3);
        let times: Vec<_> = merged.iter().map(|record| record.at).collect();
        assert_eq!(times, [2, 3, 4]);
    }

    #[test]
    fn a_text_of_a_request_stays_on_its_line() {
        assert_eq!(recorded_text("a\nb\u{1b}[0m"), "ab[0m");
        assert_eq!(recorded_text(&"x".repeat(999)).len(), MAX_OBJECT);
    }
}
