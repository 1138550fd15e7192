//! Completion answers, whole and in chunks.

use axum::response::Response;
use bytes::{BufMut, BytesMut};
use flotilla_core::generate::{FinishReason, GenerateEvent, TokenLogprob};
use indexmap::IndexMap;
use serde::Serialize;

use crate::chat::{CollectedAnswer, CompletionId, chunk_head, finite, json_response};
use crate::sse::{EventWriter, frame, put_json};
use crate::usage::UsageJson;

const OBJECT: &str = "text_completion";

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    usage: UsageJson,
}

#[derive(Serialize)]
struct Choice {
    text: String,
    index: u32,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

/// Log-probabilities as this endpoint gives them: parallel lists, one entry per token.
#[derive(Default, Serialize)]
struct Logprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<IndexMap<String, f32>>,
    text_offset: Vec<usize>,
}

impl Logprobs {
    /// `offset` is where the tokens' text begins in the choice, in characters.
    fn new(logprobs: Vec<TokenLogprob>, mut offset: usize) -> Self {
        let mut lists = Self::default();
        for logprob in logprobs {
            lists.text_offset.push(offset);
            offset += logprob.token.chars().count();
            lists.tokens.push(logprob.token);
            lists.token_logprobs.push(finite(logprob.logprob));
            let top = logprob.top.into_iter();
            let top = top.map(|top| (top.token, finite(top.logprob)));
            lists.top_logprobs.push(top.collect());
        }
        lists
    }
}

/// A whole answer. `echo` is what to put before each choice.
pub(super) fn whole(
    identity: &CompletionId,
    collected: CollectedAnswer,
    echo: &[String],
    logprobs: bool,
) -> Response {
    let choices = collected
        .choices
        .into_iter()
        .zip(0..)
        .map(|(choice, index)| {
            let mut text = echo.get(index as usize).cloned().unwrap_or_default();
            text.push_str(&choice.content);
            Choice {
                text,
                index,
                logprobs: logprobs.then(|| Logprobs::new(choice.logprobs, 0)),
                finish_reason: Some(choice.finish.map_or("stop", FinishReason::as_str)),
            }
        })
        .collect();
    json_response(&Completion {
        id: &identity.id,
        object: OBJECT,
        created: identity.created,
        model: &identity.model,
        choices,
        usage: collected.usage.into(),
    })
}

/// Writes completion chunks.
pub(super) struct ChunkWriter {
    head: Vec<u8>,
    tail: &'static [u8],
    include_usage: bool,
    echo: Vec<String>,
    /// Characters each choice has so far.
    lengths: Vec<usize>,
}

impl ChunkWriter {
    pub(super) fn new(identity: &CompletionId, include_usage: bool, echo: Vec<String>) -> Self {
        Self {
            head: chunk_head(identity, OBJECT),
            tail: if include_usage {
                b",\"usage\":null}"
            } else {
                b"}"
            },
            include_usage,
            echo,
            lengths: Vec::new(),
        }
    }

    /// The echo of a choice, once, and where the text that follows it begins.
    fn begin(&mut self, index: u32) -> (String, usize) {
        let at = index as usize;
        if self.lengths.len() <= at {
            self.lengths.resize(at + 1, 0);
        }
        let echo = self.echo.get_mut(at).map(std::mem::take);
        let echo = echo.unwrap_or_default();
        self.lengths[at] += echo.chars().count();
        (echo, self.lengths[at])
    }

    fn chunk(&self, out: &mut BytesMut, choice: &Choice) {
        frame(out, |out| {
            out.put_slice(&self.head);
            out.put_u8(b'[');
            put_json(out, choice);
            out.put_u8(b']');
            out.put_slice(self.tail);
        });
    }
}

impl EventWriter for ChunkWriter {
    fn write(&mut self, event: GenerateEvent, out: &mut BytesMut) {
        match event {
            GenerateEvent::Delta(delta) => {
                let (mut text, offset) = self.begin(delta.choice);
                text.push_str(&delta.content);
                self.lengths[delta.choice as usize] += delta.content.chars().count();
                let logprobs =
                    (!delta.logprobs.is_empty()).then(|| Logprobs::new(delta.logprobs, offset));
                let choice = Choice {
                    text,
                    index: delta.choice,
                    logprobs,
                    finish_reason: None,
                };
                self.chunk(out, &choice);
            }
            GenerateEvent::Finished(finished) => {
                let (text, _) = self.begin(finished.choice);
                let choice = Choice {
                    text,
                    index: finished.choice,
                    logprobs: None,
                    finish_reason: Some(finished.reason.as_str()),
                };
                self.chunk(out, &choice);
            }
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
    use flotilla_core::generate::ChoiceDelta;

    #[test]
    fn echo_and_offsets_count_characters() {
        let identity = CompletionId::new("cmpl", "m".into());
        let mut writer = ChunkWriter::new(&identity, false, vec!["éa".into()]);
        let mut out = BytesMut::new();
        for token in ["x", "y"] {
            let logprob = TokenLogprob {
                token: token.into(),
                logprob: -1.0,
                top: Vec::new(),
            };
            let delta = ChoiceDelta {
                content: token.into(),
                logprobs: vec![logprob],
                ..ChoiceDelta::default()
            };
            writer.write(GenerateEvent::Delta(delta), &mut out);
        }
        let text = String::from_utf8(out.to_vec()).unwrap();
        let choices: Vec<serde_json::Value> = text
            .split_terminator("\n\n")
            .map(|frame| serde_json::from_str(&frame["data: ".len()..]).unwrap())
            .map(|chunk: serde_json::Value| chunk["choices"][0].clone())
            .collect();
        assert_eq!(choices[0]["text"], "éax");
        assert_eq!(choices[0]["logprobs"]["text_offset"][0], 2);
        assert_eq!(choices[1]["text"], "y");
        assert_eq!(choices[1]["logprobs"]["text_offset"][0], 3);
    }
}
