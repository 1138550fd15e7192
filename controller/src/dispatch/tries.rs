//! The replicas that one request tries, one after the other.

use std::time::{Duration, Instant};

use flotilla_core::ModelName;
use flotilla_core::NodeName;
use flotilla_core::generate::RequestError;
use flotilla_core::routing::{Candidate, Decision, Prospect, Reason, Rejected, select};
use flotilla_gateway::{Refusal, Server};

use super::plan::Plan;
use super::{Dispatch, RETRY_AFTER};
use crate::decisions::Recorder;
use crate::fleet::{FleetView, LoadGuard, Replica, pace_clock};

/// Replicas that may be lost under one request, the first included.
const ATTEMPTS: usize = 3;
/// Failed tries that are put on record.
const RECORDED: usize = 8;

/// The replicas that one request tries.
pub(super) struct Tries<'a> {
    dispatch: &'a Dispatch,
    plan: Plan,
    decision: Decision,
    begun: Instant,
    deadline: Instant,
    /// The model that the replica last picked is of.
    model: usize,
    /// The view that those tried were of.
    generation: u64,
    tried: Vec<(usize, NodeName)>,
    /// Replicas that were lost under it.
    lost: usize,
    /// Replicas that did not answer, lost or not.
    failed: u32,
    /// What they said, for the record.
    errors: Vec<Rejected>,
    last: Option<RequestError>,
}

/// What a look at the fleet came to.
enum Look {
    Picked(Replica, LoadGuard),
    /// Nobody can take it now, but the model of this number may be able to soon.
    Wait(usize),
}

impl<'a> Tries<'a> {
    /// The tries of a request that arrived when it had `begun`.
    pub(super) fn new(
        dispatch: &'a Dispatch,
        plan: Plan,
        decision: Decision,
        begun: Instant,
    ) -> Self {
        Self {
            dispatch,
            plan,
            decision,
            begun,
            deadline: begun + dispatch.first_token_timeout,
            model: 0,
            generation: 0,
            tried: Vec::new(),
            lost: 0,
            failed: 0,
            errors: Vec::new(),
            last: None,
        }
    }

    /// The model that the replica last picked is of.
    pub(super) fn model(&self) -> &ModelName {
        &self.plan.models[self.model]
    }

    /// The next replica to try, with the load counted. Waits where one is coming.
    ///
    /// # Errors
    /// What to tell the client when there is none.
    pub(super) async fn next(&mut self) -> Result<(Replica, LoadGuard), RequestError> {
        let mut changes = self.dispatch.fleet.changes();
        let waits = match self.look(None)? {
            Look::Picked(replica, guard) => return Ok((replica, guard)),
            Look::Wait(model) => model,
        };
        // Others wait already, or nobody can take it now: in order, until somebody can.
        let name = self.plan.models[waits].clone();
        let queue = match self.dispatch.fleet.peek().by_name.get(&name) {
            Some(model) => model.model.spec.queue,
            None => return Err(RequestError::ModelNotFound(name.to_string())),
        };
        let mut place = self.dispatch.lobby.enter(&name, queue)?;
        let deadline = tokio::time::Instant::from_std(self.deadline);
        let turn = async {
            let verdict = place.turn().await;
            if let Some(verdict) = verdict {
                return Err(verdict);
            }
            loop {
                changes.borrow_and_update();
                if let Look::Picked(replica, guard) = self.look(Some(waits))? {
                    return Ok((replica, guard));
                }
                tokio::select! {
                    verdict = place.verdict() => return Err(verdict),
                    changed = changes.changed() => if changed.is_err() {
                        return Err(self.nobody());
                    },
                }
            }
        };
        let waited = tokio::time::timeout_at(deadline, turn).await;
        waited.unwrap_or_else(|_| Err(self.late()))
    }

    /// A replica that can take the request now, of the first model that has one. `in_line`: the
    /// model whose line the request is at the head of.
    fn look(&mut self, in_line: Option<usize>) -> Result<Look, RequestError> {
        let view = self.dispatch.fleet.peek();
        if view.generation != self.generation {
            // What refused before may be another replica now.
            self.generation = view.generation;
            self.tried.clear();
        }
        self.decision.candidates.clear();
        self.decision.rejected.clear();
        let (mut wait, mut full) = (None, false);
        for at in 0..self.plan.models.len() {
            match self.look_at(&view, at, in_line) {
                Ok((replica, guard)) => {
                    self.model = at;
                    self.decision.model = Some(self.plan.models[at].clone());
                    self.decision.node = Some(replica.node.clone());
                    return Ok(Look::Picked(replica, guard));
                }
                Err(Passed::Coming) => wait = wait.or(Some(at)),
                Err(Passed::Full) => full = true,
                Err(Passed::Out) => {}
            }
        }
        let refused = matches!(self.last, Some(RequestError::Overloaded { .. }));
        match wait {
            Some(at) if !refused => Ok(Look::Wait(at)),
            _ if full || refused => Err(RequestError::Overloaded {
                message: format!(
                    "Every replica of {} is full: try again later.",
                    self.asked()
                ),
                retry_after: RETRY_AFTER,
            }),
            _ => Err(self.nobody()),
        }
    }

    /// A replica of one model, or why there is none, which goes on record.
    fn look_at(
        &mut self,
        view: &FleetView,
        at: usize,
        in_line: Option<usize>,
    ) -> Result<(Replica, LoadGuard), Passed> {
        let name = &self.plan.models[at];
        let rejected = &mut self.decision.rejected;
        let Some(model) = view.by_name.get(name) else {
            return pass(rejected, name, Reason::Unknown, Passed::Out);
        };
        if in_line != Some(at) && self.dispatch.lobby.is_used(name) {
            return pass(rejected, name, Reason::Queued, Passed::Coming);
        }
        let eligible = model.eligible(self.plan.zones.as_ref());
        if eligible.is_empty() {
            if !model.replicas.is_empty() {
                return pass(rejected, name, Reason::Zone, Passed::Out);
            }
            let coming = if model.coming {
                Passed::Coming
            } else {
                Passed::Out
            };
            return pass(rejected, name, Reason::NotLoaded, coming);
        }
        let (candidates, tried) = (&mut self.decision.candidates, &self.tried);
        let was_tried =
            |replica: &Replica| tried.iter().any(|(m, n)| *m == at && *n == replica.node);
        let (now, mut broken) = (pace_clock(), Vec::new());
        let pick = select(
            eligible.len(),
            |i| {
                let replica = eligible.get(i);
                let prospect = replica.load.prospect(now);
                if prospect.admitted {
                    candidates.push(candidate(name, replica, prospect));
                } else {
                    broken.push(i);
                }
                prospect
            },
            |i| was_tried(eligible.get(i)),
            |n| fastrand::usize(..n),
            now,
        );
        for i in broken {
            let replica = eligible.get(i);
            if pick == Some(i) {
                candidates.push(candidate(name, replica, replica.load.prospect(now)));
                continue;
            }
            rejected.push(Rejected {
                model: name.clone(),
                node: Some(replica.node.clone()),
                reason: Reason::Breaker,
                detail: String::new(),
            });
        }
        if let Some(i) = pick {
            let replica = eligible.get(i).clone();
            let guard = replica.load.take();
            return Ok((replica, guard));
        }
        // Each of a few was looked at; of many a sample was.
        let untried = eligible.len() > tried.len()
            || (0..eligible.len()).any(|i| !was_tried(eligible.get(i)));
        if untried {
            pass(rejected, name, Reason::Full, Passed::Full)
        } else {
            pass(rejected, name, Reason::Error, Passed::Coming)
        }
    }

    /// Notes that a replica failed.
    ///
    /// # Errors
    /// The error itself, when no other replica can do better.
    pub(super) fn failed(&mut self, replica: &Replica, error: RequestError) -> Result<(), Refusal> {
        self.failed += 1;
        self.lost += usize::from(matches!(error, RequestError::NodeLost(_)));
        if self.errors.len() < RECORDED {
            self.errors.push(Rejected {
                model: self.model().clone(),
                node: Some(replica.node.clone()),
                reason: Reason::Error,
                detail: error.to_string(),
            });
        }
        if !error.retryable_elsewhere() || self.lost >= ATTEMPTS {
            return Err(self.refuse(error));
        }
        tracing::debug!(model = %self.model(), node = %replica.node, %error, "trying elsewhere");
        self.tried.push((self.model, replica.node.clone()));
        self.last = Some(error);
        Ok(())
    }

    /// Puts on record that there is no answer.
    pub(super) fn refuse(&mut self, error: RequestError) -> Refusal {
        let decision = self.record();
        self.dispatch.refuse(decision, self.begun, error)
    }

    /// Puts on record that `replica` answers.
    pub(super) fn answered(mut self, replica: Replica) -> (Server, Recorder) {
        let task = self.decision.task.clone();
        let decision = self.record();
        let recorder = self.dispatch.decisions.keep(decision, self.begun);
        let by = Server {
            model: self.model().clone(),
            task,
            node: replica.node,
            attempts: self.failed + 1,
            decision: recorder.id().to_owned(),
        };
        (by, recorder)
    }

    /// The decision as it goes on record: nothing is tried after that.
    fn record(&mut self) -> Decision {
        let mut decision = std::mem::take(&mut self.decision);
        decision.rejected.append(&mut self.errors);
        decision
    }

    /// The time left for the first events.
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn late(&self) -> RequestError {
        let waited = self.dispatch.first_token_timeout.as_secs();
        RequestError::Deadline(format!(
            "No replica of {} could begin the answer within {waited} s.",
            self.asked()
        ))
    }

    /// Why no replica was picked.
    fn nobody(&mut self) -> RequestError {
        if let Some(error) = self.last.take() {
            return error;
        }
        let rejected = &self.decision.rejected;
        let unknown = rejected.iter().all(|r| r.reason == Reason::Unknown);
        let models = &self.plan.models;
        if unknown && self.decision.task.is_none() {
            return RequestError::ModelNotFound(models[0].to_string());
        }
        if rejected.iter().any(|r| r.reason == Reason::Zone) {
            let zones: Vec<_> = self
                .decision
                .zones
                .iter()
                .map(|z| format!("'{z}'"))
                .collect();
            return RequestError::Unavailable(format!(
                "No replica of {} is ready in the privacy zone {}, and the request may go nowhere else.",
                self.asked(),
                zones.join(" or ")
            ));
        }
        let first = &models[0];
        RequestError::Unavailable(format!(
            "No replica of {} is ready: 'flotilla describe model {first}' says why.",
            self.asked()
        ))
    }

    /// What was asked for, in words.
    fn asked(&self) -> String {
        match &self.decision.task {
            Some(task) => format!("the models of the task '{task}'"),
            None => format!("the model '{}'", self.plan.models[0]),
        }
    }
}

/// Passes a model over, on record.
fn pass<T>(
    rejected: &mut Vec<Rejected>,
    model: &ModelName,
    reason: Reason,
    passed: Passed,
) -> Result<T, Passed> {
    rejected.push(Rejected {
        model: model.clone(),
        node: None,
        reason,
        detail: String::new(),
    });
    Err(passed)
}

/// A replica that could answer, for the record.
pub(super) fn candidate(model: &ModelName, replica: &Replica, prospect: Prospect) -> Candidate {
    let Prospect { load, pace, .. } = prospect;
    Candidate {
        model: model.clone(),
        node: replica.node.clone(),
        load,
        predicted_ms: pace.map(|pace| pace.predict(load) * 1e3),
    }
}

/// Why a model has no replica for a request.
enum Passed {
    /// One may be able to take it soon.
    Coming,
    /// All take no more.
    Full,
    /// It cannot answer.
    Out,
}
