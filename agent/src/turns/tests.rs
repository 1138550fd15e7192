//! Requests with several turns, beside others, on a model that computes one turn at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flotilla_core::ModelName;
use flotilla_core::admission::{Priority, QueueKey};
use flotilla_core::generate::{
    ChoiceDelta, ChoiceFinished, EmbedInput, EmbedRequest, Embeddings, FinishReason, GenerateEvent,
    GenerateInput, GenerateRequest, RequestError, Usage,
};
use flotilla_engine::{GenerateEvents, LoadedModel};
use flotilla_telemetry::trace::RequestSpan;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{SplitAnswer, embed_in_turns};
use crate::models::{ServedModel, SpentEnergy, serve};

/// A model that answers with the seed, and embeds a text as its length. Each turn needs a permit of the
/// test.
struct Stepwise {
    steps: Semaphore,
    /// The number of turns that have begun.
    started: AtomicUsize,
    /// The texts that were embedded, in order.
    embedded: Mutex<Vec<String>>,
    /// The seed whose answer fails.
    failing_seed: Option<i64>,
}

impl Stepwise {
    fn new(steps: usize) -> Arc<Self> {
        Arc::new(Self {
            steps: Semaphore::new(steps),
            started: AtomicUsize::new(0),
            embedded: Mutex::default(),
            failing_seed: None,
        })
    }

    async fn step(&self) {
        self.started.fetch_add(1, Ordering::SeqCst);
        if let Ok(permit) = self.steps.acquire().await {
            permit.forget();
        }
    }

    /// Lets one turn end, and waits until the model works on no more turns.
    async fn let_one_end(&self) {
        let before = self.embedded.lock().len();
        self.steps.add_permits(1);
        while self.embedded.lock().len() == before {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl LoadedModel for Stepwise {
    async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        self.step().await;
        assert_eq!(request.choices, 1);
        let seed = request.sampling.seed;
        if seed.is_some() && seed == self.failing_seed {
            return Err(RequestError::Engine("broken".into()));
        }
        let delta = GenerateEvent::Delta(ChoiceDelta {
            content: seed.unwrap_or_default().to_string(),
            ..ChoiceDelta::default()
        });
        let finished = GenerateEvent::Finished(ChoiceFinished {
            choice: 0,
            reason: FinishReason::Stop,
        });
        let usage = GenerateEvent::Usage(Usage {
            prompt_tokens: 3,
            completion_tokens: 1,
            ..Usage::default()
        });
        Ok(stream::iter([delta, finished, usage].map(Ok)).boxed())
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
        self.step().await;
        let [EmbedInput::Text(text)] = &request.inputs[..] else {
            panic!("more than one input in a turn");
        };
        self.embedded.lock().push(text.clone());
        Ok(Embeddings {
            vectors: vec![vec![text.len() as f32]],
            prompt_tokens: 1,
            energy: None,
        })
    }
}

fn key(fairness_key: u64) -> QueueKey {
    QueueKey {
        priority: Priority::Normal,
        fairness_key,
    }
}

fn embed_request(texts: impl Iterator<Item = String>) -> EmbedRequest {
    EmbedRequest {
        model: ModelName::new("m").unwrap(),
        inputs: texts.map(EmbedInput::Text).collect(),
        queue_key: key(1),
        deadline: None,
    }
}

async fn choices(
    served: &Arc<ServedModel>,
    choices: u32,
) -> Result<Vec<GenerateEvent>, RequestError> {
    let mut request = GenerateRequest::new(
        ModelName::new("m").unwrap(),
        GenerateInput::Text("a b c".into()),
    );
    request.choices = choices;
    request.sampling.seed = Some(40);
    let admitted = served
        .clone()
        .admit_first_turn(key(1), None, SpentEnergy::default())
        .await?;
    SplitAnswer::new(
        served.clone(),
        admitted,
        request,
        None,
        RequestSpan::default(),
    )
    .try_collect()
    .await
}

#[tokio::test]
async fn every_choice_is_a_turn_with_its_own_seed_and_counts_as_one_request() {
    let served = serve(Stepwise::new(5), 1, 0);
    let events = choices(&served, 5).await.unwrap();
    let texts: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            GenerateEvent::Delta(delta) => Some((delta.choice, delta.content.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(
        texts,
        [(0, "40"), (1, "41"), (2, "42"), (3, "43"), (4, "44")]
    );
    let Some(GenerateEvent::Usage(usage)) = events.last() else {
        panic!("no usage at the end");
    };
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (3, 5));
    let counters = served.counters();
    assert_eq!(
        (counters.requests, counters.active, counters.queued),
        (1, 0, 0)
    );
    assert_eq!(
        (counters.cancelled, counters.failed, counters.refused),
        (0, 0, 0)
    );
    assert_eq!((counters.prompt_tokens, counters.output_tokens), (3, 5));
}

#[tokio::test]
async fn choices_use_all_free_slots_at_once() {
    let model = Stepwise::new(0);
    let served = serve(model.clone(), 4, 0);
    let answer = tokio::spawn({
        let served = served.clone();
        async move { choices(&served, 6).await }
    });
    while served.counters().active < 4 {
        tokio::task::yield_now().await;
    }
    assert_eq!(served.counters().queued, 0);
    model.steps.add_permits(6);
    assert!(answer.await.unwrap().is_ok());
}

#[tokio::test]
async fn error_of_one_choice_ends_all() {
    let mut model = Stepwise::new(10);
    Arc::get_mut(&mut model).unwrap().failing_seed = Some(42);
    let served = serve(model, 1, 0);
    let error = choices(&served, 5).await.unwrap_err();
    assert_eq!(error, RequestError::Engine("broken".into()));
    let counters = served.counters();
    assert_eq!((counters.requests, counters.failed), (1, 1));
    assert_eq!((counters.active, counters.queued), (0, 0));
}

#[tokio::test]
async fn dropping_the_answer_ends_all_turns() {
    let served = serve(Stepwise::new(2), 2, 0);
    let answer = tokio::spawn({
        let served = served.clone();
        async move { choices(&served, 5).await }
    });
    while served.counters().output_tokens < 2 || served.counters().active < 2 {
        tokio::task::yield_now().await;
    }
    answer.abort();
    assert!(answer.await.is_err());
    let counters = served.counters();
    assert_eq!((counters.requests, counters.cancelled), (1, 1));
    assert_eq!((counters.active, counters.queued), (0, 0));
}

#[tokio::test]
async fn other_client_waits_for_one_input_of_two_thousand() {
    let model = Stepwise::new(0);
    let served = serve(model.clone(), 1, 1);
    let heavy = tokio::spawn({
        let served = served.clone();
        async move {
            let admitted = served
                .clone()
                .admit_first_turn(key(1), None, SpentEnergy::default())
                .await?;
            let request = embed_request((0..2_000).map(|n| n.to_string()));
            embed_in_turns(admitted, 1, request, None).await
        }
    });
    model.let_one_end().await;
    while model.started.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    let light = tokio::spawn({
        let served = served.clone();
        async move {
            let admitted = served.clone().admit(key(2), None).await?;
            admitted
                .embed(embed_request(["light".to_owned()].into_iter()))
                .await
        }
    });
    // The request of two thousand inputs is being computed; only the other one waits.
    while served.counters().queued < 1 {
        tokio::task::yield_now().await;
    }
    model.let_one_end().await;
    model.let_one_end().await;
    assert_eq!(model.embedded.lock()[..], ["0", "1", "light"]);
    assert_eq!(light.await.unwrap().unwrap().vectors, [[5.0]]);
    model.steps.add_permits(2_000);
    let embeddings = heavy.await.unwrap().unwrap();
    let expected: Vec<_> = (0..2_000)
        .map(|n: u32| vec![n.to_string().len() as f32])
        .collect();
    assert_eq!(embeddings.vectors, expected);
    assert_eq!(embeddings.prompt_tokens, 2_000);
}

#[tokio::test]
async fn waiting_turn_ends_the_request_at_its_deadline() {
    let served = serve(Stepwise::new(0), 1, 0);
    let admitted = served
        .clone()
        .admit_first_turn(key(1), None, SpentEnergy::default())
        .await;
    let request = embed_request(["a".to_owned(), "b".to_owned()].into_iter());
    let deadline = Instant::now() + Duration::from_millis(5);
    let late = embed_in_turns(admitted.unwrap(), 1, request, Some(deadline)).await;
    assert!(matches!(late, Err(RequestError::DeadlineUnmet(_))));
    assert_eq!(served.counters().active, 0);
}
