//! The chunks of a streamed chat answer.

use std::collections::BTreeSet;

use bytes::BytesMut;
use flotilla_core::generate::{ChoiceDelta, ChoiceFinished, GenerateEvent, ToolCallDelta};
use serde::Serialize;

use super::response::LogprobsJson;
use crate::backend::ServedBy;
use crate::chunk::ChunkTemplate;
use crate::completion_id::CompletionId;
use crate::sampling::MAX_CHOICES;
use crate::sse::{EventWriter, StreamStart};

const ROLE: &str = "assistant";

/// Writes the events of a chat answer as chunks.
pub(super) struct ChatChunkWriter {
    template: ChunkTemplate,
    /// The choices below this one had their role sent. OpenAI's own clients take the first chunks of the choices in
    /// the order of their indices only, and choices that are computed at once begin in any.
    roles_sent: u32,
    /// The choices of which something else than the role was sent.
    begun: BTreeSet<u32>,
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
    #[serde(skip_serializing_if = "str::is_empty")]
    refusal: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCallDeltaJson<'a>>,
}

#[derive(Serialize)]
struct ToolCallDeltaJson<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionDeltaJson<'a>,
}

#[derive(Serialize)]
struct FunctionDeltaJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl<'a> From<&'a ToolCallDelta> for ToolCallDeltaJson<'a> {
    fn from(call: &'a ToolCallDelta) -> Self {
        Self {
            index: call.index,
            id: call.id.as_deref(),
            kind: call.id.is_some().then_some("function"),
            function: FunctionDeltaJson {
                name: call.name.as_deref(),
                arguments: &call.arguments,
            },
        }
    }
}

impl ChatChunkWriter {
    pub(super) fn new(start: &StreamStart<'_>, include_usage: bool) -> Self {
        Self::with_id(&start.id("chatcmpl"), include_usage, start.late_served_by())
    }

    fn with_id(id: &CompletionId, include_usage: bool, late_served_by: Option<&ServedBy>) -> Self {
        let object = "chat.completion.chunk";
        Self {
            template: ChunkTemplate::new(id, object, include_usage, late_served_by),
            roles_sent: 0,
            begun: BTreeSet::new(),
        }
    }

    /// Returns whether this is the first event of a choice, and the role if its chunk is to have it. The roles of the
    /// choices before it are sent first.
    fn begin(&mut self, choice: u32, out: &mut BytesMut) -> (bool, Option<&'static str>) {
        while self.roles_sent < choice.min(MAX_CHOICES) {
            let earlier = ChunkChoice {
                index: self.roles_sent,
                delta: DeltaJson {
                    role: Some(ROLE),
                    ..DeltaJson::default()
                },
                logprobs: None,
                finish_reason: None,
            };
            self.template.write_choice(out, &earlier);
            self.roles_sent += 1;
        }
        let has_role = self.roles_sent == choice;
        self.roles_sent += u32::from(has_role);
        (self.begun.insert(choice), has_role.then_some(ROLE))
    }

    fn write_delta(&mut self, delta: ChoiceDelta, out: &mut BytesMut) {
        let (is_first, role) = self.begin(delta.choice, out);
        // OpenAI omits the content of an answer that starts with a tool call or a refusal.
        let starts_with_text = is_first && delta.tool_calls.is_empty() && delta.refusal.is_empty();
        let has_content = !delta.content.is_empty() || !delta.logprobs.is_empty();
        let choice = ChunkChoice {
            index: delta.choice,
            delta: DeltaJson {
                role,
                content: (has_content || starts_with_text).then_some(&*delta.content),
                reasoning_content: &delta.reasoning,
                refusal: &delta.refusal,
                tool_calls: delta.tool_calls.iter().map(Into::into).collect(),
            },
            logprobs: (!delta.logprobs.is_empty()).then(|| delta.logprobs.into()),
            finish_reason: None,
        };
        self.template.write_choice(out, &choice);
    }

    fn write_finished(&mut self, finished: ChoiceFinished, out: &mut BytesMut) {
        let (is_first, role) = self.begin(finished.choice, out);
        let choice = ChunkChoice {
            index: finished.choice,
            delta: DeltaJson {
                role,
                // An answer without tokens still has an empty content.
                content: is_first.then_some(""),
                ..DeltaJson::default()
            },
            logprobs: None,
            finish_reason: Some(finished.reason.as_str()),
        };
        self.template.write_last_choice(out, &choice);
    }
}

impl EventWriter for ChatChunkWriter {
    fn write(&mut self, event: GenerateEvent, out: &mut BytesMut) {
        match event {
            GenerateEvent::Delta(delta) => self.write_delta(delta, out),
            GenerateEvent::Finished(finished) => self.write_finished(finished, out),
            GenerateEvent::Usage(usage) => self.template.write_usage(out, usage),
            GenerateEvent::Computed(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::{FinishReason, Usage};
    use serde_json::{Value, json};

    fn chunks(include_usage: bool, events: Vec<GenerateEvent>) -> Vec<Value> {
        let id = CompletionId::new("chatcmpl", "m".into());
        let mut writer = ChatChunkWriter::with_id(&id, include_usage, None);
        let mut out = BytesMut::new();
        events
            .into_iter()
            .for_each(|event| writer.write(event, &mut out));
        let text = String::from_utf8(out.to_vec()).unwrap();
        text.split_terminator("\n\n")
            .map(|frame| serde_json::from_str(frame.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }

    fn delta(choice: u32, content: &str) -> GenerateEvent {
        GenerateEvent::Delta(ChoiceDelta {
            choice,
            content: content.into(),
            ..ChoiceDelta::default()
        })
    }

    #[test]
    fn role_is_sent_once_and_usage_last() {
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
        let chunks = chunks(true, vec![delta(0, "a"), delta(0, "\"b\""), end, usage]);
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
    fn roles_are_sent_in_the_order_of_the_choices_whichever_begins_first() {
        let end = GenerateEvent::Finished(ChoiceFinished {
            choice: 1,
            reason: FinishReason::Stop,
        });
        let sent = chunks(false, vec![delta(2, "c"), delta(0, "a"), end]);
        let found: Vec<_> = sent
            .iter()
            .map(|chunk| {
                let choice = &chunk["choices"][0];
                (choice["index"].as_u64().unwrap(), choice["delta"].clone())
            })
            .collect();
        let role = json!({"role": "assistant"});
        assert_eq!(
            found,
            [
                (0, role.clone()),
                (1, role),
                (2, json!({"role": "assistant", "content": "c"})),
                (0, json!({"content": "a"})),
                (1, json!({"content": ""})),
            ]
        );
        // An agent's wrong index does not make it write for ever.
        assert_eq!(chunks(false, vec![delta(u32::MAX, "x")]).len(), 129);
    }

    #[test]
    fn refusal_takes_the_place_of_the_content() {
        let refusal = |refusal: &str| {
            GenerateEvent::Delta(ChoiceDelta {
                refusal: refusal.into(),
                ..ChoiceDelta::default()
            })
        };
        let chunks = chunks(false, vec![refusal("I "), refusal("cannot.")]);
        assert_eq!(
            chunks[0]["choices"][0]["delta"],
            json!({"role": "assistant", "refusal": "I "})
        );
        assert_eq!(
            chunks[1]["choices"][0]["delta"],
            json!({"refusal": "cannot."})
        );
    }

    #[test]
    fn usage_is_omitted_unless_requested() {
        assert!(chunks(false, vec![GenerateEvent::Usage(Usage::default())]).is_empty());
    }
}
