//! Log-probabilities of a prompt's tokens.
//!
//! mistral.rs can return the logits of a whole prompt, but all at once: a long prompt of a large vocabulary
//! takes gigabytes. So the engine reads the first token as a prompt, and our sampler makes it continue with
//! the tokens that follow, one after the other, whose log-probabilities it records. That takes the time of
//! as many generated tokens.

use flotilla_core::generate::RequestError;

use super::chunk::EngineChunk;
use super::engine_thread::EngineThread;
use super::request;
use crate::text::token_sampler::SampledToken;

/// Returns the tokens of a prompt after the first one, each with its log-probability and this number of
/// alternatives.
///
/// # Errors
/// When the engine fails.
pub(super) async fn prompt_scores(
    engine: &EngineThread,
    tokens: &[u32],
    alternatives: u32,
) -> Result<Vec<SampledToken>, RequestError> {
    let mut scores = Vec::with_capacity(tokens.len());
    // The engine ends a sequence with the first end token, of which a prompt may have several.
    while scores.len() + 1 < tokens.len() {
        let (read, forced) = tokens.split_at(scores.len() + 1);
        let scored = score_sequence(engine, read.to_vec(), forced.to_vec(), alternatives).await?;
        if scored.is_empty() {
            return Err(RequestError::Engine(
                "the engine does not continue the prompt".into(),
            ));
        }
        scores.extend(scored);
    }
    Ok(scores)
}

/// Lets the engine continue `read` with `forced`, through the first end token at most.
async fn score_sequence(
    engine: &EngineThread,
    read: Vec<u32>,
    forced: Vec<u32>,
    alternatives: u32,
) -> Result<Vec<SampledToken>, RequestError> {
    let (_permit, guard) = engine.acquire(read.len()).await?;
    let (engine_request, journal) = request::scoring(read, forced, alternatives, guard);
    let mut responses = engine.send(engine_request).await?;
    while let Some(response) = engine.receive(&mut responses).await? {
        let chunk = EngineChunk::from_response(response)?;
        if chunk.is_some_and(|chunk| chunk.finish_reason().is_some()) {
            break;
        }
    }
    Ok(journal.take_through(None))
}
