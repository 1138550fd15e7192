//! A model that takes requests: a limit of what it computes at once, a bounded queue before
//! it, and counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flotilla_core::generate::RequestError;
use flotilla_core::spec::ModelSpec;
use flotilla_proto::v1::Counters as CountersMessage;
use tokio::sync::{Notify, Semaphore};

use super::Ticket;
use crate::engine::LoadedModel;

/// What a refused caller is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A model that takes requests.
pub struct Hosted {
    pub model: Arc<dyn LoadedModel>,
    /// Computing places. First come, first served.
    places: Arc<Semaphore>,
    queue: u32,
    waiting: AtomicU32,
    counters: Counters,
    /// Told whenever a request leaves.
    idle: Notify,
}

impl Hosted {
    /// A model with the limits of its spec.
    #[must_use]
    pub fn new(model: Arc<dyn LoadedModel>, spec: &ModelSpec) -> Self {
        Self {
            model,
            places: Arc::new(Semaphore::new(spec.concurrency as usize)),
            queue: spec.queue,
            waiting: AtomicU32::new(0),
            counters: Counters::default(),
            idle: Notify::new(),
        }
    }

    /// Waits for a place. A caller that goes away leaves the queue.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] when the queue is full, [`RequestError::Unavailable`]
    /// when the model is leaving.
    pub async fn enter(self: Arc<Self>) -> Result<Ticket, RequestError> {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Ok(Ticket::new(self, permit));
        }
        let waiting = Waiting::join(&self)?;
        let began = Instant::now();
        let permit = self.places.clone().acquire_owned().await;
        self.counters.waited(began.elapsed());
        match permit {
            // Counted as computing before it stops counting as waiting: never as neither.
            Ok(permit) => {
                let ticket = Ticket::new(self.clone(), permit);
                drop(waiting);
                Ok(ticket)
            }
            Err(_) => Err(RequestError::Unavailable(
                "the model is being unloaded".into(),
            )),
        }
    }

    /// Takes no request any more; those waiting are sent elsewhere.
    pub(super) fn close(&self) {
        self.places.close();
    }

    /// Waits until no request is being computed and none waits.
    pub(super) async fn drained(&self) {
        loop {
            let left = self.idle.notified();
            let waiting = self.waiting.load(Ordering::SeqCst);
            if self.counters.active.load(Ordering::SeqCst) + waiting == 0 {
                return;
            }
            left.await;
        }
    }

    /// What it does and did.
    #[must_use]
    pub fn counts(&self) -> CountersMessage {
        let counters = &self.counters;
        CountersMessage {
            active: counters.active.load(Ordering::Relaxed),
            queued: self.waiting.load(Ordering::Relaxed),
            requests: counters.requests.load(Ordering::Relaxed),
            cancelled: counters.cancelled.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            prompt_tokens: counters.prompt_tokens.load(Ordering::Relaxed),
            output_tokens: counters.output_tokens.load(Ordering::Relaxed),
            wait_us: counters.wait_us.load(Ordering::Relaxed),
            busy_us: counters.busy_us.load(Ordering::Relaxed),
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn left(&self) {
        self.idle.notify_waiters();
    }
}

/// What a model does and did since it was loaded.
#[derive(Default)]
pub(super) struct Counters {
    active: AtomicU32,
    requests: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    prompt_tokens: AtomicU64,
    output_tokens: AtomicU64,
    wait_us: AtomicU64,
    busy_us: AtomicU64,
}

impl Counters {
    pub(super) fn enter(&self) {
        self.active.fetch_add(1, Ordering::SeqCst);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request leaves that was computed for `busy`.
    pub(super) fn leave(&self, busy: Duration) {
        let busy = u64::try_from(busy.as_micros()).unwrap_or(u64::MAX);
        self.busy_us.fetch_add(busy, Ordering::Relaxed);
        self.active.fetch_sub(1, Ordering::SeqCst);
    }

    fn waited(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.wait_us.fetch_add(time, Ordering::Relaxed);
    }

    pub(super) fn cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn tokens(&self, prompt: u32, output: u32) {
        self.prompt_tokens
            .fetch_add(u64::from(prompt), Ordering::Relaxed);
        self.output_tokens
            .fetch_add(u64::from(output), Ordering::Relaxed);
    }
}

/// A place in the queue, left when dropped.
struct Waiting<'a>(&'a Hosted);

impl<'a> Waiting<'a> {
    fn join(hosted: &'a Hosted) -> Result<Self, RequestError> {
        let before = hosted.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(hosted);
        if before < hosted.queue {
            return Ok(place);
        }
        hosted.counters.refused.fetch_add(1, Ordering::Relaxed);
        Err(RequestError::Overloaded {
            message: "The model's queue is full: try again later.".into(),
            retry_after: RETRY_AFTER,
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        self.0.left();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use flotilla_core::generate::{EmbedRequest, Embeddings, Event, GenerateRequest, Usage};
    use futures::{FutureExt, StreamExt, stream};

    use crate::engine::Events;

    struct Silent;
    #[async_trait]
    impl LoadedModel for Silent {
        async fn generate(&self, _: GenerateRequest) -> Result<Events, RequestError> {
            Ok(stream::pending().boxed())
        }
        async fn embed(&self, _: EmbedRequest) -> Result<Embeddings, RequestError> {
            Ok(Embeddings::default())
        }
    }

    fn hosted(concurrency: u32, queue: u32) -> Arc<Hosted> {
        let spec = ModelSpec {
            concurrency,
            queue,
            ..ModelSpec::default()
        };
        Arc::new(Hosted::new(Arc::new(Silent), &spec))
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_caller_that_leaves_makes_room() {
        let hosted = hosted(1, 1);
        let computing = hosted.clone().enter().await.ok().unwrap();
        let mut waiting = Box::pin(hosted.clone().enter());
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(hosted.counts().queued, 1);
        let refused = hosted.clone().enter().await.err().unwrap();
        assert!(matches!(refused, RequestError::Overloaded { .. }));
        assert_eq!((hosted.counts().queued, hosted.counts().refused), (1, 1));
        drop(waiting);
        assert_eq!(hosted.counts().queued, 0);
        drop(computing);
        assert!(hosted.clone().enter().await.is_ok());
    }

    #[tokio::test]
    async fn each_end_is_counted_as_what_it_was() {
        let hosted = hosted(4, 0);
        let ticket = async || hosted.clone().enter().await.ok().unwrap();
        drop(ticket().await);
        ticket().await.failed();
        let usage = Event::Usage(Usage {
            prompt_tokens: 5,
            completion_tokens: 7,
        });
        let events = stream::iter([Ok(Event::Delta(Default::default())), Ok(usage)]);
        ticket().await.follow(events.boxed()).count().await;
        let counts = hosted.counts();
        assert_eq!((counts.requests, counts.active), (3, 0));
        assert_eq!((counts.cancelled, counts.failed), (1, 1));
        assert_eq!((counts.prompt_tokens, counts.output_tokens), (5, 7));
    }

    #[tokio::test]
    async fn draining_waits_for_the_last_and_sends_the_waiting_away() {
        let hosted = hosted(1, 1);
        let computing = hosted.clone().enter().await.ok().unwrap();
        let waiting = tokio::spawn(hosted.clone().enter());
        while hosted.counts().queued == 0 {
            tokio::task::yield_now().await;
        }
        hosted.close();
        let sent_away = waiting.await.unwrap().err().unwrap();
        assert!(matches!(sent_away, RequestError::Unavailable(_)));
        assert!(hosted.drained().now_or_never().is_none());
        drop(computing);
        hosted.drained().await;
    }
}
