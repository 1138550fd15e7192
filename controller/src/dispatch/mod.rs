//! The way of a request: find the model → pick a replica → forward → relay the answer.
//!
//! It reads one view, counts load when it dispatches, and tries elsewhere only until the
//! first events are there. Nothing here waits for the store or looks at all nodes.

mod attempt;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest, RequestError};
use flotilla_core::routing::two_choices;
use flotilla_core::{ModelName, NodeName};
use flotilla_gateway::{Answer, Backend, Batches, ModelCard, Readiness};

use crate::fleet::{Fleet, ModelView, NodePhase, Replica};

/// Replicas tried for one request, the first included.
const ATTEMPTS: usize = 3;
/// What a refused client is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The controller as the gateway's backend. Cheap to clone.
#[derive(Clone)]
pub struct Dispatch {
    fleet: Fleet,
    first_token_timeout: Duration,
}

impl Dispatch {
    /// Dispatch over `fleet`. A request whose first events take longer than
    /// `first_token_timeout` is given up.
    #[must_use]
    pub fn new(fleet: Fleet, first_token_timeout: Duration) -> Self {
        Self {
            fleet,
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
            tried: Vec::new(),
            last: None,
        }
    }
}

/// The replicas that one request tries, one after the other.
struct Tries<'a> {
    dispatch: &'a Dispatch,
    name: &'a ModelName,
    tried: Vec<NodeName>,
    last: Option<RequestError>,
}

impl Tries<'_> {
    /// The next replica to try.
    ///
    /// # Errors
    /// What to tell the client when none is left.
    fn next(&mut self) -> Result<Replica, RequestError> {
        // Looked up anew for each try: what failed may have left the view.
        let model = self.dispatch.find(self.name)?;
        let replicas = &model.replicas;
        let pick = if self.tried.len() < ATTEMPTS {
            two_choices(
                replicas.len(),
                |i| replicas[i].load.load(),
                |i| self.tried.contains(&replicas[i].node),
                |n| fastrand::usize(..n),
            )
        } else {
            None
        };
        match pick {
            Some(i) => Ok(replicas[i].clone()),
            None => Err(self
                .last
                .take()
                .unwrap_or_else(|| nobody(self.name, replicas))),
        }
    }

    /// Notes that a replica failed.
    ///
    /// # Errors
    /// The error itself, when no other replica can do better.
    fn failed(&mut self, replica: Replica, error: RequestError) -> Result<(), RequestError> {
        if !error.retryable_elsewhere() {
            return Err(error);
        }
        tracing::debug!(model = %self.name, node = %replica.node, %error, "trying elsewhere");
        self.tried.push(replica.node);
        self.last = Some(error);
        Ok(())
    }
}

/// Why no replica was picked.
fn nobody(name: &ModelName, replicas: &[Replica]) -> RequestError {
    if replicas.is_empty() {
        return RequestError::Unavailable(format!(
            "No replica of the model '{name}' is ready: 'flotilla describe model {name}' says why."
        ));
    }
    RequestError::Overloaded {
        message: format!("Every replica of the model '{name}' is full: try again later."),
        retry_after: RETRY_AFTER,
    }
}

impl Backend for Dispatch {
    async fn generate(&self, request: GenerateRequest) -> Result<Answer<Batches>, RequestError> {
        let wire = flotilla_proto::v1::GenerateRequest::from(&request);
        let mut tries = self.tries(&request.model);
        loop {
            let replica = tries.next()?;
            match attempt::generate(&replica, wire.clone(), self.first_token_timeout).await {
                Ok(content) => return Ok(answer(replica, content)),
                Err(error) => tries.failed(replica, error)?,
            }
        }
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Answer<Embeddings>, RequestError> {
        let mut tries = self.tries(&request.model);
        loop {
            let replica = tries.next()?;
            match attempt::embed(&replica, &request, self.first_token_timeout).await {
                Ok(content) => return Ok(answer(replica, content)),
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

fn answer<T>(replica: Replica, content: T) -> Answer<T> {
    Answer {
        node: replica.node,
        content,
    }
}

fn card(model: &ModelView) -> ModelCard {
    ModelCard {
        name: model.model.name().clone(),
        created: model.created,
    }
}
