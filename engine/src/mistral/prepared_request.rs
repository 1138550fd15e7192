//! Everything about a request that is checked before the engine sees it.

use flotilla_core::generate::{
    EmbedInput, GenerateInput, GenerateRequest, RequestError, Tool, ToolChoice,
};
use mistralrs_core::Tool as EngineTool;
use serde_json::{Map, Value};

use super::answer_grammar::{AnswerGrammar, answer_grammar};
use super::answer_matcher::AnswerMatcher;
use super::conversation;
use super::prompt_size;
use super::template_args::{EngineTemplateArgs, template_args};
use super::vocabulary::Vocabulary;

/// How many times the tokens of the context a prompt's names, calls and tools may have: a template may print
/// only a part of them, and with less white space.
const PRINTED_PARTS_FACTOR: usize = 4;

/// A request that the engine can compute.
pub(super) struct PreparedRequest {
    pub(super) request: GenerateRequest,
    /// The tools that the chat template shows to the model. Empty if it must not call any.
    pub(super) tools: Vec<EngineTool>,
    pub(super) template_args: EngineTemplateArgs,
    pub(super) grammar: Option<CompiledGrammar>,
}

/// A grammar at the beginning of an answer, with what is needed to read the answer.
pub(super) struct CompiledGrammar {
    pub(super) matcher: AnswerMatcher,
    /// The functions that the answer may call.
    pub(super) calls: Vec<String>,
    /// Whether the answer may have content instead of a call.
    pub(super) may_have_content: bool,
    /// The field of the request that the grammar comes from.
    pub(super) param: &'static str,
}

impl PreparedRequest {
    /// Checks a request and compiles the grammar of its answer, which may take a while.
    ///
    /// # Errors
    /// [`RequestError::ContextLength`] when the prompt is far too long, and [`RequestError::Invalid`] when
    /// the engine cannot do what the request asks for.
    pub(super) fn new(
        request: GenerateRequest,
        vocabulary: &Vocabulary,
        template: &str,
        context: usize,
    ) -> Result<Self, RequestError> {
        check_extra_fields(request.upstream.extra.as_deref())?;
        check_prompt(&request, vocabulary, template, context)?;
        let template_args = template_args(&request, template)?;
        let tools = if request.tool_choice == ToolChoice::None {
            Vec::new()
        } else {
            let tools = request.tools.iter().enumerate();
            tools
                .map(|(index, tool)| conversation::tool(tool, index))
                .collect::<Result<_, _>>()?
        };
        let grammar = answer_grammar(&request)?;
        let grammar = grammar
            .map(|grammar| compile(grammar, vocabulary))
            .transpose()?;
        Ok(Self {
            request,
            tools,
            template_args,
            grammar,
        })
    }

    /// Whether [`new`](Self::new) may take long for a request.
    pub(super) fn may_take_long(request: &GenerateRequest, context: usize) -> bool {
        request.constraint.is_some() || !request.tools.is_empty() || request.input.bytes() > context
    }
}

fn compile(
    grammar: AnswerGrammar,
    vocabulary: &Vocabulary,
) -> Result<CompiledGrammar, RequestError> {
    let AnswerGrammar {
        grammar,
        calls,
        may_have_content,
        param,
    } = grammar;
    let Some(grammars) = &vocabulary.grammars else {
        let message = "The vocabulary of the model does not allow structured output.";
        return Err(RequestError::invalid(param, message));
    };
    let matcher = AnswerMatcher::compile(grammars, grammar, vocabulary.end_tokens.clone());
    Ok(CompiledGrammar {
        matcher: matcher.map_err(|problem| grammar_error(param, &problem))?,
        calls,
        may_have_content,
        param,
    })
}

/// The error when the grammar of an answer cannot be enforced.
pub(super) fn grammar_error(param: &str, problem: &str) -> RequestError {
    let problem = problem.trim_end_matches('.');
    RequestError::invalid(param, format!("The schema cannot be enforced: {problem}."))
}

/// Refuses a field for upstream servers without which an answer would not be what it asks for.
fn check_extra_fields(extra: Option<&str>) -> Result<(), RequestError> {
    const WEB_SEARCH: &str = "web_search_options";
    let fields: Option<Map<String, Value>> = extra.and_then(|json| serde_json::from_str(json).ok());
    if fields.is_some_and(|fields| fields.contains_key(WEB_SEARCH)) {
        return Err(RequestError::invalid(
            WEB_SEARCH,
            "The model does not search the web.",
        ));
    }
    Ok(())
}

/// The size of a chat, in bytes of its messages, up to which the engine may count its rendered prompt: that
/// takes little time. It is exact, as templates may leave out whole messages.
const SHORT_CHAT_BYTES: usize = 64 * 1024;

/// Refuses a prompt that cannot fit into the context.
fn check_prompt(
    request: &GenerateRequest,
    vocabulary: &Vocabulary,
    template: &str,
    context: usize,
) -> Result<(), RequestError> {
    let messages = match &request.input {
        GenerateInput::Text(text) => return check_texts(&[text], vocabulary, context, context),
        GenerateInput::Tokens(tokens) => return check_tokens(tokens, context),
        GenerateInput::Chat(messages) => messages,
    };
    let contents: Vec<&str> = prompt_size::contents(messages).collect();
    // A message without text costs the template some bytes, too.
    let bytes: usize = contents.iter().map(|text| text.len() + 1).sum();
    if bytes > SHORT_CHAT_BYTES {
        check_texts(&contents, vocabulary, context, context)?;
    }
    let tools: &[Tool] = match request.tool_choice {
        ToolChoice::None => &[],
        _ => &request.tools,
    };
    let parts = prompt_size::printed_parts(messages, tools, template);
    let limit = context.saturating_mul(PRINTED_PARTS_FACTOR);
    check_texts(&parts, vocabulary, limit, context)
}

/// Refuses an input of an embedding request as [`PreparedRequest::new`] refuses a prompt.
pub(super) fn check_embed_input(
    input: &EmbedInput,
    vocabulary: &Vocabulary,
    context: usize,
) -> Result<(), RequestError> {
    match input {
        EmbedInput::Text(text) => check_texts(&[text], vocabulary, context, context),
        EmbedInput::Tokens(tokens) => check_tokens(tokens, context),
    }
}

/// Refuses texts of more than `limit` tokens together.
fn check_texts(
    texts: &[&str],
    vocabulary: &Vocabulary,
    limit: usize,
    context: usize,
) -> Result<(), RequestError> {
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    let count = |piece: &str| vocabulary.count_tokens(piece, false);
    // A token has at least one byte; an empty text counts as one.
    let is_long = bytes.saturating_add(texts.len()) > limit;
    if is_long && prompt_size::exceeds(texts.iter().copied(), limit, count) {
        return Err(RequestError::ContextLength(format!(
            "The prompt is longer than the model's context of {context} tokens."
        )));
    }
    Ok(())
}

/// Refuses a prompt of more tokens than the context has.
fn check_tokens(tokens: &[u32], context: usize) -> Result<(), RequestError> {
    if tokens.len() > context {
        return Err(RequestError::ContextLength(format!(
            "The prompt of {} tokens is longer than the model's context of {context} tokens.",
            tokens.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::ModelName;
    use flotilla_core::generate::{ChatMessage, ToolCall};
    use std::sync::Arc;

    fn words() -> Vocabulary {
        Vocabulary {
            token_text: Box::new(|_| String::new()),
            token_ids: Box::new(|text, _| Some(vec![0; text.split_whitespace().count()])),
            grammars: None,
            end_tokens: Arc::new([]),
        }
    }

    fn prepared(input: GenerateInput) -> Result<PreparedRequest, RequestError> {
        let request = GenerateRequest::new(ModelName::new("m").unwrap(), input);
        PreparedRequest::new(request, &words(), "{{ tool_calls, tools, name }}", 100)
    }

    fn chat(role: &str, content: String) -> GenerateInput {
        GenerateInput::Chat(vec![ChatMessage {
            role: role.into(),
            content,
            ..ChatMessage::default()
        }])
    }

    #[test]
    fn prompt_that_is_far_too_long_is_refused() {
        let long = "word ".repeat(20_000);
        for input in [
            chat("user", long.clone()),
            GenerateInput::Text(long.clone()),
            GenerateInput::Tokens(vec![1; 101]),
        ] {
            assert!(matches!(
                prepared(input),
                Err(RequestError::ContextLength(_))
            ));
        }
        let with = |message: ChatMessage| GenerateInput::Chat(vec![message]);
        let call = ToolCall {
            arguments: long.clone(),
            ..ToolCall::default()
        };
        for input in [
            chat("user", format!("{long}</think>")),
            with(ChatMessage {
                tool_calls: vec![call],
                ..ChatMessage::default()
            }),
            with(ChatMessage {
                name: Some(long.clone()),
                ..ChatMessage::default()
            }),
            GenerateInput::Chat(vec![ChatMessage::default(); 70_000]),
        ] {
            assert!(matches!(
                prepared(input),
                Err(RequestError::ContextLength(_))
            ));
        }
        // The engine judges a short chat by its rendered prompt.
        assert!(prepared(chat("user", "word ".repeat(10_000))).is_ok());
        // A template leaves this out.
        assert!(prepared(chat("assistant", format!("{long}</think>answer"))).is_ok());
        assert!(prepared(chat("user", "word ".repeat(100))).is_ok());
    }
}
