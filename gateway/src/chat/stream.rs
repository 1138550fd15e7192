//! Chat chunks.

use bytes::{BufMut, BytesMut};
use flotilla_core::generate::{ChoiceDelta, ChoiceFinished, GenerateEvent, ToolCallDelta};
use serde::Serialize;

use super::CompletionId;
use super::response::LogprobJson;
use crate::sse::{EventWriter, frame, put_json};
use crate::usage::UsageJson;

/// Writes chat chunks. The part that all chunks share is serialized once.
pub(super) struct ChunkWriter {
    /// `{"id":…,"object":…,"created":…,"model":…,"choices":`
    head: Vec<u8>,
    /// What follows the choices of an ordinary chunk.
    tail: &'static [u8],
    include_usage: bool,
    /// Choices that have told their role.
    begun: Vec<bool>,
}

#[derive(Serialize)]
struct ChunkHead<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: DeltaJson<'a>,
    logprobs: Option<LogprobsJson>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct DeltaJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning_content: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallJson<'a>>,
}

#[derive(Serialize)]
struct CallJson<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionJson<'a>,
}

#[derive(Serialize)]
struct FunctionJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

#[derive(Serialize)]
struct LogprobsJson {
    content: Vec<LogprobJson>,
    refusal: Option<()>,
}

impl ChunkWriter {
    pub(super) fn new(identity: &CompletionId, include_usage: bool) -> Self {
        Self {
            head: chunk_head(identity, "chat.completion.chunk"),
            tail: if include_usage {
                b",\"usage\":null}"
            } else {
                b"}"
            },
            include_usage,
            begun: Vec::new(),
        }
    }

    fn chunk(&self, out: &mut BytesMut, choice: &ChunkChoice<'_>) {
        frame(out, |out| {
            out.put_slice(&self.head);
            out.put_u8(b'[');
            put_json(out, choice);
            out.put_u8(b']');
            out.put_slice(self.tail);
        });
    }

    /// The role, once per choice.
    fn role(&mut self, choice: u32) -> Option<&'static str> {
        let index = choice as usize;
        if self.begun.len() <= index {
            self.begun.resize(index + 1, false);
        }
        let first = !std::mem::replace(&mut self.begun[index], true);
        first.then_some("assistant")
    }

    fn delta(&mut self, delta: ChoiceDelta, out: &mut BytesMut) {
        let role = self.role(delta.choice);
        // OpenAI leaves the content out where an answer begins with a call.
        let begins_with_text = role.is_some() && delta.tool_calls.is_empty();
        let says_something = !delta.content.is_empty() || !delta.logprobs.is_empty();
        let choice = ChunkChoice {
            index: delta.choice,
            delta: DeltaJson {
                role,
                content: (says_something || begins_with_text).then_some(&*delta.content),
                reasoning_content: &delta.reasoning,
                tool_calls: delta.tool_calls.iter().map(call_json).collect(),
            },
            logprobs: (!delta.logprobs.is_empty()).then(|| LogprobsJson {
                content: delta.logprobs.into_iter().map(Into::into).collect(),
                refusal: None,
            }),
            finish_reason: None,
        };
        self.chunk(out, &choice);
    }

    fn finished(&mut self, finished: ChoiceFinished, out: &mut BytesMut) {
        let role = self.role(finished.choice);
        let choice = ChunkChoice {
            index: finished.choice,
            delta: DeltaJson {
                role,
                // An answer of no tokens still says that it is empty.
                content: role.map(|_| ""),
                ..DeltaJson::default()
            },
            logprobs: None,
            finish_reason: Some(finished.reason.as_str()),
        };
        self.chunk(out, &choice);
    }
}

/// The part that all chunks of an answer share, up to the choices.
pub(crate) fn chunk_head(identity: &CompletionId, object: &'static str) -> Vec<u8> {
    let head = ChunkHead {
        id: &identity.id,
        object,
        created: identity.created,
        model: &identity.model,
    };
    let mut json = serde_json::to_vec(&head).unwrap_or_default();
    json.pop();
    json.extend_from_slice(b",\"choices\":");
    json
}

fn call_json(call: &ToolCallDelta) -> CallJson<'_> {
    CallJson {
        index: call.index,
        id: call.id.as_deref(),
        kind: call.id.is_some().then_some("function"),
        function: FunctionJson {
            name: call.name.as_deref(),
            arguments: &call.arguments,
        },
    }
}

impl EventWriter for ChunkWriter {
    fn write(&mut self, event: GenerateEvent, out: &mut BytesMut) {
        match event {
            GenerateEvent::Delta(delta) => self.delta(delta, out),
            GenerateEvent::Finished(finished) => self.finished(finished, out),
            GenerateEvent::Usage(usage) if self.include_usage => frame(out, |out| {
                out.put_slice(&self.head);
                out.put_slice(b"[],\"usage\":");
                put_json(out, &UsageJson::from(usage));
                out.put_u8(b'}');
            }),
            GenerateEvent::Usage(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::{FinishReason, Usage};
    use serde_json::{Value, json};

    fn chunks(include_usage: bool, events: Vec<GenerateEvent>) -> Vec<Value> {
        let identity = CompletionId::new("chatcmpl", "m".into());
        let mut writer = ChunkWriter::new(&identity, include_usage);
        let mut out = BytesMut::new();
        events
            .into_iter()
            .for_each(|event| writer.write(event, &mut out));
        let text = String::from_utf8(out.to_vec()).unwrap();
        text.split_terminator("\n\n")
            .map(|frame| serde_json::from_str(frame.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }

    #[test]
    fn the_role_comes_once_and_usage_last() {
        let delta = |content: &str| {
            GenerateEvent::Delta(ChoiceDelta {
                content: content.into(),
                ..ChoiceDelta::default()
            })
        };
        let end = GenerateEvent::Finished(ChoiceFinished {
            choice: 0,
            reason: FinishReason::Stop,
        });
        let usage = GenerateEvent::Usage(Usage {
            prompt_tokens: 2,
            completion_tokens: 3,
            timing: None,
            energy: None,
        });
        let chunks = chunks(true, vec![delta("a"), delta("\"b\""), end, usage]);
        assert_eq!(
            chunks[0]["choices"][0]["delta"],
            json!({"role": "assistant", "content": "a"})
        );
        assert_eq!(
            chunks[1]["choices"][0]["delta"],
            json!({"content": "\"b\""})
        );
        assert_eq!(chunks[1]["usage"], Value::Null);
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "stop");
        assert_eq!(chunks[2]["choices"][0]["delta"], json!({}));
        assert_eq!(chunks[3]["choices"], json!([]));
        assert_eq!(chunks[3]["usage"]["total_tokens"], 5);
    }

    #[test]
    fn usage_is_left_out_unless_asked_for() {
        assert!(chunks(false, vec![GenerateEvent::Usage(Usage::default())]).is_empty());
    }
}
