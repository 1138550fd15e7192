//! Divides the text of an answer into what the model thinks, what it says and the functions that it calls.

use flotilla_core::generate::{FinishReason, ToolCallDelta};

use super::call_reader::{self, CallPiece, CallReader};
use super::prepared_request::PreparedRequest;
use super::stop_texts::{StopMatch, StopTexts};
use crate::call_id::new_call_id;
use crate::chat::call_scanner::CallScanner;
use crate::chat::reasoning::{ReasoningPiece, ReasoningReader};

/// Reads the text of an answer as it comes.
pub(crate) struct AnswerText {
    /// Reads thoughts. `None` where there are none.
    reasoning: Option<ReasoningReader>,
    calls: Calls,
    stop_texts: StopTexts,
    /// The number of calls so far.
    call_count: usize,
    /// The most calls that the answer may have.
    max_calls: usize,
    functions: Vec<String>,
}

/// How calls are written.
enum Calls {
    /// There are none.
    None,
    /// In the form that a grammar forces.
    Forced(CallReader),
    /// In a form of the model's own.
    Free(CallScanner),
}

/// What a piece of text adds to an answer.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct AnswerPiece {
    pub(crate) content: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<ToolCallDelta>,
    /// Why the answer ends with the piece, if it does.
    pub(crate) ends: Option<FinishReason>,
}

impl AnswerText {
    /// Reads the answer to a request. `template` is the text of the chat template.
    pub(crate) fn new(prepared: &PreparedRequest, template: &str) -> Self {
        let request = &prepared.request;
        let calls = match &prepared.grammar {
            Some(grammar) if !grammar.calls.is_empty() => Calls::Forced(CallReader::new(
                grammar.calls.clone(),
                grammar.may_have_content,
            )),
            None if !prepared.functions.is_empty() => {
                Calls::Free(CallScanner::new(prepared.functions.clone()))
            }
            Some(_) | None => Calls::None,
        };
        // Where a grammar rules from the first token on, there is no reasoning; nor in a raw prompt.
        let has_reasoning = prepared.grammar.is_none() && !prepared.prompt.text.is_empty();
        let reasoning =
            has_reasoning.then(|| ReasoningReader::new(template, &prepared.prompt.text));
        Self {
            reasoning: reasoning.flatten(),
            calls,
            stop_texts: StopTexts::new(request.sampling.stop.clone().unwrap_or_default()),
            call_count: 0,
            max_calls: match request.parallel_tool_calls {
                Some(false) => 1,
                Some(true) | None => usize::MAX,
            },
            functions: prepared.functions.clone(),
        }
    }

    /// Adds the next piece of text, and the tokens that it comes from.
    pub(crate) fn push(&mut self, text: &str, tokens: &[u32]) -> AnswerPiece {
        let ReasoningPiece {
            content, reasoning, ..
        } = match &mut self.reasoning {
            Some(reader) => reader.push(text, tokens),
            None => ReasoningPiece {
                content: text.to_owned(),
                ..ReasoningPiece::default()
            },
        };
        AnswerPiece {
            reasoning,
            ..self.push_content(&content)
        }
    }

    /// Returns what was held back, at the end of the answer, which the engine has ended for this reason.
    pub(crate) fn finish(&mut self, reason: FinishReason) -> AnswerPiece {
        let thought = self.reasoning.as_mut().map(ReasoningReader::finish);
        let thought = thought.unwrap_or_default();
        let mut piece = self.push_content(&thought.content);
        piece.reasoning = thought.reasoning;
        piece.calls.extend(self.whole_calls(thought.calls));
        let held = match &mut self.calls {
            Calls::None => String::new(),
            Calls::Forced(reader) => reader.finish(),
            Calls::Free(scanner) => scanner.finish(),
        };
        // The beginning of a call is held back. Where the answer is cut, so is the call.
        let functions = self.functions.iter().map(String::as_str);
        let cut = match (&self.calls, reason) {
            (Calls::Free(_), FinishReason::Length) => call_reader::cut_call(&held, functions),
            _ => None,
        };
        match cut {
            Some(call) => piece.calls.extend(call),
            None => {
                let rest = self.push_text(held);
                piece.content.push_str(&rest.content);
                piece.ends = piece.ends.or(rest.ends);
            }
        }
        piece.content.push_str(&self.stop_texts.finish());
        let has_called = match &self.calls {
            Calls::Forced(reader) => reader.is_complete(),
            // The last call of an answer that was cut is not whole.
            Calls::None | Calls::Free(_) => self.call_count > 0 && reason == FinishReason::Stop,
        };
        piece.ends = piece.ends.or(Some(match has_called {
            true => FinishReason::ToolCalls,
            false => reason,
        }));
        piece
    }

    fn push_content(&mut self, text: &str) -> AnswerPiece {
        match &mut self.calls {
            Calls::None => self.push_text(text.to_owned()),
            Calls::Forced(reader) => {
                let CallPiece { content, call } = reader.push(text);
                // Stop texts end content. A call that they cut would be of no use.
                if reader.is_content() {
                    return self.push_text(content);
                }
                AnswerPiece {
                    calls: call.into_iter().collect(),
                    ..AnswerPiece::default()
                }
            }
            Calls::Free(scanner) => {
                let scanned = scanner.push(text);
                let is_complete = scanner.is_complete();
                let mut piece = self.push_text(scanned.content);
                piece.calls = self.whole_calls(scanned.calls);
                if is_complete || (self.call_count > 0 && self.call_count >= self.max_calls) {
                    piece.ends = piece.ends.or(Some(FinishReason::ToolCalls));
                }
                piece
            }
        }
    }

    fn push_text(&mut self, text: String) -> AnswerPiece {
        let (content, ends) = match self.stop_texts.push(text) {
            StopMatch::Continue(text) => (text, None),
            StopMatch::Stop(text) => (text, Some(FinishReason::Stop)),
        };
        AnswerPiece {
            content,
            ends,
            ..AnswerPiece::default()
        }
    }

    /// Numbers calls, of which there may be no more than the request allows.
    fn whole_calls(&mut self, calls: Vec<(String, String)>) -> Vec<ToolCallDelta> {
        let free = self.max_calls - self.call_count.min(self.max_calls);
        let calls = calls.into_iter().take(free);
        let deltas = calls.map(|(name, arguments)| {
            let index = self.call_count as u32;
            self.call_count += 1;
            ToolCallDelta {
                index,
                id: Some(new_call_id()),
                name: Some(name),
                arguments,
            }
        });
        deltas.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::text_model::tests::words;
    use flotilla_core::ModelName;
    use flotilla_core::generate::{ChatMessage, GenerateInput, GenerateRequest, Tool};

    const THINKS: &str =
        "{{ messages[0].content }}{{ '<think>' if think }}{{ '</think>' if think }}";

    fn answer(parallel: Option<bool>) -> AnswerText {
        let message = ChatMessage {
            role: "user".into(),
            content: "hi".into(),
            ..ChatMessage::default()
        };
        let input = GenerateInput::Chat(vec![message]);
        let request = GenerateRequest {
            tools: vec![Tool {
                name: "f".into(),
                ..Tool::default()
            }],
            parallel_tool_calls: parallel,
            ..GenerateRequest::new(ModelName::new("m").unwrap(), input)
        };
        let prepared = PreparedRequest::new(request, &words(Some(THINKS)), None);
        AnswerText::new(&prepared.unwrap(), THINKS)
    }

    const CALL: &str = r#"{"name": "f", "arguments": {"a": 1}}"#;

    #[test]
    fn thoughts_content_and_calls_are_divided() {
        let mut text = answer(None);
        let thought = text.push("<think>hm {</think>", &[]);
        assert_eq!((&*thought.reasoning, &*thought.content), ("hm {", ""));
        assert_eq!(text.push("Well. ", &[]).content, "Well. ");
        let called = text.push(CALL, &[]);
        assert_eq!(called.ends, Some(FinishReason::ToolCalls));
        assert_eq!(called.calls[0].arguments, r#"{"a":1}"#);
    }

    #[test]
    fn request_may_forbid_a_second_call() {
        let tagged = format!("<tool_call>{CALL}</tool_call>");
        let twice = format!("{tagged}{tagged}");
        let piece = answer(None).push(&twice, &[]);
        assert_eq!((piece.calls.len(), piece.ends), (2, None));
        assert_eq!(piece.calls[1].index, 1);
        let mut text = answer(None);
        text.push(&twice, &[]);
        let ends = text.finish(FinishReason::Stop).ends;
        assert_eq!(ends, Some(FinishReason::ToolCalls));
        let piece = answer(Some(false)).push(&twice, &[]);
        assert_eq!(
            (piece.calls.len(), piece.ends),
            (1, Some(FinishReason::ToolCalls))
        );
    }

    #[test]
    fn call_that_was_cut_is_a_call_and_other_held_text_is_content() {
        let mut text = answer(None);
        assert_eq!(text.push(&CALL[..30], &[]), AnswerPiece::default());
        let cut = text.finish(FinishReason::Length);
        assert_eq!((cut.calls.len(), &*cut.content), (1, ""));
        assert_eq!(cut.ends, Some(FinishReason::Length));
        let mut text = answer(None);
        text.push("<tool", &[]);
        assert_eq!(text.finish(FinishReason::Stop).content, "<tool");
    }
}
