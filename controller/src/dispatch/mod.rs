//! The way of a request: find out which task and so which models it is for → pick a replica, or
//! wait for one → forward → relay the answer.
//!
//! It reads one view, counts load when it dispatches, and tries elsewhere only until the
//! first events are there. Nothing here waits for the store or looks at all nodes. Every
//! decision leaves a record.

mod affinity;
mod appraise;
mod ask;
mod attempt;
mod cascade;
mod charge;
mod content;
pub(crate) mod dry_run;
mod look;
pub(crate) mod plan;
mod relay;
mod tries;
pub(crate) mod waiting;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::TaskName;
use flotilla_core::generate::{
    EmbedRequest, Embeddings, GenerateInput, GenerateRequest, RequestError, Route, RouteTarget,
    Usage,
};
use flotilla_core::routing::RoutingDecision;
use flotilla_gateway::{Backend, BackendAnswer, BackendError, EventStream, ModelCard, Readiness};
use flotilla_telemetry::names::{PROVIDER, attr, span};
use flotilla_telemetry::trace::RequestSpan;

use crate::arrival::{RequestContext, RequestObserver};
use crate::decisions::DecisionLog;
use crate::fleet::{FleetHandle, ModelView, NodePhase, ReplicaView};
use crate::trainer::{LatestClassifier, TrainedClassifier};
use affinity::AffinityCache;
use plan::{DispatchPlan, RequestProfile};
use relay::AnswerStream;
use tries::RetryState;
pub(crate) use waiting::PendingQueue;

/// What a refused client is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How requests are dispatched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DispatchConfig {
    /// A request whose first events take longer is given up.
    pub(crate) first_token_timeout: Duration,
    /// Whether decisions on record hold prompts.
    pub(crate) record_prompts: bool,
}

/// The controller as the gateway's backend. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    fleet: FleetHandle,
    lobby: PendingQueue,
    newest: LatestClassifier,
    decisions: DecisionLog,
    affinity: AffinityCache,
    observer: RequestObserver,
    first_token_timeout: Duration,
    record_prompts: bool,
}

impl Dispatcher {
    /// Dispatch over `fleet`, which tells tasks apart by the `newest` classifier and puts its
    /// `decisions` on record. A request that no replica can take yet waits in `lobby`.
    #[must_use]
    pub(crate) fn new(
        fleet: FleetHandle,
        lobby: PendingQueue,
        newest: LatestClassifier,
        decisions: DecisionLog,
        observer: RequestObserver,
        settings: DispatchConfig,
    ) -> Self {
        Self {
            fleet,
            lobby,
            newest,
            decisions,
            affinity: AffinityCache::new(),
            observer,
            first_token_timeout: settings.first_token_timeout,
            record_prompts: settings.record_prompts,
        }
    }

    /// The decisions on record.
    pub(crate) fn decisions(&self) -> &DecisionLog {
        &self.decisions
    }

    /// Who may answer, with `decision` filled in as far as it comes.
    async fn plan(
        &self,
        route: &Route,
        asked: RequestProfile<'_>,
        decision: &mut RoutingDecision,
    ) -> Result<DispatchPlan, RequestError> {
        let classify = match route.target {
            RouteTarget::Auto => RequestSpan::enter(span::CLASSIFY),
            RouteTarget::Model(_) | RouteTarget::Task(_) => RequestSpan::default(),
        };
        // Whoever names a model or a task does not wait for a classifier to be trained.
        let trained = match route.target {
            RouteTarget::Auto => Some(self.trained().await),
            RouteTarget::Model(_) | RouteTarget::Task(_) => None,
        };
        let classifier = trained.as_ref().and_then(|t| t.classifier.as_ref());
        let plan = plan::plan(&self.fleet.peek(), classifier, route, asked, decision);
        if let Some(classified) = &decision.classified {
            classify.set(attr::TASK, classified.best_task.to_string());
            classify.set(attr::CONFIDENCE, f64::from(classified.confidence));
            classify.set(attr::ABSTAINED, classified.abstained);
        }
        let plan = plan?;
        // What is held to privacy zones stays out of the record.
        if self.record_prompts && plan.zones.is_none() {
            let newest = plan::asked(asked.input)
                .first()
                .map(|text| (*text).to_owned());
            decision.prompt = newest;
        }
        Ok(plan)
    }

    /// A request arrives.
    fn arrives(&self, operation: &'static str, route: &Route) -> Arc<RequestContext> {
        let grid = self.fleet.peek().routing.grid.clone();
        self.observer.arrives(operation, route.fairness_key, grid)
    }

    /// Whether one of these models of a plan has a replica that may be asked now.
    fn can_answer(&self, plan: &DispatchPlan, mut models: RangeInclusive<usize>) -> bool {
        let view = self.fleet.peek();
        models.any(|at| {
            let model = view.by_name.get(&plan.models[at]);
            model.is_some_and(|model| !model.eligible(plan.zones.as_ref()).is_empty())
        })
    }

    /// The newest classifier. Waits for the first one, and only for that.
    async fn trained(&self) -> Arc<TrainedClassifier> {
        if let Some(trained) = &*self.newest.borrow() {
            return trained.clone();
        }
        let mut newest = self.newest.clone();
        let first = newest.wait_for(Option::is_some).await;
        first
            .ok()
            .and_then(|first| first.clone())
            .unwrap_or_default()
    }

    /// Puts on record that there is no answer.
    fn refuse(
        &self,
        decision: RoutingDecision,
        arrival: Arc<RequestContext>,
        error: RequestError,
    ) -> BackendError {
        let mut recorder = self.decisions.keep(decision, arrival);
        recorder.failed(&error);
        BackendError {
            error,
            decision: Some(recorder.id().to_owned()),
        }
    }
}

impl Dispatcher {
    /// The answer of a replica, on its way to the client.
    fn relay(
        &self,
        tries: RetryState<'_>,
        replica: ReplicaView,
        relay: AnswerStream,
    ) -> BackendAnswer<EventStream> {
        let deadline = tries.plan.deadline.zip(tries.end());
        let tells = tries.plan.zones.is_none() && tries.arrival.stage.tells_content();
        let (by, mut recorder) = tries.answered(replica);
        recorder.first_events();
        let content: EventStream = Box::pin(relay.recorded(recorder, deadline, tells));
        BackendAnswer { by, content }
    }
}

impl Backend for Dispatcher {
    async fn generate(
        &self,
        request: GenerateRequest<Route>,
    ) -> Result<BackendAnswer<EventStream>, BackendError> {
        let arrival = self.arrives(request.input.operation(), &request.model);
        let mut decision = RoutingDecision::default();
        let asked = RequestProfile {
            input: &request.input,
            max_tokens: request.sampling.max_tokens,
        };
        let plan = self.plan(&request.model, asked, &mut decision).await;
        if let Some(classified) = &decision.classified {
            let task = decision.task.as_ref().map(TaskName::as_str);
            self.observer.front.classified(task, classified.abstained);
        }
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => return Err(self.refuse(decision, arrival, error)),
        };
        let stage = &arrival.stage;
        if stage.is_recorded() {
            tell(stage, &request);
            if stage.tells_content() && plan.zones.is_none() {
                content::tell_input(stage, &request.input);
            }
        }
        let mut wire = flotilla_proto::convert::generate_request(&request, plan.queue_key);
        if plan.hedge().is_some() {
            // A whole answer begins when it ends: it would always take long.
            wire.stream = true;
        }
        if let Some((task, cascade)) = plan.cascade() {
            let tiers = (&plan, task, cascade);
            // Larger than the others' way, and rarer.
            let answer = cascade::answer(self, &request, wire, tiers, decision, arrival);
            return Box::pin(answer).await;
        }
        let mut tries = RetryState::new(self, plan, decision, arrival);
        match tries.ask(&wire).await {
            Ok((replica, relay)) => Ok(self.relay(tries, replica, relay)),
            Err(error) => Err(tries.refuse(error)),
        }
    }

    async fn embed(
        &self,
        request: EmbedRequest<Route>,
    ) -> Result<BackendAnswer<Embeddings>, BackendError> {
        let arrival = self.arrives("embeddings", &request.model);
        let mut decision = RoutingDecision::default();
        // Embeddings are asked of a model: there is nothing to classify.
        let nothing = GenerateInput::Text(String::new());
        let asked = RequestProfile {
            input: &nothing,
            max_tokens: None,
        };
        let mut tries = match self.plan(&request.model, asked, &mut decision).await {
            Ok(plan) => RetryState::new(self, plan, decision, arrival),
            Err(error) => return Err(self.refuse(decision, arrival, error)),
        };
        tries.plan.work.prompt_bytes = request.inputs.iter().map(|text| text.len() as u32).sum();
        loop {
            let (replica, guard) = match tries.next().await {
                Ok(picked) => picked,
                Err(error) => return Err(tries.refuse(error)),
            };
            let asked = EmbedRequest {
                model: tries.model().clone(),
                inputs: request.inputs.clone(),
                queue_key: tries.plan.queue_key,
                deadline: tries.time(),
            };
            let attempt = tries.attempt(&replica, guard);
            match attempt.embed(&asked, tries.patience()).await {
                Ok(mut content) => {
                    let (by, mut recorder) = tries.answered(replica);
                    recorder.usage(Usage {
                        prompt_tokens: content.prompt_tokens,
                        ..Usage::default()
                    });
                    content.energy = Some(recorder.spent());
                    recorder.answered();
                    return Ok(BackendAnswer { by, content });
                }
                Err(error) => {
                    if let Err(error) = tries.failed(&replica, error) {
                        return Err(tries.refuse(error));
                    }
                }
            }
        }
    }

    fn models(&self) -> Vec<ModelCard> {
        self.fleet.peek().models.values().map(|m| card(m)).collect()
    }

    fn model(&self, name: &str) -> Option<ModelCard> {
        self.fleet.peek().by_name.get(name).map(|m| card(m))
    }

    fn readiness(&self) -> Readiness {
        let view = self.fleet.peek();
        let mut notes = Vec::new();
        if !view.synced {
            notes.push("the store has not been read yet".to_owned());
        }
        notes.extend(view.store_problem.clone());
        if !view
            .nodes
            .values()
            .any(|node| node.phase == NodePhase::Ready)
        {
            notes.push("no node is ready".to_owned());
        }
        Readiness {
            ready: view.synced,
            notes,
        }
    }
}

/// What a trace tells of a request that has arrived.
fn tell(stage: &RequestSpan, request: &GenerateRequest<Route>) {
    let sampling = &request.sampling;
    stage.set(attr::OPERATION, request.input.operation());
    stage.set(attr::PROVIDER, PROVIDER);
    stage.set(attr::REQUEST_MODEL, request.model.target.to_string());
    stage.set("gen_ai.request.temperature", sampling.temperature);
    stage.set("gen_ai.request.top_p", sampling.top_p);
    stage.set("gen_ai.request.stream", request.stream);
    stage.set("gen_ai.request.choice.count", i64::from(request.choices));
    if let Some(most) = sampling.max_tokens {
        stage.set("gen_ai.request.max_tokens", i64::from(most));
    }
    if let Some(top) = sampling.top_k {
        stage.set("gen_ai.request.top_k", i64::from(top));
    }
    if let Some(seed) = sampling.seed {
        stage.set("gen_ai.request.seed", seed as i64);
    }
}

fn card(model: &ModelView) -> ModelCard {
    ModelCard {
        name: model.model.name().clone(),
        created: model.created,
    }
}
