//! Requests in mistral.rs' format.

use std::sync::Arc;

use flotilla_core::generate::{EmbedInput, GenerateInput, SamplingParams as Sampling};
use mistralrs_core::{
    CustomLogitsProcessor, RequestMessage, SamplingParams, Tool as EngineTool,
    ToolChoice as EngineToolChoice,
};

use super::conversation::conversation;
use super::engine_permit::{SequenceRelease, sequence_guard};
use super::journal::TokenJournal;
use super::prepared_request::PreparedRequest;
use super::sampler::TokenSampler;

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

/// The request for one choice, with the ends that its sequence shares with the caller.
pub(super) struct ChoiceRequest {
    pub(super) engine_request: EngineRequest,
    /// Where the sequence records its tokens.
    pub(super) journal: Arc<TokenJournal>,
    /// Completes when the engine has dropped the sequence.
    pub(super) release: SequenceRelease,
}

/// Creates the engine request for a choice. It always streams: the engine stops computing only when the
/// channel of a stream is closed.
pub(super) fn choice(prepared: &PreparedRequest) -> ChoiceRequest {
    let request = &prepared.request;
    let sampling = &request.sampling;
    let with_tools = !prepared.tools.is_empty();
    // With tools the engine leaves special tokens in the text. The text of the last token is then
    // needed to remove it.
    // A completion needs that of the first token for the space that the engine removes.
    let is_chat = matches!(request.input, GenerateInput::Chat(_));
    let return_logprobs = request.logprobs.is_some() || with_tools || !is_chat;
    let (guard, release) = sequence_guard();
    let grammar = prepared.grammar.as_ref();
    let sampler = TokenSampler::new(sampling, request.logprobs)
        .with_grammar(grammar.map(|grammar| grammar.matcher.clone()))
        .with_guard(guard);
    let journal = sampler.journal();
    // Where the answer has a grammar, its calls are read here; the engine would take other JSON of the
    // same form for calls, too.
    let tool_choice = match grammar {
        Some(_) => EngineToolChoice::None,
        None => EngineToolChoice::Auto,
    };
    let engine_request = EngineRequest {
        messages: messages(prepared),
        sampling: SamplingParams {
            // The engine takes the token that our sampler has made the most probable.
            temperature: Some(0.0),
            // Only the token itself is read from what the engine reports.
            top_n_logprobs: 1,
            frequency_penalty: sampling.frequency_penalty.filter(is_nonzero),
            presence_penalty: sampling.presence_penalty.filter(is_nonzero),
            repetition_penalty: sampling.repetition_penalty,
            max_len: sampling.max_tokens.map(|tokens| tokens as usize),
            ..SamplingParams::neutral()
        },
        tools: with_tools.then(|| prepared.tools.clone()),
        tool_choice: with_tools.then_some(tool_choice),
        processors: Some(vec![Arc::new(sampler)]),
        return_logprobs,
        is_streaming: true,
    };
    ChoiceRequest {
        engine_request,
        journal,
        release,
    }
}

/// Creates the engine request that takes the tokens `forced` after `prompt`, and records their
/// log-probabilities with this number of alternatives.
pub(super) fn scoring(prompt: Vec<u32>, forced: Vec<u32>, alternatives: u32) -> ChoiceRequest {
    let (guard, release) = sequence_guard();
    let max_len = forced.len();
    let sampler = TokenSampler::new(&Sampling::default(), Some(alternatives))
        .with_forced_tokens(forced)
        .with_guard(guard);
    let journal = sampler.journal();
    let engine_request = EngineRequest {
        messages: RequestMessage::CompletionTokens(prompt),
        sampling: SamplingParams {
            temperature: Some(0.0),
            max_len: Some(max_len),
            ..SamplingParams::neutral()
        },
        tools: None,
        tool_choice: None,
        processors: Some(vec![Arc::new(sampler)]),
        return_logprobs: false,
        is_streaming: true,
    };
    ChoiceRequest {
        engine_request,
        journal,
        release,
    }
}

/// Creates the engine request for the embedding of one input.
pub(super) fn embedding(input: EmbedInput) -> EngineRequest {
    EngineRequest {
        messages: match input {
            EmbedInput::Text(prompt) => RequestMessage::Embedding { prompt },
            EmbedInput::Tokens(prompt) => RequestMessage::EmbeddingTokens { prompt },
        },
        sampling: SamplingParams::deterministic(),
        tools: None,
        tool_choice: None,
        processors: None,
        return_logprobs: false,
        is_streaming: false,
    }
}

fn is_nonzero(penalty: &f32) -> bool {
    *penalty != 0.0
}

fn messages(prepared: &PreparedRequest) -> RequestMessage {
    match &prepared.request.input {
        GenerateInput::Text(text) => RequestMessage::Completion {
            text: text.clone(),
            echo_prompt: false,
            best_of: None,
        },
        GenerateInput::Tokens(tokens) => RequestMessage::CompletionTokens(tokens.clone()),
        GenerateInput::Chat(messages) => RequestMessage::Chat {
            messages: conversation(messages),
            enable_thinking: prepared.template_args.enable_thinking,
            reasoning_effort: prepared.template_args.reasoning_effort,
        },
    }
}
