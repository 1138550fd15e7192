//! Runs one generation per prompt and joins their events into one stream.
//!
//! The choices of each prompt are numbered after those of the prompts before it.

use std::time::{Duration, Instant};

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{
    AnswerLimit, GenerateEvent, GenerateRequest, RequestError, Route, Usage,
};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered, SelectAll, StreamExt};

use super::prompt_schedule::{PromptSchedule, Refusal};
use crate::backend::{BackendAnswer, ServedBy};
use crate::{Backend, BackendError, EventStream};

/// Starts the generations. With several of them, the replica of the one that begins first is returned.
pub(super) async fn generate(
    backend: &impl Backend,
    mut generations: Vec<GenerateRequest<Route>>,
) -> Result<(ServedBy, EventStream), BackendError> {
    if generations.len() == 1 {
        let BackendAnswer { served_by, content } = backend.generate(generations.remove(0)).await?;
        return Ok((served_by, content));
    }
    let mut prompts = PromptRun::new(backend.clone(), generations);
    loop {
        match prompts.next().await {
            Some(Ok(PromptOutput::Started(served_by))) => {
                return Ok((served_by, prompts.into_events()));
            }
            Some(Ok(PromptOutput::Events(_))) => {}
            Some(Err(error)) => return Err(error),
            None => {
                let error = RequestError::invalid("prompt", "'prompt' must not be empty.");
                return Err(error.into());
            }
        }
    }
}

/// The generations of a request with several prompts.
struct PromptRun<B> {
    backend: B,
    generations: Vec<GenerateRequest<Route>>,
    arrived: Instant,
    /// The time at which the answers to all prompts must be complete.
    limit: AnswerLimit,
    schedule: PromptSchedule,
    /// The prompts that were sent and have not begun, with their indices.
    starting: FuturesUnordered<BoxFuture<'static, (usize, StartedPrompt)>>,
    /// The answers that have begun. Each ends with `None`.
    answers: SelectAll<BoxStream<'static, (usize, Option<PromptEvents>)>>,
    /// How long nothing is sent after a refusal.
    pause: Option<Duration>,
    usage: Usage,
    has_ended: bool,
}

type StartedPrompt = Result<BackendAnswer<EventStream>, BackendError>;
type PromptEvents = Result<Vec<GenerateEvent>, RequestError>;

/// What one of the generations has produced.
enum PromptOutput {
    /// It has begun.
    Started(ServedBy),
    /// Its events, without its usage, with the numbers that its choices have in the whole answer.
    Events(Vec<GenerateEvent>),
}

impl<B: Backend> PromptRun<B> {
    fn new(backend: B, generations: Vec<GenerateRequest<Route>>) -> Self {
        let arrived = Instant::now();
        let deadline = generations.iter().filter_map(|one| one.model.deadline);
        Self {
            limit: AnswerLimit::new(arrived, backend.answer_timeout(), deadline.min()),
            schedule: PromptSchedule::new(generations.len()),
            backend,
            generations,
            arrived,
            starting: FuturesUnordered::new(),
            answers: SelectAll::new(),
            pause: None,
            usage: Usage::default(),
            has_ended: false,
        }
    }

    /// Returns what is produced next. The sum of all usages comes last, or the first error, at the limit of
    /// the request at the latest.
    async fn next(&mut self) -> Option<Result<PromptOutput, BackendError>> {
        let at = self.limit.at;
        let Ok(output) = tokio::time::timeout_at(at.into(), self.next_output()).await else {
            self.end();
            return Some(Err(self.limit.error().into()));
        };
        if let Some(Err(_)) = output {
            self.end();
        }
        output
    }

    /// Ends all generations.
    fn end(&mut self) {
        self.has_ended = true;
        self.starting.clear();
        self.answers.clear();
    }

    /// Returns what is produced next, or the error of the first prompt that fails.
    async fn next_output(&mut self) -> Option<Result<PromptOutput, BackendError>> {
        while !self.has_ended {
            if let Some(pause) = self.pause.take() {
                tokio::time::sleep(pause).await;
            }
            while let Some(prompt) = self.schedule.start_next() {
                self.start(prompt);
            }
            let output = tokio::select! {
                Some((prompt, started)) = self.starting.next() => self.add_started(prompt, started),
                Some((prompt, events)) = self.answers.next() => self.add_events(prompt, events),
                else => {
                    self.has_ended = true;
                    let usage = GenerateEvent::Usage(self.usage);
                    Ok(Some(PromptOutput::Events(vec![usage])))
                }
            };
            if let Some(output) = output.transpose() {
                return Some(output);
            }
        }
        None
    }

    fn start(&self, prompt: usize) {
        let mut request = self.generations[prompt].clone();
        // The deadline is that of the whole request, from its arrival.
        if let Some(deadline) = &mut request.model.deadline {
            *deadline = deadline.saturating_sub(self.arrived.elapsed());
        }
        let backend = self.backend.clone();
        let started = async move { (prompt, backend.generate(request).await) };
        self.starting.push(Box::pin(started));
    }

    fn add_started(
        &mut self,
        prompt: usize,
        started: StartedPrompt,
    ) -> Result<Option<PromptOutput>, BackendError> {
        let error = match started {
            Ok(BackendAnswer { served_by, content }) => {
                let events = content.map(Some).chain(stream::iter([None]));
                self.answers
                    .push(events.map(move |events| (prompt, events)).boxed());
                return Ok(Some(PromptOutput::Started(served_by)));
            }
            Err(error) => error,
        };
        let RequestError::Overloaded { retry_after, .. } = &error.error else {
            return Err(error);
        };
        let retry_after = *retry_after;
        let remains = self.limit.at.saturating_duration_since(Instant::now());
        match self.schedule.record_refusal(prompt, retry_after, remains) {
            Refusal::Wait => {}
            Refusal::Pause => self.pause = Some(retry_after),
            Refusal::GiveUp => return Err(error),
        }
        Ok(None)
    }

    fn add_events(
        &mut self,
        prompt: usize,
        events: Option<PromptEvents>,
    ) -> Result<Option<PromptOutput>, BackendError> {
        let Some(events) = events else {
            self.schedule.record_end();
            return Ok(None);
        };
        let offset = prompt as u32 * self.generations[prompt].choices;
        let mut numbered = Vec::new();
        for event in events? {
            match event {
                GenerateEvent::Usage(usage) => add_usage(&mut self.usage, &usage),
                event => numbered.push(shift_choice(event, offset)),
            }
        }
        Ok(Some(PromptOutput::Events(numbered)))
    }

    /// Returns the events of all generations as one answer.
    fn into_events(self) -> EventStream {
        stream::unfold(self, async |mut prompts| {
            loop {
                let events = match prompts.next().await? {
                    Ok(PromptOutput::Started(_)) => continue,
                    Ok(PromptOutput::Events(events)) => Ok(events),
                    Err(BackendError { error, .. }) => Err(error),
                };
                return Some((events, prompts));
            }
        })
        .boxed()
    }
}

/// Adds `offset` to the choice index of an event.
fn shift_choice(event: GenerateEvent, offset: u32) -> GenerateEvent {
    match event {
        GenerateEvent::Delta(mut delta) => {
            delta.choice += offset;
            GenerateEvent::Delta(delta)
        }
        GenerateEvent::Finished(mut finished) => {
            finished.choice += offset;
            GenerateEvent::Finished(finished)
        }
        GenerateEvent::Usage(_) | GenerateEvent::Computed(_) => event,
    }
}

fn add_usage(total: &mut Usage, usage: &Usage) {
    total.prompt_tokens = total.prompt_tokens.saturating_add(usage.prompt_tokens);
    total.completion_tokens = total
        .completion_tokens
        .saturating_add(usage.completion_tokens);
    total.energy = EnergyUsage::combine_known(total.energy, usage.energy);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{ModelCard, Readiness};
    use flotilla_core::access::AccessScope;
    use flotilla_core::generate::{
        ChoiceDelta, EmbedRequest, Embeddings, GenerateInput, RouteTarget,
    };
    use flotilla_core::{ModelName, NodeName};
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    /// Answers each choice with the prompt, and refuses what exceeds its capacity.
    #[derive(Clone)]
    struct SmallBackend {
        free: Arc<Semaphore>,
        retry_after: Duration,
        answer_timeout: Duration,
        /// The prompt that is never answered.
        silent: Option<&'static str>,
    }

    impl SmallBackend {
        fn new(capacity: usize) -> Self {
            Self {
                free: Arc::new(Semaphore::new(capacity)),
                retry_after: Duration::from_millis(1),
                answer_timeout: Duration::from_secs(60),
                silent: None,
            }
        }
    }

    impl Backend for SmallBackend {
        async fn generate(
            &self,
            request: GenerateRequest<Route>,
        ) -> Result<BackendAnswer<EventStream>, BackendError> {
            let Ok(slot) = self.free.clone().try_acquire_owned() else {
                return Err(BackendError::from(RequestError::Overloaded {
                    message: "full".into(),
                    retry_after: self.retry_after,
                }));
            };
            tokio::task::yield_now().await;
            let GenerateInput::Text(content) = request.input else {
                panic!("no text");
            };
            if self.silent == Some(content.as_str()) {
                return std::future::pending().await;
            }
            let deltas = (0..request.choices).map(|choice| {
                GenerateEvent::Delta(ChoiceDelta {
                    choice,
                    content: content.clone(),
                    ..ChoiceDelta::default()
                })
            });
            let usage = GenerateEvent::Usage(Usage {
                prompt_tokens: 1,
                completion_tokens: 2,
                ..Usage::default()
            });
            let events: Vec<_> = deltas.chain([usage]).collect();
            let events = stream::once(async move {
                tokio::task::yield_now().await;
                drop(slot);
                Ok(events)
            });
            Ok(BackendAnswer {
                served_by: ServedBy {
                    model: ModelName::new("m").unwrap(),
                    task: None,
                    node: NodeName::new("n").unwrap(),
                    attempts: 1,
                    decision_id: String::new(),
                },
                content: events.boxed(),
            })
        }

        async fn embed(
            &self,
            _: EmbedRequest<Route>,
        ) -> Result<BackendAnswer<Embeddings>, BackendError> {
            Err(RequestError::invalid("model", "no embeddings").into())
        }

        fn models(&self, _access: &AccessScope) -> Vec<ModelCard> {
            Vec::new()
        }

        fn model(&self, _: &RouteTarget, _access: &AccessScope) -> Option<ModelCard> {
            None
        }

        fn answer_timeout(&self) -> Duration {
            self.answer_timeout
        }

        fn readiness(&self) -> Readiness {
            Readiness {
                ready: true,
                notes: Vec::new(),
            }
        }
    }

    fn generations(prompts: usize, choices: u32) -> Vec<GenerateRequest<Route>> {
        let model = ModelName::new("m").unwrap();
        let route = Route::new(RouteTarget::Model(model));
        let generation = |prompt: usize| GenerateRequest {
            choices,
            ..GenerateRequest::new(route.clone(), GenerateInput::Text(prompt.to_string()))
        };
        (0..prompts).map(generation).collect()
    }

    #[tokio::test]
    async fn every_prompt_is_answered_though_few_fit_into_the_queues() {
        let backend = SmallBackend::new(2);
        let (_, events) = generate(&backend, generations(128, 2)).await.unwrap();
        let mut events: Vec<_> = events.map(Result::unwrap).concat().await;
        let Some(GenerateEvent::Usage(usage)) = events.pop() else {
            panic!("the usage is not last");
        };
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (128, 256));
        let texts: BTreeMap<_, _> = events
            .into_iter()
            .map(|event| match event {
                GenerateEvent::Delta(delta) => (delta.choice, delta.content),
                _ => panic!("{event:?}"),
            })
            .collect();
        let expected = (0..256).map(|choice| (choice, (choice / 2).to_string()));
        assert_eq!(texts, expected.collect());
    }

    #[tokio::test]
    async fn request_is_refused_if_no_prompt_fits() {
        let backend = SmallBackend::new(0);
        let refused = generate(&backend, generations(10, 1)).await;
        let error = refused.err().unwrap().error;
        assert!(matches!(error, RequestError::Overloaded { .. }), "{error}");
    }

    #[tokio::test]
    async fn refusal_with_a_long_delay_ends_the_request() {
        let day = Duration::from_secs(86_400);
        let backend = SmallBackend {
            retry_after: day,
            ..SmallBackend::new(1)
        };
        let (_, mut events) = generate(&backend, generations(2, 1)).await.unwrap();
        assert!(events.next().await.unwrap().is_ok());
        // Somebody else takes the only place.
        let _place = backend.free.clone().try_acquire_owned().unwrap();
        let Some(Err(RequestError::Overloaded { retry_after, .. })) = events.next().await else {
            panic!("not refused");
        };
        assert_eq!(retry_after, day);
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn whole_request_ends_at_its_deadline_and_at_the_answer_timeout() {
        let soon = Duration::from_millis(20);
        for (answer_timeout, deadline, kind) in [
            (soon, None, "answer_timeout"),
            (Duration::from_secs(60), Some(soon), "deadline_unmet"),
        ] {
            let backend = SmallBackend {
                answer_timeout,
                silent: Some("1"),
                ..SmallBackend::new(8)
            };
            let mut generations = generations(3, 1);
            for generation in &mut generations {
                generation.model.deadline = deadline;
            }
            let (_, events) = generate(&backend, generations).await.unwrap();
            let events: Vec<_> = events.collect().await;
            assert_eq!(events.len(), 3);
            assert_eq!(events[2].as_ref().unwrap_err().kind(), kind);
            // The others are cancelled.
            assert_eq!(backend.free.available_permits(), 8);
        }
    }
}
