//! The newest decisions, with their outcomes, in a ring of slots that requests write without locks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use flotilla_core::routing::{RequestOutcome, RoutingDecision};
use flotilla_core::spec::LearnSource;
use flotilla_telemetry::clock::unix_millis;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::decision_recorder::DecisionRecorder;
use crate::held_prompts::HeldPrompts;
use crate::prompt_log::PromptLog;
use crate::request_context::RequestContext;
use crate::request_observer::RequestObserver;
use crate::stored_decision::StoredDecision;

/// Keeps the newest decisions. Cheap to clone.
#[derive(Clone)]
pub struct DecisionLog {
    ring: Arc<DecisionRing>,
}

struct DecisionRing {
    /// The id of this controller, which every decision's id begins with.
    controller: String,
    next: AtomicU64,
    observer: RequestObserver,
    prompts: PromptLog,
    /// The prompts of tasks that learn from feedback.
    held_prompts: Arc<HeldPrompts>,
    /// Decision number n is in slot n modulo their count, until a later decision replaces it.
    slots: Box<[ArcSwapOption<StoredDecision>]>,
}

/// A recorded decision, as `/v1/decisions/{id}` returns it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// The id of the record. `None` for a dry run.
    pub id: Option<String>,
    /// When the decision was made, in milliseconds since 1970.
    pub at: u64,
    /// The decision.
    #[serde(flatten)]
    pub decision: RoutingDecision,
    /// How the request ended. `None` while it is in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<RequestOutcome>,
}

impl DecisionLog {
    /// Creates a log of the newest `capacity` decisions of this controller. `observer` counts the
    /// outcomes.
    #[must_use]
    pub fn new(controller: &str, capacity: usize, observer: RequestObserver) -> Self {
        let slots = (0..capacity.max(1)).map(|_| ArcSwapOption::empty());
        Self {
            ring: Arc::new(DecisionRing {
                controller: controller.to_owned(),
                observer,
                next: AtomicU64::new(0),
                prompts: PromptLog::default(),
                held_prompts: Arc::default(),
                slots: slots.collect(),
            }),
        }
    }

    /// Records the decision about a request. The returned recorder takes the outcome.
    pub(crate) fn record(
        &self,
        mut decision: RoutingDecision,
        context: Arc<RequestContext>,
    ) -> DecisionRecorder {
        let number = self.ring.next.fetch_add(1, Ordering::Relaxed);
        let kept = self.ring.slots.len() as u64;
        let oldest = (number + 1).saturating_sub(kept);
        if let Some(prompt) = decision.prompt.take() {
            self.ring.prompts.insert(number, prompt);
            self.ring.prompts.forget_before(oldest);
        }
        if let Some(prompt) = context.kept_prompt()
            && prompt.learn.learns_from(LearnSource::Feedback)
        {
            self.ring.held_prompts.insert(number, prompt.clone());
            self.ring.held_prompts.remove_before(oldest);
        }
        let stored = Arc::new(StoredDecision {
            number,
            at: unix_millis(),
            decision,
            outcome: OnceLock::new(),
            record: Mutex::default(),
        });
        let slot = (number % self.ring.slots.len() as u64) as usize;
        self.ring.slots[slot].store(Some(stored.clone()));
        let held_prompts = self.ring.held_prompts.clone();
        let observer = self.ring.observer.clone();
        DecisionRecorder::new(self.id(number), stored, context, observer, held_prompts)
    }

    /// Records the decision about a request that is answered at once, for benchmarks.
    pub fn record_answered(&self, decision: RoutingDecision) {
        let context = self.ring.observer.start_request("chat", 0, Arc::default());
        self.record(decision, context).record_success();
    }

    /// Returns the decision with this id, if this controller made it and still keeps it.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<DecisionRecord> {
        let stored = self.stored(id)?;
        Some(DecisionRecord {
            id: Some(self.id(stored.number)),
            at: stored.at,
            decision: RoutingDecision {
                prompt: self.ring.prompts.get(stored.number),
                ..stored.decision.clone()
            },
            outcome: stored.outcome.get().cloned(),
        })
    }

    /// Returns the decision with this id as it is stored, if this controller made it and still keeps it.
    pub(crate) fn stored(&self, id: &str) -> Option<Arc<StoredDecision>> {
        let (controller, number) = parse_id(id)?;
        if controller != self.ring.controller {
            return None;
        }
        let slot = (number % self.ring.slots.len() as u64) as usize;
        let stored = self.ring.slots[slot].load_full()?;
        (stored.number == number).then_some(stored)
    }

    /// The prompts that are held until feedback comes.
    pub(crate) fn held_prompts(&self) -> &HeldPrompts {
        &self.ring.held_prompts
    }

    /// Returns the id of the controller that made the decision with this id. `None` if it is no such id.
    #[must_use]
    pub fn owner(id: &str) -> Option<&str> {
        parse_id(id).map(|(controller, _)| controller)
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number:x}", self.ring.controller)
    }
}

/// Splits the id of a decision into that of its controller and its number. Nothing but the id itself passes:
/// ids from clients become parts of paths, and the records of datasets are found by them.
fn parse_id(id: &str) -> Option<(&str, u64)> {
    let (controller, text) = id.split_once('-')?;
    let number = u64::from_str_radix(text, 16).ok()?;
    (format!("{number:x}") == text).then_some((controller, number))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use flotilla_core::energy::{EnergySource, EnergyUsage};
    use flotilla_core::generate::Usage;
    use flotilla_core::routing::OutcomeStatus;
    use flotilla_core::{Joules, NodeName};
    use flotilla_telemetry::Telemetry;
    use flotilla_telemetry::server_metrics::ServerMetrics;

    #[test]
    fn the_newest_decisions_are_kept_with_their_outcomes() {
        let metrics = Arc::new(ServerMetrics::new(&Telemetry::disabled().meter()));
        let log = DecisionLog::new("abc", 2, RequestObserver::metrics_only(metrics));
        let record = |requested: &str| {
            let decision = RoutingDecision {
                requested_model: requested.into(),
                ..RoutingDecision::default()
            };
            let context = log.ring.observer.start_request("chat", 7, Arc::default());
            (log.record(decision, context.clone()), context)
        };
        let (mut first, context) = record("one");
        let id = first.id().to_owned();
        assert_eq!(DecisionLog::owner(&id), Some("abc"));
        for other in [
            "abc",
            "abc-",
            "abc-1/../x",
            "abc-1?x",
            "abc-01",
            "abc-+1",
            "abc-A",
        ] {
            assert_eq!(DecisionLog::owner(other), None, "{other}");
        }
        assert_eq!(log.get(&id).unwrap().outcome, None);
        first.record_first_events();
        first.record_usage(Usage {
            prompt_tokens: 3,
            completion_tokens: 4,
            timing: None,
            energy: None,
        });
        let node = NodeName::new("n").unwrap();
        for (joules, source) in [(0.5, EnergySource::Rapl), (1.5, EnergySource::Nvml)] {
            let energy = EnergyUsage::new(Joules(joules), source.into());
            context.add_energy(&node, &BTreeSet::new(), energy);
        }
        first.record_success();
        let stored = log.get(&id).unwrap();
        assert_eq!(stored.decision.requested_model, "one");
        let outcome = stored.outcome.unwrap();
        assert_eq!(
            (outcome.status, outcome.completion_tokens),
            (OutcomeStatus::Answered, Some(4))
        );
        assert_eq!(outcome.joules, Some(Joules(2.0)));
        assert_eq!(outcome.joules_source.unwrap().as_str(), "rapl+nvml");
        assert!(outcome.first_token_ms.unwrap() <= outcome.total_ms);

        drop(first);
        drop(record("two"));
        let (third, _) = record("three");
        assert!(log.get(&id).is_none(), "a later decision has replaced it");
        for other in ["", "abc", "abc-zz", "abd-0", "abc-999"] {
            assert!(log.get(other).is_none(), "{other}");
        }
        let id = third.id().to_owned();
        drop(third);
        let outcome = log.get(&id).unwrap().outcome.unwrap();
        assert_eq!(outcome.status, OutcomeStatus::Cancelled);
    }
}
