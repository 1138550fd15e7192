//! Prompts and answers in traces: only where that is switched on, and never those of requests that
//! are held to privacy zones.

use std::collections::BTreeMap;

use flotilla_core::generate::{GenerateEvent, GenerateInput};
use flotilla_telemetry::names::attr;
use flotilla_telemetry::trace::RequestSpan;
use serde_json::{Value, json};

/// Characters of one text in a trace: traces do not store whole documents.
const MAX_CHARS: usize = 16_384;

/// Sets the input messages of a span.
pub(crate) fn set_input_messages(span: &RequestSpan, input: &GenerateInput) {
    let messages: Vec<Value> = match input {
        GenerateInput::Chat(messages) => {
            let messages = messages.iter();
            messages
                .map(|message| text_message(&message.role, &message.content))
                .collect()
        }
        GenerateInput::Text(text) => vec![text_message("user", text)],
        // Without the model's vocabulary there is no text to record.
        GenerateInput::Tokens(_) => return,
    };
    span.set_attribute(attr::INPUT_MESSAGES, Value::from(messages).to_string());
}

/// The text of an answer so far, choice by choice.
#[derive(Default)]
pub(crate) struct AnswerContent {
    texts: BTreeMap<u32, String>,
}

impl AnswerContent {
    /// Appends the text of these events.
    pub(crate) fn append(&mut self, events: &[GenerateEvent]) {
        for event in events {
            let GenerateEvent::Delta(delta) = event else {
                continue;
            };
            let text = self.texts.entry(delta.choice).or_default();
            if text.len() < MAX_CHARS {
                text.push_str(&delta.content);
            }
        }
    }

    /// Sets the output messages of a span.
    pub(crate) fn set_output_messages(self, span: &RequestSpan) {
        let texts = self.texts.values();
        let messages: Vec<Value> = texts.map(|text| text_message("assistant", text)).collect();
        span.set_attribute(attr::OUTPUT_MESSAGES, Value::from(messages).to_string());
    }
}

/// A message in the form of OpenTelemetry's GenAI conventions, cut to [`MAX_CHARS`].
fn text_message(role: &str, text: &str) -> Value {
    let text = match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => &text[..end],
        None => text,
    };
    json!({"role": role, "parts": [{"type": "text", "content": text}]})
}
