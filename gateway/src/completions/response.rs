//! Completion answers, in one response and in chunks.

use std::collections::BTreeMap;

use bytes::BytesMut;
use flotilla_core::generate::{FinishReason, GenerateEvent, TokenLogprob};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Serialize;

use crate::backend::ServedBy;
use crate::chunk::ChunkTemplate;
use crate::collected_answer::CollectedAnswer;
use crate::completion_id::CompletionId;
use crate::logprob::finite;
use crate::sse::{EventWriter, StreamStart};
use crate::usage::UsageJson;

const OBJECT: &str = "text_completion";

/// OpenAI's `text_completion` object.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TextCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<TextChoiceJson>,
    usage: UsageJson,
}

#[derive(Serialize, JsonSchema)]
struct TextChoiceJson {
    text: String,
    index: u32,
    logprobs: Option<LogprobListsJson>,
    finish_reason: Option<&'static str>,
}

/// The `logprobs` object of this endpoint: parallel lists with one entry per token.
#[derive(Default, Serialize, JsonSchema)]
struct LogprobListsJson {
    tokens: Vec<String>,
    /// Null for the first token of a prompt, as nothing precedes it.
    token_logprobs: Vec<Option<f32>>,
    #[schemars(with = "Vec<Option<BTreeMap<String, f32>>>")]
    top_logprobs: Vec<Option<IndexMap<String, f32>>>,
    text_offset: Vec<usize>,
}

impl LogprobListsJson {
    /// The tokens of the prompt, if they are given, and those of the answer that follow. `offset` is the
    /// position of the answer's first token in the text of the choice, in characters.
    fn new(prompt: Vec<TokenLogprob>, answer: Vec<TokenLogprob>, offset: usize) -> Self {
        let mut lists = Self::default();
        let has_prompt = !prompt.is_empty();
        lists.extend(prompt, 0);
        if has_prompt {
            lists.token_logprobs[0] = None;
            lists.top_logprobs[0] = None;
        }
        lists.extend(answer, offset);
        lists
    }

    fn extend(&mut self, tokens: Vec<TokenLogprob>, mut offset: usize) {
        for token in tokens {
            self.text_offset.push(offset);
            offset += token.token.chars().count();
            self.tokens.push(token.token);
            self.token_logprobs.push(Some(finite(token.logprob)));
            let top = token.top.into_iter();
            let top = top.map(|top| (top.token, finite(top.logprob)));
            self.top_logprobs.push(Some(top.collect()));
        }
    }
}

/// Returns the text that precedes an answer: `echo`, or the text of the prompt's tokens where the client
/// has sent only their ids.
fn prompt_text(echo: String, prompt: &[TokenLogprob]) -> String {
    if !echo.is_empty() {
        return echo;
    }
    // A character may take several tokens, whose bytes are a text only together.
    let bytes = prompt
        .iter()
        .flat_map(|token| match token.bytes.as_slice() {
            [] => token.token.as_bytes(),
            bytes => bytes,
        });
    String::from_utf8_lossy(&bytes.copied().collect::<Vec<_>>()).into_owned()
}

impl<'a> TextCompletion<'a> {
    /// `echo` holds the text that precedes each choice; it is empty without `echo`.
    pub(super) fn new(
        id: &'a CompletionId,
        answer: CollectedAnswer,
        echo: &[String],
        logprobs: bool,
    ) -> Self {
        let choices = answer
            .choices
            .into_iter()
            .zip(0..)
            .map(|(choice, index)| {
                let echo = echo.get(index as usize).cloned().unwrap_or_default();
                let mut text = prompt_text(echo, &choice.prompt_logprobs);
                let offset = text.chars().count();
                text.push_str(&choice.content);
                TextChoiceJson {
                    text,
                    index,
                    logprobs: logprobs.then(|| {
                        LogprobListsJson::new(choice.prompt_logprobs, choice.logprobs, offset)
                    }),
                    finish_reason: Some(choice.finish_reason.map_or("stop", FinishReason::as_str)),
                }
            })
            .collect();
        Self {
            id: &id.id,
            object: OBJECT,
            created: id.created,
            model: &id.model,
            choices,
            usage: answer.usage.into(),
        }
    }
}

/// Writes the events of a completion as chunks.
pub(super) struct TextChunkWriter {
    template: ChunkTemplate,
    echo: Vec<String>,
    /// By choice: the length of its text so far, in characters.
    lengths: Vec<usize>,
}

impl TextChunkWriter {
    pub(super) fn new(start: &StreamStart<'_>, include_usage: bool, echo: Vec<String>) -> Self {
        Self::with_id(
            &start.id("cmpl"),
            include_usage,
            echo,
            start.late_served_by(),
        )
    }

    fn with_id(
        id: &CompletionId,
        include_usage: bool,
        echo: Vec<String>,
        late_served_by: Option<&ServedBy>,
    ) -> Self {
        Self {
            template: ChunkTemplate::new(id, OBJECT, include_usage, late_served_by),
            echo,
            lengths: Vec::new(),
        }
    }

    /// Returns the echo of a choice (empty after the first call) and the position at which the
    /// next text of the choice starts, in characters. `prompt` has the prompt's tokens if they are known.
    fn take_echo(&mut self, choice: u32, prompt: &[TokenLogprob]) -> (String, usize) {
        let index = choice as usize;
        if self.lengths.len() <= index {
            self.lengths.resize(index + 1, 0);
        }
        let echo = self.echo.get_mut(index).map(std::mem::take);
        let echo = prompt_text(echo.unwrap_or_default(), prompt);
        self.lengths[index] += echo.chars().count();
        (echo, self.lengths[index])
    }
}

impl EventWriter for TextChunkWriter {
    fn write(&mut self, event: GenerateEvent, out: &mut BytesMut) {
        match event {
            GenerateEvent::Delta(delta) => {
                let (mut text, offset) = self.take_echo(delta.choice, &delta.prompt_logprobs);
                text.push_str(&delta.content);
                self.lengths[delta.choice as usize] += delta.content.chars().count();
                let has_tokens = !(delta.logprobs.is_empty() && delta.prompt_logprobs.is_empty());
                let logprobs = has_tokens
                    .then(|| LogprobListsJson::new(delta.prompt_logprobs, delta.logprobs, offset));
                let choice = TextChoiceJson {
                    text,
                    index: delta.choice,
                    logprobs,
                    finish_reason: None,
                };
                self.template.write_choice(out, &choice);
            }
            GenerateEvent::Finished(finished) => {
                let (text, _) = self.take_echo(finished.choice, &[]);
                let choice = TextChoiceJson {
                    text,
                    index: finished.choice,
                    logprobs: None,
                    finish_reason: Some(finished.reason.as_str()),
                };
                self.template.write_last_choice(out, &choice);
            }
            GenerateEvent::Usage(usage) => self.template.write_usage(out, usage),
            GenerateEvent::Computed(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::ChoiceDelta;

    #[test]
    fn echo_and_text_offsets_count_characters() {
        let id = CompletionId::new("cmpl", "m".into());
        let mut writer = TextChunkWriter::with_id(&id, false, vec!["éa".into()], None);
        let mut out = BytesMut::new();
        for token in ["x", "y"] {
            let logprob = TokenLogprob {
                bytes: Vec::new(),
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
