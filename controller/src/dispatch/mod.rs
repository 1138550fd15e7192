//! The way of a request: find the model → pick a replica, or wait for one → forward → relay
//! the answer.
//!
//! It reads one view, counts load when it dispatches, and tries elsewhere only until the
//! first events are there. Nothing here waits for the store or looks at all nodes.

mod attempt;
mod relay;
pub(crate) mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest, RequestError};
use flotilla_core::routing::two_choices;
use flotilla_core::{ModelName, NodeName};
use flotilla_gateway::{Answer, Backend, Batches, ModelCard, Readiness, Server};

use crate::fleet::{Fleet, LoadGuard, ModelView, NodePhase, Replica};
pub(crate) use waiting::Lobby;

/// Replicas that may be lost under one request, the first included.
const ATTEMPTS: usize = 3;
/// What a refused client is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The controller as the gateway's backend. Cheap to clone.
#[derive(Clone)]
pub struct Dispatch {
    fleet: Fleet,
    lobby: Lobby,
    first_token_timeout: Duration,
}

impl Dispatch {
    /// Dispatch over `fleet`. A request whose first events take longer than
    /// `first_token_timeout` is given up; one that no replica can take yet waits in `lobby`.
    #[must_use]
    pub(crate) fn new(fleet: Fleet, lobby: Lobby, first_token_timeout: Duration) -> Self {
        Self {
            fleet,
            lobby,
            first_token_timeout,
        }
    }

    fn find(&self, name: &ModelName) -> Result<Arc<ModelView>, RequestError> {
        let view = self.fleet.peek();
        let model = view.by_name.get(name);
        model
            .cloned()
            .ok_or_else(|| RequestError::ModelNotFound(name.to_string()))
    }

    fn tries<'a>(&'a self, name: &'a ModelName) -> Tries<'a> {
        Tries {
            dispatch: self,
            name,
            deadline: Instant::now() + self.first_token_timeout,
            generation: 0,
            tried: Vec::new(),
            lost: 0,
            failed: 0,
            last: None,
        }
    }
}

/// The replicas that one request tries, one after the other.
struct Tries<'a> {
    dispatch: &'a Dispatch,
    name: &'a ModelName,
    deadline: Instant,
    /// The view that those tried were of.
    generation: u64,
    tried: Vec<NodeName>,
    /// Replicas that were lost under it.
    lost: usize,
    /// Replicas that did not answer, lost or not.
    failed: u32,
    last: Option<RequestError>,
}

impl Tries<'_> {
    /// The next replica to try, with the load counted. Waits where one is coming.
    ///
    /// # Errors
    /// What to tell the client when there is none.
    async fn next(&mut self) -> Result<(Replica, LoadGuard), RequestError> {
        if !self.dispatch.lobby.is_used(self.name)
            && let Some(picked) = self.pick()?
        {
            return Ok(picked);
        }
        // Others wait already, or nobody can take it now: in order, until somebody can.
        let mut changes = self.dispatch.fleet.changes();
        let queue = self.dispatch.find(self.name)?.model.spec.queue;
        let mut place = self.dispatch.lobby.enter(self.name, queue)?;
        let deadline = tokio::time::Instant::from_std(self.deadline);
        let turn = async {
            let verdict = place.turn().await;
            if let Some(verdict) = verdict {
                return Err(verdict);
            }
            loop {
                changes.borrow_and_update();
                if let Some(picked) = self.pick()? {
                    return Ok(picked);
                }
                tokio::select! {
                    verdict = place.verdict() => return Err(verdict),
                    changed = changes.changed() => if changed.is_err() {
                        return Err(nobody(self.name));
                    },
                }
            }
        };
        let waited = tokio::time::timeout_at(deadline, turn).await;
        waited.unwrap_or_else(|_| Err(self.late()))
    }

    /// A replica that can take the request now. `None` where one may be able to soon.
    fn pick(&mut self) -> Result<Option<(Replica, LoadGuard)>, RequestError> {
        let view = self.dispatch.fleet.peek();
        let Some(model) = view.by_name.get(self.name) else {
            return Err(RequestError::ModelNotFound(self.name.to_string()));
        };
        if view.generation != self.generation {
            // What refused before may be another replica now.
            self.generation = view.generation;
            self.tried.clear();
        }
        let replicas = &model.replicas;
        let pick = two_choices(
            replicas.len(),
            |i| replicas[i].load.load(),
            |i| self.tried.contains(&replicas[i].node),
            |n| fastrand::usize(..n),
        );
        if let Some(i) = pick {
            let guard = replicas[i].load.take();
            return Ok(Some((replicas[i].clone(), guard)));
        }
        let all_full = replicas.iter().any(|r| !self.tried.contains(&r.node));
        if all_full || matches!(self.last, Some(RequestError::Overloaded { .. })) {
            let message = format!(
                "Every replica of the model '{}' is full: try again later.",
                self.name
            );
            return Err(RequestError::Overloaded {
                message,
                retry_after: RETRY_AFTER,
            });
        }
        if model.coming || !replicas.is_empty() {
            return Ok(None);
        }
        Err(self.last.take().unwrap_or_else(|| nobody(self.name)))
    }

    /// Notes that a replica failed.
    ///
    /// # Errors
    /// The error itself, when no other replica can do better.
    fn failed(&mut self, replica: Replica, error: RequestError) -> Result<(), RequestError> {
        self.failed += 1;
        self.lost += usize::from(matches!(error, RequestError::NodeLost(_)));
        if !error.retryable_elsewhere() || self.lost >= ATTEMPTS {
            return Err(error);
        }
        tracing::debug!(model = %self.name, node = %replica.node, %error, "trying elsewhere");
        self.tried.push(replica.node);
        self.last = Some(error);
        Ok(())
    }

    fn late(&self) -> RequestError {
        let waited = self.dispatch.first_token_timeout.as_secs();
        RequestError::Deadline(format!(
            "No replica of the model '{}' could begin the answer within {waited} s.",
            self.name
        ))
    }

    /// The answer that `replica` has begun.
    fn answer<T>(self, replica: Replica, content: T) -> Answer<T> {
        let by = Server {
            node: replica.node,
            attempts: self.failed + 1,
        };
        Answer { by, content }
    }

    /// The time left for the first events.
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Why no replica was picked.
fn nobody(name: &ModelName) -> RequestError {
    RequestError::Unavailable(format!(
        "No replica of the model '{name}' is ready: 'flotilla describe model {name}' says why."
    ))
}

impl Backend for Dispatch {
    async fn generate(&self, request: GenerateRequest) -> Result<Answer<Batches>, RequestError> {
        let wire = flotilla_proto::v1::GenerateRequest::from(&request);
        let mut tries = self.tries(&request.model);
        loop {
            let (replica, guard) = tries.next().await?;
            match attempt::generate(&replica, guard, wire.clone(), tries.left()).await {
                Ok(content) => return Ok(tries.answer(replica, content)),
                Err(error) => tries.failed(replica, error)?,
            }
        }
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Answer<Embeddings>, RequestError> {
        let mut tries = self.tries(&request.model);
        loop {
            let (replica, guard) = tries.next().await?;
            match attempt::embed(&replica, guard, &request, tries.left()).await {
                Ok(content) => return Ok(tries.answer(replica, content)),
                Err(error) => tries.failed(replica, error)?,
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
