//! A dispatcher over replicas that are plain data, for tests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flotilla_core::energy::{EnergySource, EnergyUsage, PowerRange};
use flotilla_core::estimate::{ComputeTime, ServedRequest};
use flotilla_core::generate::{
    ChoiceDelta, ChoiceFinished, FinishReason, GenerateEvent, RequestError, TokenLogprob, Usage,
};
use flotilla_core::quality::{Proportion, Scoring};
use flotilla_core::rollout::ModelRevisions;
use flotilla_core::spec::{AbstainRule, Model, ModelSpec, RouterSpec, Task, TaskSpec};
use flotilla_core::{Joules, ModelName, ModelRevision, NodeName, TaskName, Watts, ZoneName};
use flotilla_gateway::Readiness;
use flotilla_proto::{status, v1};
use flotilla_telemetry::Telemetry;
use flotilla_telemetry::server_metrics::ServerMetrics;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::dataset_sink::NoDatasets;
use crate::transport::MessageStream;
use crate::{
    DatasetSink, DecisionLog, DispatchConfig, DispatchView, Dispatcher, DispatcherParts,
    ModelEndpoints, PendingQueue, QualityRecord, ReplicaLimits, ReplicaStats, ReplicaTransport,
    ReplicaView, RequestObserver, ResponseStream, RoutingView, TaskView, TransportError,
    ViewPublisher, train_classifiers,
};

/// What a replica does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// It answers at once, with tokens of this probability.
    Answer(f32),
    /// It begins to answer after this time.
    AnswerAfter(Duration),
    /// It answers with an error.
    Fail(RequestError),
    /// It fails after it has spent so many joules.
    FailAfter(Joules),
    /// It is not connected.
    NotConnected,
    /// Its connection is lost.
    LoseConnection,
}

/// A replica that counts its requests.
#[derive(Debug)]
struct FakeTransport {
    reply: Reply,
    requests: Arc<AtomicU32>,
    /// The texts that all replicas have embedded.
    embedded: EmbeddedTexts,
}

/// The texts that replicas have embedded, in order.
pub(crate) type EmbeddedTexts = Arc<Mutex<Vec<String>>>;

impl FakeTransport {
    async fn reply(&self) -> Result<f32, TransportError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        match &self.reply {
            Reply::Answer(probability) => Ok(*probability),
            Reply::AnswerAfter(time) => {
                tokio::time::sleep(*time).await;
                Ok(1.0)
            }
            Reply::Fail(error) => Err(TransportError::Status(status::from_error(error.clone()))),
            Reply::FailAfter(joules) => {
                let mut status = status::from_error(RequestError::Engine("broken".into()));
                let energy = EnergyUsage::new(*joules, EnergySource::Nvml.into());
                status::set_energy(&mut status, energy);
                Err(TransportError::Status(status))
            }
            Reply::NotConnected => Err(TransportError::NotConnected),
            Reply::LoseConnection => {
                let cause = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
                Err(TransportError::Status(tonic::Status::from_error(
                    cause.into(),
                )))
            }
        }
    }
}

#[async_trait]
impl ReplicaTransport for FakeTransport {
    async fn generate(
        &self,
        _: Request<v1::GenerateRequest>,
    ) -> Result<ResponseStream, TransportError> {
        let probability = self.reply().await?;
        let token = TokenLogprob {
            token: "x".into(),
            logprob: probability.ln(),
            ..TokenLogprob::default()
        };
        let delta = ChoiceDelta {
            content: "x".into(),
            logprobs: vec![token],
            ..ChoiceDelta::default()
        };
        let finished = ChoiceFinished {
            choice: 0,
            reason: FinishReason::Stop,
        };
        let events = [
            GenerateEvent::Delta(delta),
            GenerateEvent::Finished(finished),
            GenerateEvent::Usage(Usage::default()),
        ];
        let response = v1::GenerateResponse {
            events: events.map(Into::into).into(),
        };
        Ok(stream::iter([Ok(response)]).boxed())
    }

    async fn embed(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<MessageStream<v1::EmbedResponse>, TransportError> {
        self.reply().await?;
        let texts: Vec<String> = request
            .into_inner()
            .inputs
            .into_iter()
            .map(|input| match input.input {
                Some(v1::embed_input::Input::Text(text)) => text,
                _ => String::new(),
            })
            .collect();
        if texts.iter().any(|text| text.contains("slowly")) {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        let response = v1::EmbedResponse {
            vectors: texts.iter().map(|text| vector(text)).collect(),
            ..v1::EmbedResponse::default()
        };
        self.embedded.lock().extend(texts);
        Ok(stream::iter([Ok(response)]).boxed())
    }
}

/// The vector of a text: a direction for each of two topics.
fn vector(text: &str) -> v1::Vector {
    let has = |words: &[&str]| f32::from(u8::from(words.iter().any(|word| text.contains(word))));
    v1::Vector {
        values: vec![
            has(&["bank", "account", "card", "bill", "zork"]),
            has(&["travel", "flight", "hotel", "visa", "plim"]),
            0.1,
        ],
    }
}

/// A replica of a [`TestFleet`].
#[derive(Debug, Clone)]
pub(crate) struct TestReplica {
    pub(crate) model: &'static str,
    pub(crate) node: &'static str,
    pub(crate) zones: &'static [&'static str],
    /// The revision that it serves. The quality of revision 1 was measured as 1.
    pub(crate) revision: u64,
    /// Seconds that its answers have taken so far. `None`: it has not answered yet.
    pub(crate) seconds: Option<f32>,
    pub(crate) reply: Reply,
}

/// A dispatcher over replicas that count their requests.
pub(crate) struct TestFleet {
    pub(crate) dispatcher: Dispatcher,
    pub(crate) pending: PendingQueue,
    publisher: ViewPublisher,
    requests: HashMap<&'static str, Arc<AtomicU32>>,
    pub(crate) embedded: EmbeddedTexts,
    /// Whether the router names the model `encoder` as its encoder.
    has_encoder: bool,
    stop: CancellationToken,
}

/// The power of each node: an answer takes 20 W.
const POWER: PowerRange = PowerRange {
    idle: Watts(10.0),
    max: Watts(30.0),
    configured: true,
};

fn model_name(name: &str) -> ModelName {
    ModelName::new(name).unwrap()
}

impl TestReplica {
    fn view(&self, requests: Arc<AtomicU32>, embedded: EmbeddedTexts) -> ReplicaView {
        let stats = Arc::new(ReplicaStats::new(ReplicaLimits {
            concurrency: 1,
            capacity: 16,
            power: POWER,
            prefix_cache: false,
        }));
        for seconds in std::iter::repeat_n(self.seconds, 4).flatten() {
            let served = ServedRequest {
                prompt_bytes: 2,
                prompt_tokens: 1,
                completion_tokens: 1,
                choices: 1,
                // Each answer counts as one after the other.
                seconds: 0.0,
                compute_time: Some(ComputeTime {
                    prefill: seconds,
                    decode: 0.0,
                }),
                load: stats.load(),
            };
            stats.learn(served, None);
        }
        ReplicaView {
            node: NodeName::new(self.node).unwrap(),
            zones: Arc::new(
                self.zones
                    .iter()
                    .map(|zone| ZoneName::new(zone).unwrap())
                    .collect(),
            ),
            revision: ModelRevision(self.revision),
            transport: Arc::new(FakeTransport {
                reply: self.reply.clone(),
                requests,
                embedded,
            }),
            stats,
        }
    }
}

/// A replica on a node in these zones.
pub(crate) fn replica_in_zones(node: &str, zones: BTreeSet<ZoneName>) -> ReplicaView {
    let replica = TestReplica {
        model: "m",
        node: "n",
        zones: &[],
        revision: 1,
        seconds: None,
        reply: Reply::Answer(1.0),
    };
    ReplicaView {
        node: NodeName::new(node).unwrap(),
        zones: Arc::new(zones),
        ..replica.view(Arc::default(), EmbeddedTexts::default())
    }
}

impl TestFleet {
    /// Starts a dispatcher over these replicas and tasks. Requests that fit no task go to the task
    /// `default`, if there is one.
    pub(crate) fn start(replicas: &[TestReplica], tasks: Vec<(&str, TaskSpec)>) -> Self {
        Self::start_with_datasets(replicas, tasks, Arc::new(NoDatasets))
    }

    /// Starts a dispatcher as [`TestFleet::start`] does, whose router names the model `encoder` as its encoder.
    pub(crate) fn start_with_encoder(
        replicas: &[TestReplica],
        tasks: Vec<(&str, TaskSpec)>,
    ) -> Self {
        let mut fleet = Self::start(&[], Vec::new());
        fleet.has_encoder = true;
        fleet.publish(2, replicas, tasks);
        let (dispatcher, stop) = (fleet.dispatcher.clone(), fleet.stop.clone());
        tokio::spawn(async move { dispatcher.train_encoder(stop).await });
        fleet
    }

    /// Starts a dispatcher as [`TestFleet::start`] does, which passes what tasks learn from on to `datasets`.
    pub(crate) fn start_with_datasets(
        replicas: &[TestReplica],
        tasks: Vec<(&str, TaskSpec)>,
        datasets: Arc<dyn DatasetSink>,
    ) -> Self {
        let metrics = Arc::new(ServerMetrics::new(&Telemetry::disabled().meter()));
        let observer = RequestObserver::metrics_only(metrics).with_datasets(datasets);
        let (publisher, view) = ViewPublisher::new();
        let (pending, _wake_ups) = PendingQueue::new();
        let (trained, classifier) = watch::channel(None);
        let stop = CancellationToken::new();
        tokio::spawn(train_classifiers(view.clone(), trained, stop.clone()));
        let parts = DispatcherParts {
            view,
            pending: pending.clone(),
            classifier,
            decisions: DecisionLog::new("test", 100, observer.clone()),
            observer,
        };
        let config = DispatchConfig {
            first_token_timeout: Duration::from_secs(20),
            answer_timeout: Duration::from_secs(60),
            record_prompts: false,
        };
        let mut fleet = Self {
            dispatcher: Dispatcher::new(parts, config),
            pending,
            publisher,
            requests: HashMap::new(),
            embedded: EmbeddedTexts::default(),
            has_encoder: false,
            stop,
        };
        fleet.publish(1, replicas, tasks);
        fleet
    }

    /// Publishes a view of these replicas and tasks. Every model expects a replica where it has none.
    pub(crate) fn publish(
        &mut self,
        generation: u64,
        replicas: &[TestReplica],
        tasks: Vec<(&str, TaskSpec)>,
    ) {
        let mut by_model: BTreeMap<&str, Vec<ReplicaView>> = BTreeMap::new();
        for replica in replicas {
            let requests = self.requests.entry(replica.node).or_default().clone();
            let of_model = by_model.entry(replica.model).or_default();
            of_model.push(replica.view(requests, self.embedded.clone()));
        }
        let models = by_model.into_iter().map(|(name, replicas)| {
            let name = model_name(name);
            let model = Model::new(name.clone(), ModelSpec::default());
            let revisions = ModelRevisions {
                desired: ModelRevision(1),
                stable: Some(ModelRevision(2)),
                failed: None,
            };
            let endpoints = ModelEndpoints::new(model, revisions, replicas);
            (name, Arc::new(endpoints))
        });
        let mut routing = routing(replicas, tasks);
        if let Some(router) = routing.router.as_mut().filter(|_| self.has_encoder) {
            router.encoder = Some(model_name("encoder"));
            // Of few examples a threshold that is estimated holds back many.
            router.abstain = AbstainRule::MinConfidence(0.5);
        }
        let view = DispatchView {
            generation,
            models: models.collect(),
            routing: Arc::new(routing),
            readiness: Readiness {
                ready: true,
                notes: Vec::new(),
            },
        };
        self.publisher.publish(view);
    }

    /// The requests that the replicas of a node got.
    pub(crate) fn requests(&self, node: &str) -> u32 {
        self.requests[node].load(Ordering::SeqCst)
    }
}

impl Drop for TestFleet {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn routing(replicas: &[TestReplica], tasks: Vec<(&str, TaskSpec)>) -> RoutingView {
    let mut routing = RoutingView::default();
    let quality = QualityRecord {
        revision: ModelRevision(1),
        quantization: None,
        scoring: Scoring::Exact,
        measured: Proportion {
            correct: 10,
            total: 10,
        },
        median_ms: 1.0,
        joules: None,
        at: 0,
    };
    let measured: BTreeMap<ModelName, QualityRecord> = replicas
        .iter()
        .map(|replica| (model_name(replica.model), quality.clone()))
        .collect();
    for (name, spec) in tasks {
        let name = TaskName::new(name).unwrap();
        let task = TaskView::new(Task::new(name.clone(), spec), 0).unwrap();
        routing.tasks.insert(name.clone(), Arc::new(task));
        routing.quality.insert(name, measured.clone());
    }
    let default_task = TaskName::new("default").unwrap();
    routing.router = Some(RouterSpec {
        default_task: Some(default_task),
        ..RouterSpec::default()
    });
    routing
}
