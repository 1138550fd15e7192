//! The handle of the thread in which mistral.rs computes one model.

use std::sync::Arc;

use flotilla_core::generate::{GenerateRequest, RequestError};
use mistralrs_core::{Constraint, NormalRequest, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SetOnce, mpsc};

use super::engine_permit::{EnginePermit, SequenceGuard, engine_permit};
use super::request::EngineRequest;
use crate::progress::ProgressWatch;
use crate::text::preparation::Preparation;
use crate::text::prepared_request::PreparedRequest;
use crate::text::text_model::TextModel;

/// Responses of one answer beyond one per token: its end, errors.
const EXTRA_RESPONSES: usize = 8;

/// Sends requests to an engine thread.
pub(super) struct EngineThread {
    /// Closed when the thread has stopped.
    sender: mpsc::Sender<Request>,
    /// One permit for each sequence that may be in the engine at once. Closed after a fault.
    permits: Arc<Semaphore>,
    progress: Arc<ProgressWatch>,
    /// Why the engine will never answer again.
    fault: SetOnce<String>,
    pub(super) model: Arc<TextModel>,
    preparation: Preparation,
}

impl EngineThread {
    /// The handle of a thread that may compute this many sequences at once.
    pub(super) fn new(
        sender: mpsc::Sender<Request>,
        sequences: usize,
        model: TextModel,
        progress: Arc<ProgressWatch>,
    ) -> Self {
        Self {
            sender,
            permits: Arc::new(Semaphore::new(sequences)),
            progress,
            fault: SetOnce::new(),
            model: Arc::new(model),
            preparation: Preparation::default(),
        }
    }

    /// Checks a request, renders its prompt and compiles the grammar of its answer.
    pub(super) async fn prepare(
        &self,
        request: GenerateRequest,
    ) -> Result<PreparedRequest, RequestError> {
        let model = self.model.clone();
        let speed = self.progress.reading_speed();
        let may_take_long = PreparedRequest::may_take_long(&request);
        let prepare = move || PreparedRequest::new(request, &model, speed);
        if may_take_long {
            self.preparation.run(prepare).await
        } else {
            prepare()
        }
    }

    /// Runs a check that may take long, such as the one of a large input.
    pub(super) async fn check<T: Send + 'static>(
        &self,
        check: impl FnOnce(&TextModel) -> Result<T, RequestError> + Send + 'static,
    ) -> Result<T, RequestError> {
        let model = self.model.clone();
        self.preparation.run(move || check(&model)).await
    }

    /// Why the engine will never answer again: its thread has stopped, or it is stuck. Everybody who waits
    /// for it gets an error from then on.
    pub(super) fn fault(&self) -> Option<String> {
        if self.fault.get().is_none() {
            let fault = if self.has_stopped() {
                "the engine thread has stopped".to_owned()
            } else {
                self.progress.stall()?.to_string()
            };
            // Another caller may have set it at the same time.
            let _ = self.fault.set(fault);
            self.permits.close();
        }
        self.fault.get().cloned()
    }

    /// Waits for a fault.
    pub(super) async fn failed(&self) -> RequestError {
        RequestError::NodeLost(self.fault.wait().await.clone())
    }

    /// Whether the thread has stopped, after which it never answers again.
    pub(super) fn has_stopped(&self) -> bool {
        self.sender.is_closed()
    }

    /// The error when the engine does not answer any more.
    pub(super) fn stopped(&self) -> RequestError {
        let fault = self.fault.get().cloned();
        RequestError::NodeLost(
            fault.unwrap_or_else(|| "the engine thread of the model has stopped".to_owned()),
        )
    }

    /// Waits until another sequence with a prompt of this many tokens may be in the engine.
    pub(super) async fn acquire(
        &self,
        prompt_tokens: usize,
    ) -> Result<(EnginePermit, SequenceGuard), RequestError> {
        let permit: Result<OwnedSemaphorePermit, _> = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| self.stopped())?;
        Ok(engine_permit(permit, &self.progress, prompt_tokens))
    }

    /// Sends a request and returns the channel of its responses.
    ///
    /// The thread blocks on a full channel, and with it every other request. So the channel holds all
    /// responses of the longest answer.
    pub(super) async fn send(
        &self,
        request: EngineRequest,
    ) -> Result<mpsc::Receiver<Response>, RequestError> {
        let context = self.model.context;
        let max_tokens = request.sampling.max_len.unwrap_or(context);
        let (response, responses) = mpsc::channel(max_tokens.min(context) + EXTRA_RESPONSES);
        let normal = NormalRequest {
            messages: request.messages,
            sampling_params: request.sampling,
            response,
            return_logprobs: request.return_logprobs,
            is_streaming: request.is_streaming,
            id: 0,
            constraint: Constraint::None,
            suffix: None,
            tools: request.tools,
            tool_choice: request.tool_choice,
            logits_processors: request.processors,
            return_raw_logits: false,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        };
        self.sender
            .send(Request::Normal(Box::new(normal)))
            .await
            .map_err(|_| self.stopped())?;
        Ok(responses)
    }

    /// Waits for the next response. `None` when the engine has dropped the sequence.
    ///
    /// # Errors
    /// [`RequestError::NodeLost`] after a fault.
    pub(super) async fn receive(
        &self,
        responses: &mut mpsc::Receiver<Response>,
    ) -> Result<Option<Response>, RequestError> {
        tokio::select! {
            biased;
            response = responses.recv() => match response {
                None if self.has_stopped() => Err(self.stopped()),
                response => Ok(response),
            },
            fault = self.failed() => Err(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::text_model::tests::words;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[tokio::test]
    async fn engine_that_keeps_a_sequence_that_nobody_reads_is_a_fault() {
        let clock = Arc::new(AtomicU64::new(0));
        let now = clock.clone();
        let progress = ProgressWatch::with_clock(move || now.load(Ordering::Relaxed));
        let (sender, _requests) = mpsc::channel(1);
        let thread = EngineThread::new(sender, 1, words(None), progress);
        let (permit, guard) = thread.acquire(1).await.unwrap();
        guard.token_sampled();
        // The client leaves, and the engine goes on.
        drop(permit);
        let mut waiting = Box::pin(thread.acquire(1));
        clock.store(29_000, Ordering::Relaxed);
        guard.token_sampled();
        assert_eq!(thread.fault(), None);
        assert!(futures::poll!(&mut waiting).is_pending());
        clock.store(31_000, Ordering::Relaxed);
        let fault = thread.fault().unwrap();
        assert!(
            fault.contains("does not stop computing a sequence"),
            "{fault}"
        );
        assert!(matches!(waiting.await, Err(RequestError::NodeLost(f)) if f == fault));
        // It stays a fault, even if the engine ends the sequence at last.
        drop(guard);
        assert_eq!(thread.fault(), Some(fault));
        assert!(thread.acquire(1).await.is_err());
    }

    #[tokio::test]
    async fn requests_fail_after_the_engine_has_stopped() {
        let (sender, requests) = mpsc::channel(1);
        let thread = EngineThread::new(sender, 1, words(None), ProgressWatch::new());
        let (permit, _guard) = thread.acquire(1).await.unwrap();
        let mut waiting = Box::pin(thread.acquire(1));
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(thread.fault(), None);
        drop(requests);
        let fault = thread.fault().unwrap();
        assert!(matches!(waiting.await, Err(RequestError::NodeLost(f)) if f == fault));
        let (_sender, mut silent) = mpsc::channel(1);
        let answer = thread.receive(&mut silent).await;
        assert!(matches!(answer, Err(RequestError::NodeLost(f)) if f == fault));
        drop(permit);
        assert!(thread.acquire(1).await.is_err());
    }
}
