//! The parts that the chunks of chat and text completions share.

use bytes::{BufMut, BytesMut};
use flotilla_core::generate::Usage;
use serde::Serialize;

use crate::completion_id::CompletionId;
use crate::sse::{put_json, write_frame};
use crate::usage::UsageJson;

/// The fields that are equal in all chunks of an answer, serialised once.
pub(crate) struct ChunkTemplate {
    /// `{"id":…,"object":…,"created":…,"model":…,"choices":`
    head: Vec<u8>,
    /// What follows the choices of a chunk without usage.
    tail: &'static [u8],
    include_usage: bool,
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
    /// OpenAI's API.
    pub(crate) fn new(id: &CompletionId, object: &'static str, include_usage: bool) -> Self {
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
        }
    }

    /// Appends a chunk with one choice.
    pub(crate) fn write_choice(&self, out: &mut BytesMut, choice: &impl Serialize) {
        write_frame(out, |out| {
            out.put_slice(&self.head);
            out.put_u8(b'[');
            put_json(out, choice);
            out.put_u8(b']');
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
            out.put_slice(b"[],\"usage\":");
            put_json(out, &UsageJson::from(usage));
            out.put_u8(b'}');
        });
    }
}
