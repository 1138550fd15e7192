//! Requests in mistral.rs' format.

use std::sync::Arc;

use flotilla_core::generate::{GenerateInput, SamplingParams as Sampling};
use mistralrs_core::{
    CustomLogitsProcessor, Function, RequestMessage, SamplingParams, StopTokens,
    Tool as EngineTool, ToolChoice as EngineToolChoice, ToolType,
};

use super::engine_permit::SequenceGuard;
use super::journal::TokenJournal;
use super::logits_processor::LogitsProcessor;
use crate::text::prepared_request::PreparedRequest;
use crate::text::text_model::TextModel;
use crate::text::token_sampler::TokenSampler;

/// A request to the engine, without the channel for its responses.
pub(super) struct EngineRequest {
    pub(super) messages: RequestMessage,
    pub(super) sampling: SamplingParams,
    pub(super) tools: Option<Vec<EngineTool>>,
    pub(super) tool_choice: Option<EngineToolChoice>,
    pub(super) processors: Option<Vec<Arc<dyn CustomLogitsProcessor>>>,
    pub(super) return_logprobs: bool,
    pub(super) is_streaming: bool,
}

/// Creates the engine request for a choice, whose sequence owns `guard` and records its tokens in the
/// journal. It always streams: the engine stops computing only when the channel of a stream is closed.
pub(super) fn choice(
    prepared: &PreparedRequest,
    model: &TextModel,
    guard: SequenceGuard,
) -> (EngineRequest, Arc<TokenJournal>) {
    let request = &prepared.request;
    let sampling = &request.sampling;
    let with_tools = !prepared.functions.is_empty();
    // With tools the engine leaves special tokens in the text. The text of the last token is then
    // needed to remove it.
    // A completion needs that of the first token for the space that the engine removes.
    let is_chat = matches!(request.input, GenerateInput::Chat(_));
    let return_logprobs = request.logprobs.is_some() || with_tools || !is_chat;
    let grammar = prepared.grammar.as_ref();
    let sampler = TokenSampler::new(sampling, &prepared.prompt.tokens, request.logprobs)
        .with_grammar(grammar.map(|grammar| grammar.matcher.clone()));
    let processor = LogitsProcessor::new(sampler, guard);
    let journal = processor.journal();
    let engine_request = EngineRequest {
        messages: RequestMessage::CompletionTokens(prepared.prompt.tokens.clone()),
        sampling: SamplingParams {
            // The engine takes the token that our sampler has made the most probable.
            temperature: Some(0.0),
            // Only the token itself is read from what the engine reports.
            top_n_logprobs: 1,
            max_len: Some(prepared.max_answer(model.context)),
            stop_toks: Some(StopTokens::Ids(model.vocabulary.more_end_tokens.clone())),
            ..SamplingParams::neutral()
        },
        tools: with_tools.then(|| vec![any_tool()]),
        // Calls are read from the text of the answer.
        tool_choice: with_tools.then_some(EngineToolChoice::None),
        processors: Some(vec![Arc::new(processor)]),
        return_logprobs,
        is_streaming: true,
    };
    (engine_request, journal)
}

/// A tool, with which the engine leaves special tokens in the text: calls are written with them.
fn any_tool() -> EngineTool {
    EngineTool {
        tp: ToolType::Function,
        function: Function {
            description: None,
            name: String::new(),
            parameters: None,
        },
    }
}

/// Creates the engine request that takes the tokens `forced` after `prompt`, and records their
/// log-probabilities with this number of alternatives.
pub(super) fn scoring(
    prompt: Vec<u32>,
    forced: Vec<u32>,
    alternatives: u32,
    guard: SequenceGuard,
) -> (EngineRequest, Arc<TokenJournal>) {
    let max_len = forced.len();
    let sampler = TokenSampler::new(&Sampling::default(), &prompt, Some(alternatives))
        .with_forced_tokens(forced);
    let processor = LogitsProcessor::new(sampler, guard);
    let journal = processor.journal();
    let engine_request = EngineRequest {
        messages: RequestMessage::CompletionTokens(prompt),
        sampling: SamplingParams {
            temperature: Some(0.0),
            max_len: Some(max_len),
            ..SamplingParams::neutral()
        },
        tools: None,
        tool_choice: None,
        processors: Some(vec![Arc::new(processor)]),
        return_logprobs: false,
        is_streaming: true,
    };
    (engine_request, journal)
}

/// Creates the engine request for the embedding of one input.
pub(super) fn embedding(prompt: Vec<u32>) -> EngineRequest {
    EngineRequest {
        messages: RequestMessage::EmbeddingTokens { prompt },
        sampling: SamplingParams::deterministic(),
        tools: None,
        tool_choice: None,
        processors: None,
        return_logprobs: false,
        is_streaming: false,
    }
}
