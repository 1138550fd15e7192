//! Computes the embedding of one input.

use std::sync::Arc;

use flotilla_core::generate::RequestError;
use mistralrs_core::Response;

use super::chunk;
use super::engine_thread::EngineThread;
use super::request;

/// Returns the vector of an input and its number of tokens.
///
/// The engine thread ends if nobody receives its answer. So a task of its own receives it, which goes on
/// when the caller is dropped, and keeps other sequences away until then.
pub(super) async fn embed_tokens(
    engine: &Arc<EngineThread>,
    tokens: Vec<u32>,
) -> Result<(Vec<f32>, u32), RequestError> {
    // Nothing is sent before this returns: a caller that leaves meanwhile leaves nothing behind.
    let (permit, guard) = engine.acquire(tokens.len()).await?;
    let sender = engine.clone();
    let received = tokio::spawn(async move {
        let mut responses = sender.send(request::embedding(tokens)).await?;
        let response = sender.receive(&mut responses).await;
        guard.token_sampled();
        drop((guard, permit));
        response
    });
    match received.await.map_err(|_| engine.stopped())?? {
        Some(Response::Embeddings {
            embeddings,
            prompt_tokens,
            ..
        }) => Ok((embeddings, prompt_tokens as u32)),
        Some(Response::ValidationError(error)) => Err(chunk::invalid(&error.to_string())),
        Some(Response::InternalError(error)) => Err(chunk::failed(&error.to_string())),
        Some(_) => Err(RequestError::Engine(
            "the engine sent an unexpected response".into(),
        )),
        None => Err(engine.stopped()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::ProgressWatch;
    use crate::text::text_model::tests::words;
    use futures::poll;
    use mistralrs_core::Request;
    use tokio::sync::mpsc;

    /// The engine's side: a request whose answer it can still send.
    async fn answer(requests: &mut mpsc::Receiver<Request>) {
        let Some(Request::Normal(request)) = requests.recv().await else {
            panic!("not a request for an embedding");
        };
        let answer = Response::Embeddings {
            embeddings: vec![1.0],
            prompt_tokens: 2,
            total_tokens: 2,
        };
        assert!(
            request.response.send(answer).await.is_ok(),
            "nobody receives"
        );
    }

    // Clients leave at any moment, so this cannot be tested from outside without hitting a race.
    #[tokio::test]
    async fn engine_can_answer_whenever_the_client_leaves() {
        let (sender, mut requests) = mpsc::channel(1);
        let thread = EngineThread::new(sender, 1, words(None), ProgressWatch::new());
        let thread = Arc::new(thread);
        // While it waits for its turn: nothing is sent.
        let (permit, guard) = thread.acquire(1).await.unwrap();
        let mut waits = Box::pin(embed_tokens(&thread, vec![1, 2]));
        assert!(poll!(&mut waits).is_pending());
        drop(waits);
        drop((guard, permit));
        // While the request is being sent, and while the engine computes.
        for polls in 1..4 {
            let mut leaves = Box::pin(embed_tokens(&thread, vec![1, 2]));
            for _ in 0..polls {
                assert!(poll!(&mut leaves).is_pending());
                tokio::task::yield_now().await;
            }
            drop(leaves);
            answer(&mut requests).await;
        }
        assert!(requests.try_recv().is_err());
        let stays = tokio::spawn({
            let thread = thread.clone();
            async move { embed_tokens(&thread, vec![1, 2]).await }
        });
        answer(&mut requests).await;
        assert_eq!(stays.await.unwrap(), Ok((vec![1.0], 2)));
    }
}
