//! The way of a request: find out which task and so which models it is for → pick a replica, or
//! wait for one → forward → relay the answer.
//!
//! It reads one view, counts load when it dispatches, and tries elsewhere only until the
//! first events are there. Nothing here waits for the store or looks at all nodes. Every
//! decision leaves a record.

mod attempt;
pub(crate) mod dry_run;
pub(crate) mod plan;
mod relay;
mod tries;
pub(crate) mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::generate::{
    EmbedRequest, Embeddings, GenerateRequest, Input, RequestError, Route, Target, Usage,
};
use flotilla_core::routing::Decision;
use flotilla_gateway::{Answer, Backend, Batches, ModelCard, Readiness, Refusal};

use crate::decisions::Decisions;
use crate::fleet::{Fleet, ModelView, NodePhase};
use crate::trainer::{Newest, Trained};
use plan::Plan;
use tries::Tries;
pub(crate) use waiting::Lobby;

/// What a refused client is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The controller as the gateway's backend. Cheap to clone.
#[derive(Clone)]
pub struct Dispatch {
    fleet: Fleet,
    lobby: Lobby,
    newest: Newest,
    decisions: Decisions,
    first_token_timeout: Duration,
}

impl Dispatch {
    /// Dispatch over `fleet`, which tells tasks apart by the `newest` classifier and puts its
    /// `decisions` on record. A request whose first events take longer than
    /// `first_token_timeout` is given up; one that no replica can take yet waits in `lobby`.
    #[must_use]
    pub(crate) fn new(
        fleet: Fleet,
        lobby: Lobby,
        newest: Newest,
        decisions: Decisions,
        first_token_timeout: Duration,
    ) -> Self {
        Self {
            fleet,
            lobby,
            newest,
            decisions,
            first_token_timeout,
        }
    }

    /// The decisions on record.
    pub(crate) fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Who may answer, with `decision` filled in as far as it comes.
    async fn plan(
        &self,
        route: &Route,
        input: &Input,
        decision: &mut Decision,
    ) -> Result<Plan, RequestError> {
        // Whoever names a model or a task does not wait for a classifier to be trained.
        let trained = match route.target {
            Target::Auto => Some(self.trained().await),
            Target::Model(_) | Target::Task(_) => None,
        };
        let classifier = trained.as_ref().and_then(|t| t.classifier.as_ref());
        plan::plan(&self.fleet.peek(), classifier, route, input, decision)
    }

    /// The newest classifier. Waits for the first one, and only for that.
    async fn trained(&self) -> Arc<Trained> {
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
    fn refuse(&self, decision: Decision, begun: Instant, error: RequestError) -> Refusal {
        let mut recorder = self.decisions.keep(decision, begun);
        recorder.failed(&error);
        Refusal {
            error,
            decision: Some(recorder.id().to_owned()),
        }
    }
}

impl Backend for Dispatch {
    async fn generate(&self, request: GenerateRequest<Route>) -> Result<Answer<Batches>, Refusal> {
        let begun = Instant::now();
        let mut decision = Decision::default();
        let plan = self
            .plan(&request.model, &request.input, &mut decision)
            .await;
        let wire = flotilla_proto::convert::generate_request(&request);
        let mut tries = match plan {
            Ok(plan) => Tries::new(self, plan, decision, begun),
            Err(error) => return Err(self.refuse(decision, begun, error)),
        };
        loop {
            let (replica, guard) = match tries.next().await {
                Ok(picked) => picked,
                Err(error) => return Err(tries.refuse(error)),
            };
            let mut wire = wire.clone();
            tries.model().as_str().clone_into(&mut wire.model);
            match attempt::generate(&replica, guard, wire, tries.left()).await {
                Ok(relay) => {
                    let (by, mut recorder) = tries.answered(replica);
                    recorder.first_events();
                    let content: Batches = Box::pin(relay.recorded(recorder));
                    return Ok(Answer { by, content });
                }
                Err(error) => tries.failed(&replica, error)?,
            }
        }
    }

    async fn embed(&self, request: EmbedRequest<Route>) -> Result<Answer<Embeddings>, Refusal> {
        let begun = Instant::now();
        let mut decision = Decision::default();
        // Embeddings are asked of a model: there is nothing to classify.
        let nothing = Input::Text(String::new());
        let plan = self.plan(&request.model, &nothing, &mut decision).await;
        let mut tries = match plan {
            Ok(plan) => Tries::new(self, plan, decision, begun),
            Err(error) => return Err(self.refuse(decision, begun, error)),
        };
        loop {
            let (replica, guard) = match tries.next().await {
                Ok(picked) => picked,
                Err(error) => return Err(tries.refuse(error)),
            };
            let asked = EmbedRequest {
                model: tries.model().clone(),
                inputs: request.inputs.clone(),
            };
            match attempt::embed(&replica, guard, &asked, tries.left()).await {
                Ok(content) => {
                    let (by, mut recorder) = tries.answered(replica);
                    recorder.usage(Usage {
                        prompt_tokens: content.prompt_tokens,
                        completion_tokens: 0,
                    });
                    recorder.answered();
                    return Ok(Answer { by, content });
                }
                Err(error) => tries.failed(&replica, error)?,
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

fn card(model: &ModelView) -> ModelCard {
    ModelCard {
        name: model.model.name().clone(),
        created: model.created,
    }
}
