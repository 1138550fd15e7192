//! Everything about a request that is checked before the engine sees it.

use flotilla_core::generate::{GenerateRequest, RequestError, ToolChoice};
use serde_json::{Map, Value};

use super::answer_grammar::{AnswerGrammar, answer_grammar};
use super::answer_matcher::AnswerMatcher;
use super::text_model::{Prompt, TextModel, check_reading_time};
use super::tools::tool_json;
use super::vocabulary::Vocabulary;

/// The size of an input, in bytes, that takes a while to be split into tokens.
const LARGE_INPUT_BYTES: usize = 4 * 1024;

/// A request that the engine can compute.
pub(crate) struct PreparedRequest {
    pub(crate) request: GenerateRequest,
    pub(crate) prompt: Prompt,
    /// The functions that the model may call where no grammar rules. Empty if it must not call any.
    pub(crate) functions: Vec<String>,
    pub(crate) grammar: Option<CompiledGrammar>,
}

/// A grammar at the beginning of an answer, with what is needed to read the answer.
pub(crate) struct CompiledGrammar {
    pub(crate) matcher: AnswerMatcher,
    /// The functions that the answer may call.
    pub(crate) calls: Vec<String>,
    /// Whether the answer may have content instead of a call.
    pub(crate) may_have_content: bool,
    /// The field of the request that the grammar comes from.
    pub(crate) param: &'static str,
}

impl PreparedRequest {
    /// Checks a request, renders its prompt and compiles the grammar of its answer, which may take a while.
    /// `reading_speed` is how fast the engine reads prompts, in tokens per second.
    ///
    /// # Errors
    /// [`RequestError::ContextLength`] when the prompt is too long, and [`RequestError::Invalid`] when
    /// the engine cannot do what the request asks for.
    pub(crate) fn new(
        request: GenerateRequest,
        model: &TextModel,
        reading_speed: Option<f64>,
    ) -> Result<Self, RequestError> {
        check_extra_fields(request.upstream.extra.as_deref())?;
        let tools = if request.tool_choice == ToolChoice::None {
            Vec::new()
        } else {
            let tools = request.tools.iter().enumerate();
            tools
                .map(|(index, tool)| tool_json(tool, index))
                .collect::<Result<_, _>>()?
        };
        let prompt = model.prompt(&request, &tools)?;
        check_reading_time(prompt.tokens.len(), reading_speed, model.reading_limit)?;
        let grammar = answer_grammar(&request)?;
        let grammar = grammar
            .map(|grammar| compile(grammar, &model.vocabulary))
            .transpose()?;
        let functions = match request.tool_choice {
            ToolChoice::None => Vec::new(),
            _ => request.tools.iter().map(|tool| tool.name.clone()).collect(),
        };
        Ok(Self {
            request,
            prompt,
            functions,
            grammar,
        })
    }

    /// Whether [`new`](Self::new) may take long for a request.
    pub(crate) fn may_take_long(request: &GenerateRequest) -> bool {
        request.constraint.is_some()
            || !request.tools.is_empty()
            || request.input.bytes() > LARGE_INPUT_BYTES
    }

    /// The most tokens of the answer in a context of this many: those that the request allows, and that
    /// the prompt leaves. A sequence that exceeds the context makes the engine fail, and with it every
    /// other one.
    pub(crate) fn max_answer(&self, context: usize) -> usize {
        let remaining = context.saturating_sub(self.prompt.tokens.len()).max(1);
        let limit = self.request.sampling.max_tokens;
        limit.map_or(remaining, |limit| remaining.min(limit as usize))
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
pub(crate) fn grammar_error(param: &str, problem: &str) -> RequestError {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::text_model::tests::words;
    use flotilla_core::ModelName;
    use flotilla_core::generate::{GenerateInput, Tool};

    fn prepare(request: GenerateRequest) -> PreparedRequest {
        let model = words(Some("{{ messages[0].content }}"));
        PreparedRequest::new(request, &model, None).unwrap()
    }

    #[test]
    fn answer_has_what_the_prompt_leaves_of_the_context() {
        let input = GenerateInput::Text("word ".repeat(90));
        let mut request = GenerateRequest::new(ModelName::new("m").unwrap(), input);
        assert_eq!(prepare(request.clone()).max_answer(100), 10);
        request.sampling.max_tokens = Some(300);
        // With tools as well: a sequence that exceeds the context fails.
        request.tools = vec![Tool {
            name: "f".into(),
            ..Tool::default()
        }];
        assert_eq!(prepare(request.clone()).max_answer(100), 10);
        request.sampling.max_tokens = Some(3);
        assert_eq!(prepare(request).max_answer(100), 3);
    }
}
