//! A first answer that nobody waits for.
//!
//! A model's first answer often takes a few times as long as those that follow: weights are paged in, threads
//! and buffers are made, the chat template is read. Whoever asks first would wait for that, and what a
//! replica takes would be learnt wrong, in time and in joules.

use std::time::Duration;

use flotilla_core::ModelName;
use flotilla_core::generate::{
    EmbedRequest, GenerateRequest, Input, Message, RequestError, Sampling, ToolChoice,
};
use flotilla_core::spec::Pipeline;
use futures::StreamExt;

use crate::engine::LoadedModel;

/// How long it may hold a model back that is loaded: a large one is slow for other reasons.
const LONGEST: Duration = Duration::from_secs(5);
/// Answers: the second one may still be slow, those that follow hardly are.
const ANSWERS: usize = 2;
/// Tokens of each: the second one is the first that is decoded.
const TOKENS: u32 = 2;

/// Has `model` answer. What goes wrong is told in the log only: that a model cannot answer this does not
/// mean that it cannot answer others.
pub(super) async fn warm_up(model: &dyn LoadedModel, name: &ModelName, pipeline: Pipeline) {
    let answers = async {
        for _ in 0..ANSWERS {
            match pipeline {
                Pipeline::Embedding => embed(model, name).await?,
                _ => generate(model, name).await?,
            }
        }
        Ok::<_, RequestError>(())
    };
    match tokio::time::timeout(LONGEST, answers).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(model = %name, %error, "it was not warmed up"),
        Err(_) => tracing::debug!(model = %name, "warming it up takes too long"),
    }
}

async fn generate(model: &dyn LoadedModel, name: &ModelName) -> Result<(), RequestError> {
    let request = GenerateRequest {
        model: name.clone(),
        input: Input::Chat(vec![Message {
            role: "user".into(),
            content: "Hello".into(),
            ..Message::default()
        }]),
        sampling: Sampling {
            max_tokens: Some(TOKENS),
            ..Sampling::default()
        },
        tools: Vec::new(),
        tool_choice: ToolChoice::Auto,
        constraint: None,
        logprobs: None,
        choices: 1,
        stream: true,
        standing: Default::default(),
        deadline: None,
    };
    let mut events = model.generate(request).await?;
    while let Some(event) = events.next().await {
        event?;
    }
    Ok(())
}

async fn embed(model: &dyn LoadedModel, name: &ModelName) -> Result<(), RequestError> {
    let request = EmbedRequest {
        model: name.clone(),
        inputs: vec!["Hello".into()],
        standing: Default::default(),
        deadline: None,
    };
    model.embed(request).await.map(drop)
}
