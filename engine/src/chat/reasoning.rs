//! Divides the text of an answer into what a model thinks and what it says.

use mistralrs_core::reasoning_parsers::harmony::{is_harmony_encoding_ready, is_harmony_template};
use mistralrs_core::reasoning_parsers::tag_based::{
    is_channel_tag_template, is_think_tag_template,
};
use mistralrs_core::reasoning_parsers::{HarmonyContext, ReasoningParser, TagReasoningContext};

/// The tag with which thoughts begin.
const THINK: &str = "<think>";
/// The token in a prompt that makes Gemma begin with a thought.
const GEMMA_THINK: &str = "<|think|>";

/// Reads an answer of a model that thinks.
pub(crate) struct ReasoningReader {
    parser: Box<dyn ReasoningParser>,
    reads_tokens: bool,
}

/// What a piece of an answer adds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ReasoningPiece {
    pub(crate) content: String,
    pub(crate) reasoning: String,
    /// Calls that the model has written in a form of its own: name and arguments.
    pub(crate) calls: Vec<(String, String)>,
}

impl ReasoningReader {
    /// A reader for the answer to a rendered prompt. `None` if the template's model does not mark thoughts.
    pub(crate) fn new(template: &str, prompt: &str) -> Option<Self> {
        let by_tags = |parser: TagReasoningContext| Self {
            parser: Box::new(parser),
            reads_tokens: false,
        };
        if is_harmony_template(template) {
            // The engine has prepared it when it computed the warm-up.
            let parser = is_harmony_encoding_ready()
                .then(HarmonyContext::new)?
                .ok()?;
            return Some(Self {
                parser: Box::new(parser),
                reads_tokens: true,
            });
        }
        if is_channel_tag_template(template) {
            return Some(by_tags(if prompt.contains(GEMMA_THINK) {
                TagReasoningContext::new_gemma_channel_with_implicit_thinking()
            } else {
                TagReasoningContext::new_gemma_channel()
            }));
        }
        is_think_tag_template(template).then(|| {
            by_tags(if prompt.trim_end().ends_with(THINK) {
                TagReasoningContext::new_in_think_block()
            } else {
                TagReasoningContext::new_think_tags()
            })
        })
    }

    /// Reads the next piece of text, and the tokens that it comes from.
    pub(crate) fn push(&mut self, text: &str, tokens: &[u32]) -> ReasoningPiece {
        if self.reads_tokens {
            for token in tokens {
                self.parser.process_token(*token);
            }
        } else {
            self.parser.process_bytes(text.as_bytes());
        }
        self.piece()
    }

    /// Returns what was held back, at the end of the answer.
    pub(crate) fn finish(&mut self) -> ReasoningPiece {
        self.parser.finalize();
        let calls = self.parser.finalize_tool_calls().into_iter();
        ReasoningPiece {
            calls: calls.map(|call| (call.name, call.arguments)).collect(),
            ..self.piece()
        }
    }

    fn piece(&mut self) -> ReasoningPiece {
        ReasoningPiece {
            content: self.parser.get_content_delta().unwrap_or_default(),
            reasoning: self.parser.get_reasoning_delta().unwrap_or_default(),
            calls: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "<think>{{ a }}</think>";

    #[test]
    fn thoughts_are_separated_from_the_answer() {
        let mut reader = ReasoningReader::new(TEMPLATE, "user").unwrap();
        let mut whole = ReasoningPiece::default();
        for text in ["<thi", "nk>why", "</think", ">because"] {
            let piece = reader.push(text, &[]);
            whole.content += &piece.content;
            whole.reasoning += &piece.reasoning;
        }
        whole.content += &reader.finish().content;
        assert_eq!((&*whole.reasoning, &*whole.content), ("why", "because"));
        assert!(ReasoningReader::new("{{ a }}", "user").is_none());
    }

    #[test]
    fn prompt_may_begin_the_thoughts() {
        let mut reader = ReasoningReader::new(TEMPLATE, "assistant<think>\n").unwrap();
        assert_eq!(reader.push("why", &[]).reasoning, "why");
    }
}
