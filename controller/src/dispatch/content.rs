//! What was asked and answered, for traces: only where that is switched on, and never of requests
//! that are held to privacy zones.

use flotilla_core::generate::{GenerateEvent, GenerateInput};
use flotilla_telemetry::names::attr;
use flotilla_telemetry::trace::RequestSpan;
use serde_json::{Value, json};

/// Characters of a text that are told at most: traces are no store of texts.
const LONGEST: usize = 16_384;

/// Tells what is asked.
pub(super) fn tell_input(stage: &RequestSpan, input: &GenerateInput) {
    let message = |role: &str, text: &str| -> Value {
        json!({"role": role, "parts": [{"type": "text", "content": cut(text)}]})
    };
    let messages: Vec<Value> = match input {
        GenerateInput::Chat(messages) => {
            let messages = messages.iter();
            messages
                .map(|told| message(&told.role, &told.content))
                .collect()
        }
        GenerateInput::Text(text) => vec![message("user", text)],
    };
    stage.set(attr::INPUT_MESSAGES, Value::from(messages).to_string());
}

/// What was answered so far, choice by choice.
#[derive(Default)]
pub(super) struct AnswerContent {
    texts: Vec<String>,
}

impl AnswerContent {
    pub(super) fn events(&mut self, events: &[GenerateEvent]) {
        for event in events {
            let GenerateEvent::Delta(delta) = event else {
                continue;
            };
            let choice = delta.choice as usize;
            if self.texts.len() <= choice {
                self.texts.resize(choice + 1, String::new());
            }
            if self.texts[choice].len() < LONGEST {
                self.texts[choice].push_str(&delta.content);
            }
        }
    }

    pub(super) fn tell(self, stage: &RequestSpan) {
        let texts = self.texts.iter();
        let messages: Vec<Value> = texts
            .map(|text| {
                json!({"role": "assistant", "parts": [{"type": "text", "content": cut(text)}]})
            })
            .collect();
        stage.set(attr::OUTPUT_MESSAGES, Value::from(messages).to_string());
    }
}

/// The beginning of a text.
fn cut(text: &str) -> &str {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
