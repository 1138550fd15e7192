//! The parts that the chunks of chat and text completions share.

use bytes::{BufMut, BytesMut};
use flotilla_core::generate::Usage;
use serde::Serialize;

use crate::backend::ServedBy;
use crate::completion_id::CompletionId;
use crate::headers::ServedByJson;
use crate::sse::{put_json, write_frame};
use crate::usage::UsageJson;

/// The fields that are equal in all chunks of an answer, serialised once.
pub(crate) struct ChunkTemplate {
    /// `{"id":…,"object":…,"created":…,"model":…,"choices":`
    head: Vec<u8>,
    /// What follows the choices of a chunk without usage.
    tail: &'static [u8],
    include_usage: bool,
    /// `,"flotilla":{…}` of the last chunk of a choice and that of the usage. Empty if the headers say it.
    late_served_by: Vec<u8>,
}

#[derive(Serialize)]
struct ChunkHead<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
}

impl ChunkTemplate {
    /// Creates the template. With `include_usage`, every chunk has a `usage` field, as in
    /// OpenAI's API. `late_served_by` is sent with the last chunks.
    pub(crate) fn new(
        id: &CompletionId,
        object: &'static str,
        include_usage: bool,
        late_served_by: Option<&ServedBy>,
    ) -> Self {
        let head = ChunkHead {
            id: &id.id,
            object,
            created: id.created,
            model: &id.model,
        };
        // Cannot fail: it writes strings and a number to memory.
        let mut head = serde_json::to_vec(&head).unwrap_or_default();
        head.pop();
        head.extend_from_slice(b",\"choices\":");
        Self {
            head,
            tail: if include_usage {
                b",\"usage\":null}"
            } else {
                b"}"
            },
            include_usage,
            late_served_by: late_served_by.map_or_else(Vec::new, |served_by| {
                let mut field = b",\"flotilla\":".to_vec();
                // Cannot fail: it writes strings and a number to memory.
                let _ = serde_json::to_writer(&mut field, &ServedByJson::from(served_by));
                field
            }),
        }
    }

    /// Appends a chunk with one choice.
    pub(crate) fn write_choice(&self, out: &mut BytesMut, choice: &impl Serialize) {
        self.write_choice_with(out, choice, b"");
    }

    /// Appends the last chunk of a choice.
    pub(crate) fn write_last_choice(&self, out: &mut BytesMut, choice: &impl Serialize) {
        self.write_choice_with(out, choice, &self.late_served_by);
    }

    fn write_choice_with(&self, out: &mut BytesMut, choice: &impl Serialize, field: &[u8]) {
        write_frame(out, |out| {
            out.put_slice(&self.head);
            out.put_u8(b'[');
            put_json(out, choice);
            out.put_u8(b']');
            out.put_slice(field);
            out.put_slice(self.tail);
        });
    }

    /// Appends the chunk that holds only the usage, if the client requested it.
    pub(crate) fn write_usage(&self, out: &mut BytesMut, usage: Usage) {
        if !self.include_usage {
            return;
        }
        write_frame(out, |out| {
            out.put_slice(&self.head);
            out.put_slice(b"[]");
            out.put_slice(&self.late_served_by);
            out.put_slice(b",\"usage\":");
            put_json(out, &UsageJson::from(usage));
            out.put_u8(b'}');
        });
    }
}
