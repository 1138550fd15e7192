//! The dispatcher: the backend of the gateway that answers with the replicas of a view.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::TaskName;
use flotilla_core::access::AccessScope;
use flotilla_core::generate::{
    EmbedRequest, Embeddings, GenerateInput, GenerateRequest, RequestError, Route, RouteTarget,
    Usage,
};
use flotilla_core::routing::{ClassificationRecord, RoutingDecision};
use flotilla_gateway::{Backend, BackendAnswer, BackendError, EventStream, ModelCard, Readiness};
use flotilla_telemetry::names::{PROVIDER, attr, span};
use flotilla_telemetry::server_metrics::DropReason;
use flotilla_telemetry::trace::RequestSpan;
use tokio_util::sync::CancellationToken;

use crate::affinity_cache::AffinityCache;
use crate::cascade;
use crate::dispatch_context::{DispatchConfig, DispatchContext};
use crate::encoder::{Encoder, EncoderTrainer, LatestEncoder, UnsureRequest};
use crate::kept_prompt::{KeptPrompt, PromptTooLarge};
use crate::plan::{self, DispatchPlan, RequestProfile};
use crate::plan_execution::PlanExecution;
use crate::refusal;
use crate::request_context::RequestContext;
use crate::retry_throttles::RetryThrottles;
use crate::tier_answer::TierRequest;
use crate::traced_content;
use crate::{
    DecisionLog, LatestClassifier, ModelEndpoints, PendingQueue, RequestObserver, RoutingView,
    TaskView, TrainedClassifier, ViewHandle,
};

/// The parts that a [`Dispatcher`] is made of.
pub struct DispatcherParts {
    /// Reads the current view.
    pub view: ViewHandle,
    /// Holds the requests that wait for the first replica of a model.
    pub pending: PendingQueue,
    /// The latest classifier of tasks.
    pub classifier: LatestClassifier,
    /// Records the decisions.
    pub decisions: DecisionLog,
    /// Counts requests, and notifies a listener of those that end.
    pub observer: RequestObserver,
}

/// Dispatches requests to the replicas of a view. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    pub(crate) context: DispatchContext,
    classifier: LatestClassifier,
    encoder: Encoder,
}

impl Dispatcher {
    /// Creates a dispatcher that works with `parts`.
    #[must_use]
    pub fn new(parts: DispatcherParts, config: DispatchConfig) -> Self {
        Self {
            context: DispatchContext {
                view: parts.view,
                pending: parts.pending,
                affinity: AffinityCache::new(),
                retries: RetryThrottles::default(),
                decisions: parts.decisions,
                observer: parts.observer,
                config,
            },
            classifier: parts.classifier,
            encoder: Encoder::new(),
        }
    }

    /// Embeds the examples of the tasks by the router's encoder and trains its classifier whenever they change, until
    /// `stop`.
    pub async fn train_encoder(&self, stop: CancellationToken) {
        let trainer = EncoderTrainer {
            encoder: self.encoder.clone(),
            context: self.context.clone(),
            classifier: self.classifier.clone(),
        };
        trainer.run(stop).await;
    }

    /// Returns a receiver of the state of the router's encoder.
    #[must_use]
    pub fn latest_encoder(&self) -> LatestEncoder {
        self.encoder.latest()
    }

    /// The recorded decisions.
    #[must_use]
    pub fn decisions(&self) -> &DecisionLog {
        &self.context.decisions
    }

    /// Plans a request. Fills in `decision` as far as planning gets. The energy of an encoder counts as the request's.
    ///
    /// # Errors
    /// Why no model may answer.
    pub(crate) async fn plan(
        &self,
        route: &Route,
        request: RequestProfile<'_>,
        context: &Arc<RequestContext>,
        decision: &mut RoutingDecision,
    ) -> Result<DispatchPlan, RequestError> {
        let view = self.context.view.load();
        if !view.readiness.ready {
            // Whether the model or the task exists is not known yet.
            return Err(refusal::not_ready());
        }
        // A request that names a model or a task is not classified, and does not wait for a classifier to be trained.
        if route.target == RouteTarget::Auto {
            decision.classification = self.classify(route, request.input, context).await;
        }
        let plan = plan::plan(&self.context.view.peek().routing, route, request, decision)?;
        // The record has no prompts of requests that are held to privacy zones.
        if self.context.config.record_prompts && plan.zones.is_none() {
            let newest = plan::classified_texts(request.input)
                .first()
                .map(|text| (*text).to_owned());
            decision.prompt = newest;
        }
        Ok(plan)
    }

    /// Classifies a request, by the encoder as well where the classifier is unsure. Returns `None` if there is no task that its
    /// sender may use.
    async fn classify(
        &self,
        route: &Route,
        input: &GenerateInput,
        context: &Arc<RequestContext>,
    ) -> Option<ClassificationRecord> {
        let span = RequestSpan::child_of_current(span::CLASSIFY);
        let trained = self.latest_classifier().await;
        let classifier = trained.classifier.as_ref()?;
        let texts = plan::classified_texts(input);
        let newest = texts.first().copied().unwrap_or_default();
        let routing = self.context.view.load().routing.clone();
        let access = route.access.as_ref();
        let classification = plan::classify_in_scope(&routing, classifier, access, input)?;
        let mut encoder = None;
        if classification.is_unsure && !newest.trim().is_empty() {
            let unsure = UnsureRequest {
                route,
                text: newest,
                trained: &trained,
                classification: &classification,
            };
            let classified = self
                .encoder
                .classify(&self.context, &routing, unsure, context);
            encoder = classified.await;
        }
        let mut record = ClassificationRecord::new(classification, classifier.threshold());
        record.encoder = encoder;
        let found = record.classified_task();
        span.set_attribute(attr::TASK, found.task.to_string());
        span.set_attribute(attr::CLASSIFY_CONFIDENCE, f64::from(found.confidence));
        span.set_attribute(attr::CLASSIFY_ABSTAINED, found.abstained);
        if let Some(encoder) = &record.encoder {
            span.set_attribute(attr::ENCODER_OUTCOME, encoder.outcome.as_str());
        }
        Some(record)
    }

    /// Returns the latest classifier. Waits only for the first one.
    async fn latest_classifier(&self) -> Arc<TrainedClassifier> {
        if let Some(trained) = &*self.classifier.borrow() {
            return trained.clone();
        }
        let mut classifier = self.classifier.clone();
        let first = classifier.wait_for(Option::is_some).await;
        first
            .ok()
            .and_then(|first| first.clone())
            .unwrap_or_default()
    }
}

impl Backend for Dispatcher {
    async fn generate(
        &self,
        request: GenerateRequest<Route>,
    ) -> Result<BackendAnswer<EventStream>, BackendError> {
        let context = self
            .context
            .start_request(request.input.operation_name(), &request.model);
        let mut decision = RoutingDecision::default();
        let profile = RequestProfile {
            input: &request.input,
            max_tokens: request.sampling.max_tokens,
            choices: request.choices,
        };
        let planned = self.plan(&request.model, profile, &context, &mut decision);
        let plan = planned.await;
        if let Some(classified) = &decision.classification {
            let task = decision.task.as_ref().map(TaskName::as_str);
            self.context
                .observer
                .metrics
                .record_classification(task, classified.classified_task().abstained);
        }
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => return Err(self.context.refuse(decision, context, error)),
        };
        match KeptPrompt::of_request(&plan, &request.input) {
            Ok(Some(prompt)) => context.set_kept_prompt(prompt),
            Ok(None) => {}
            Err(PromptTooLarge) => {
                let task = decision.task.as_ref().map_or("", TaskName::as_str);
                let metrics = &self.context.observer.metrics;
                metrics.record_dropped_record(task, DropReason::TooLarge);
            }
        }
        let span = &context.span;
        if span.is_recording() {
            set_request_attributes(span, &request);
            if span.captures_content() && plan.zones.is_none() {
                traced_content::set_input_messages(span, &request.input);
            }
        }
        let mut message = flotilla_proto::convert::generate_request(&request, plan.queue_key);
        if plan.hedge_after().is_some() {
            // An unstreamed answer begins only when it ends: it would always seem to take long.
            message.stream = true;
        }
        if let Some((task, cascade)) = plan.cascade() {
            let request = TierRequest {
                request: &request,
                message,
                task,
                cascade,
            };
            // Boxed, since this future is larger and rarer than the others.
            let answer = cascade::answer(&self.context, &plan, request, decision, context);
            return Box::pin(answer).await;
        }
        let mut execution = PlanExecution::new(&self.context, plan, decision, context);
        match execution.start_answer(&message).await {
            Ok((replica, answer)) => Ok(execution.relay(replica, answer)),
            Err(error) => Err(execution.refuse(error)),
        }
    }

    async fn embed(
        &self,
        request: EmbedRequest<Route>,
    ) -> Result<BackendAnswer<Embeddings>, BackendError> {
        let context = self.context.start_request("embeddings", &request.model);
        let mut decision = RoutingDecision::default();
        // Embedding requests name a model: there is nothing to classify.
        let no_input = GenerateInput::Text(String::new());
        let profile = RequestProfile {
            input: &no_input,
            max_tokens: None,
            choices: 1,
        };
        let planned = self.plan(&request.model, profile, &context, &mut decision);
        let mut execution = match planned.await {
            Ok(plan) => PlanExecution::new(&self.context, plan, decision, context),
            Err(error) => return Err(self.context.refuse(decision, context, error)),
        };
        execution.plan.cost.prompt_bytes = request
            .inputs
            .iter()
            .map(|input| input.bytes() as u32)
            .sum();
        loop {
            let (replica, load) = match execution.next_replica().await {
                Ok(selected) => selected,
                Err(error) => return Err(execution.refuse(error)),
            };
            let addressed = EmbedRequest {
                model: execution.model().clone(),
                inputs: request.inputs.clone(),
                queue_key: execution.plan.queue_key,
                deadline: execution.remaining(),
            };
            let attempt = execution.attempt(&replica, load);
            let limits = execution.attempt_limits();
            match attempt.embed(&addressed, limits).await {
                Ok(mut content) => {
                    execution.record_start_of_answer();
                    let (served_by, mut recorder) = execution.record_answer(replica);
                    recorder.record_usage(Usage {
                        prompt_tokens: content.prompt_tokens,
                        ..Usage::default()
                    });
                    content.energy = Some(recorder.energy());
                    recorder.record_success();
                    return Ok(BackendAnswer { served_by, content });
                }
                Err(failed) => {
                    if let Err(error) = execution.record_failure(&replica, failed) {
                        return Err(execution.refuse(error));
                    }
                }
            }
        }
    }

    fn models(&self, access: &AccessScope) -> Vec<ModelCard> {
        let view = self.context.view.peek();
        let models = view.models.iter();
        let allowed = models.filter(|(name, _)| access.allows_model(name));
        let mut models: Vec<_> = allowed.map(|(_, model)| model_card(model)).collect();
        models.sort_by_cached_key(|card| card.target.to_string());
        let tasks = allowed_tasks(&view.routing, access).map(task_card);
        models
            .into_iter()
            .chain(auto_card(&view.routing, access))
            .chain(tasks)
            .collect()
    }

    fn model(&self, target: &RouteTarget, access: &AccessScope) -> Option<ModelCard> {
        let view = self.context.view.peek();
        match target {
            RouteTarget::Model(name) => {
                let model = view.models.get(name);
                let allowed = model.filter(|_| access.allows_model(name));
                allowed.map(|model| model_card(model))
            }
            RouteTarget::Task(name) => {
                let mut tasks = allowed_tasks(&view.routing, access);
                tasks.find(|task| task.task.name() == name).map(task_card)
            }
            RouteTarget::Auto => auto_card(&view.routing, access),
        }
    }

    fn answer_timeout(&self) -> Duration {
        self.context.config.answer_timeout
    }

    fn readiness(&self) -> Readiness {
        self.context.view.peek().readiness.clone()
    }
}

/// Sets the request's attributes on its span.
fn set_request_attributes(span: &RequestSpan, request: &GenerateRequest<Route>) {
    let sampling = &request.sampling;
    span.set_attribute(attr::OPERATION, request.input.operation_name());
    span.set_attribute(attr::PROVIDER, PROVIDER);
    span.set_attribute(attr::REQUEST_MODEL, request.model.target.to_string());
    span.set_attribute("gen_ai.request.stream", request.stream);
    span.set_attribute("gen_ai.request.choice.count", i64::from(request.choices));
    if let Some(temperature) = sampling.temperature {
        span.set_attribute("gen_ai.request.temperature", temperature);
    }
    if let Some(top_p) = sampling.top_p {
        span.set_attribute("gen_ai.request.top_p", top_p);
    }
    if let Some(max_tokens) = sampling.max_tokens {
        span.set_attribute("gen_ai.request.max_tokens", i64::from(max_tokens));
    }
    if let Some(top_k) = sampling.top_k {
        span.set_attribute("gen_ai.request.top_k", i64::from(top_k));
    }
    if let Some(seed) = sampling.seed {
        span.set_attribute("gen_ai.request.seed", seed);
    }
}

fn model_card(endpoints: &ModelEndpoints) -> ModelCard {
    ModelCard {
        target: RouteTarget::Model(endpoints.model.name().clone()),
        created: endpoints.created,
    }
}

fn task_card(task: &TaskView) -> ModelCard {
    ModelCard {
        target: RouteTarget::Task(task.task.name().clone()),
        created: task.created,
    }
}

/// The tasks that a sender may use, by name.
fn allowed_tasks<'a>(
    routing: &'a RoutingView,
    access: &'a AccessScope,
) -> impl Iterator<Item = &'a TaskView> {
    let tasks = routing.tasks.values().map(AsRef::as_ref);
    tasks.filter(|view: &&TaskView| {
        access.allows_task_with(view.task.name(), &view.task.spec.models)
    })
}

/// `auto` needs a task to find.
fn auto_card(routing: &RoutingView, access: &AccessScope) -> Option<ModelCard> {
    let tasks = allowed_tasks(routing, access);
    let created = tasks.map(|task| task.created).max()?;
    Some(ModelCard {
        target: RouteTarget::Auto,
        created,
    })
}
