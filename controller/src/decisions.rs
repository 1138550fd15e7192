//! The record of routing decisions: the last so many, in memory, each under an id that says
//! which controller made it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{RequestError, Usage};
use flotilla_core::routing::{OutcomeStatus, RequestOutcome, RoutingDecision};
use flotilla_core::{ModelName, TaskName};
use flotilla_telemetry::front::{RequestLabels, RequestStats};
use flotilla_telemetry::names::attr;
use flotilla_telemetry::trace::RequestSpan;
use serde::{Deserialize, Serialize};

use crate::arrival::{RequestContext, RequestObserver};
use crate::traffic::EndedRequest;

/// Keeps the last decisions. Cheap to clone.
#[derive(Clone)]
pub struct DecisionLog {
    inner: Arc<DecisionRing>,
}

struct DecisionRing {
    /// Of the controller.
    id: String,
    next: AtomicU64,
    observer: RequestObserver,
    /// The decision of number n is in slot n modulo their number, until another takes it.
    slots: Box<[ArcSwapOption<StoredDecision>]>,
}

struct StoredDecision {
    number: u64,
    at: u64,
    decision: RoutingDecision,
    outcome: OnceLock<RequestOutcome>,
}

/// A decision as it is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// Under which name it is on record. `None`: nothing was asked of a model.
    pub id: Option<String>,
    /// When it was made, in milliseconds since 1970.
    pub at: u64,
    #[serde(flatten)]
    pub decision: RoutingDecision,
    /// What became of the request. `None`: it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<RequestOutcome>,
}

impl DecisionLog {
    /// Room for `kept` decisions of the controller `id`, whose outcomes are counted by `observer`.
    #[must_use]
    pub fn new(id: &str, kept: usize, observer: RequestObserver) -> Self {
        Self {
            inner: Arc::new(DecisionRing {
                id: id.to_owned(),
                observer,
                next: AtomicU64::new(0),
                slots: (0..kept.max(1)).map(|_| ArcSwapOption::empty()).collect(),
            }),
        }
    }

    /// Puts the decision for a request on record. The outcome is told to what is returned.
    pub(crate) fn keep(
        &self,
        decision: RoutingDecision,
        arrival: Arc<RequestContext>,
    ) -> DecisionRecorder {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let kept = Arc::new(StoredDecision {
            number,
            at: unix_millis(),
            decision,
            outcome: OnceLock::new(),
        });
        let slot = (number % self.inner.slots.len() as u64) as usize;
        self.inner.slots[slot].store(Some(kept.clone()));
        arrival.counted_elsewhere();
        DecisionRecorder {
            id: self.id(number),
            outcome: RequestOutcome::default(),
            observer: self.inner.observer.clone(),
            known: true,
            first_token: None,
            decode: None,
            ended: false,
            kept,
            arrival,
        }
    }

    /// Puts a decision on record whose request ends at once.
    pub fn note(&self, decision: RoutingDecision) {
        let arrival = self.inner.observer.arrives("chat", 0, Arc::default());
        self.keep(decision, arrival).answered();
    }

    /// The decision of an id that [`DecisionLog::owner`] says is of this controller.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<DecisionRecord> {
        let (controller, number) = id.split_once('-')?;
        if controller != self.inner.id {
            return None;
        }
        let number = u64::from_str_radix(number, 16).ok()?;
        let slot = (number % self.inner.slots.len() as u64) as usize;
        let kept = self.inner.slots[slot].load_full()?;
        (kept.number == number).then(|| DecisionRecord {
            id: Some(self.id(number)),
            at: kept.at,
            decision: kept.decision.clone(),
            outcome: kept.outcome.get().cloned(),
        })
    }

    /// Which controller made the decision of an id.
    #[must_use]
    pub fn owner(id: &str) -> Option<&str> {
        Some(id.split_once('-')?.0)
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number:x}", self.inner.id)
    }
}

/// Writes down what becomes of a request, once: as soon as it is known, so that whoever has seen the
/// end of an answer finds it on record. It is counted then, too.
pub(crate) struct DecisionRecorder {
    id: String,
    kept: Arc<StoredDecision>,
    arrival: Arc<RequestContext>,
    observer: RequestObserver,
    outcome: RequestOutcome,
    /// Whether what was asked for is something that the fleet has.
    known: bool,
    /// When the first events were there.
    first_token: Option<Duration>,
    /// How long its node wrote after that.
    decode: Option<Duration>,
    ended: bool,
}

impl DecisionRecorder {
    /// Under which name the decision is on record.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// What the request is traced as.
    pub(crate) fn stage(&self) -> &RequestSpan {
        &self.arrival.stage
    }

    /// The first events are there.
    pub(crate) fn first_events(&mut self) {
        self.first_token = Some(self.arrival.at.elapsed());
    }

    /// What the answer took of tokens and time.
    pub(crate) fn usage(&mut self, usage: Usage) {
        self.outcome.prompt_tokens = Some(usage.prompt_tokens);
        self.outcome.completion_tokens = Some(usage.completion_tokens);
        self.decode = usage.timing.map(|timing| timing.decode);
        let queued = usage.timing.map(|timing| timing.queued);
        self.outcome.queued_ms = queued.map(|queued| queued.as_secs_f64() * 1e3);
    }

    /// When its node wrote the first token, by how long it wrote after that: an answer that comes as a
    /// whole comes with its last one.
    pub(crate) fn wrote_for(&mut self, decode: Duration) {
        let first = self.arrival.at.elapsed().saturating_sub(decode);
        self.first_token = Some(self.first_token.map_or(first, |known| known.min(first)));
    }

    /// What it took so far.
    pub(crate) fn spent(&self) -> EnergyUsage {
        self.arrival.spent()
    }

    /// The answer is complete.
    pub(crate) fn answered(&mut self) {
        self.outcome.end = OutcomeStatus::Answered;
        self.write_down(None);
    }

    /// There is no answer, or only a part of it.
    pub(crate) fn failed(&mut self, error: &RequestError) {
        self.known = !matches!(
            error,
            RequestError::ModelNotFound(_) | RequestError::TaskNotFound(_)
        );
        self.outcome.end = OutcomeStatus::Failed;
        self.arrival.stage.failed(error.kind());
        self.log(error.kind(), error.blames_the_replica());
        let held = !self.kept.decision.zones.is_empty();
        self.outcome.error = Some(error.on_record(held));
        self.write_down(Some(error.kind()));
    }

    /// Says in the log that there is no answer, with the ids of the trace.
    fn log(&self, kind: &'static str, of_node: bool) {
        let (id, decision) = (self.id.as_str(), &self.kept.decision);
        let model = decision.model.as_ref().map_or("", |model| model.as_str());
        let node = decision.node.as_ref().map_or("", |node| node.as_str());
        self.arrival.stage.within(|| match of_node {
            true => tracing::warn!(decision = id, model, node, error = kind, "a request failed"),
            false => tracing::debug!(decision = id, model, node, error = kind, "a request failed"),
        });
    }

    fn write_down(&mut self, error: Option<&'static str>) {
        // What was written down first holds.
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let total = self.arrival.at.elapsed();
        let spent = self.arrival.spent();
        let mut outcome = std::mem::take(&mut self.outcome);
        outcome.total_ms = total.as_secs_f64() * 1e3;
        outcome.first_token_ms = self.first_token.map(|first| first.as_secs_f64() * 1e3);
        if spent != EnergyUsage::default() {
            outcome.joules = Some(spent.joules);
            outcome.joules_source = Some(spent.sources);
            outcome.co2_grams = spent.grams;
            outcome.cost = spent.price.map(|price| price.amount);
            outcome.currency = spent.price.map(|price| price.currency);
        }
        let took = RequestStats {
            total,
            error,
            first_token: self.first_token,
            decode: self.decode,
            input_tokens: u64::from(outcome.prompt_tokens.unwrap_or(0)),
            output_tokens: u64::from(outcome.completion_tokens.unwrap_or(0)),
            joules: f64::from(spent.joules.0),
            grams: spent.grams,
            cost: outcome.cost,
        };
        self.count(&outcome, &took, &spent);
        let _ = self.kept.outcome.set(outcome);
    }

    fn count(&self, outcome: &RequestOutcome, took: &RequestStats, spent: &EnergyUsage) {
        let decision = &self.kept.decision;
        let labels = RequestLabels {
            operation: self.arrival.operation,
            requested: self.known.then_some(decision.requested.as_str()),
            model: decision.model.as_ref().map(ModelName::as_str),
            task: decision.task.as_ref().map(TaskName::as_str),
            energy_source: spent.sources.as_str(),
            currency: spent.price.as_ref().map(|price| price.currency.as_str()),
        };
        self.observer.front.ended(labels, took);
        self.observer.traffic.record(&EndedRequest {
            id: &self.id,
            at: self.kept.at,
            decision,
            outcome,
            energy: *spent,
            per_token: took.per_token(),
        });
        let front = &self.observer.front;
        for tier in &decision.tiers {
            front.tier(
                labels.task.unwrap_or_default(),
                tier.model.as_str(),
                tier.verdict.as_str(),
            );
        }
        for hedge in &decision.hedges {
            front.hedged(hedge.won);
        }
        let stage = self.stage();
        if stage.is_recorded() {
            tell(stage, &self.id, &labels, took);
        }
    }
}

/// What a trace tells of a request that has ended.
fn tell(stage: &RequestSpan, id: &str, labels: &RequestLabels<'_>, took: &RequestStats) {
    stage.set(attr::DECISION, id.to_owned());
    if let Some(model) = labels.model {
        stage.set(attr::RESPONSE_MODEL, model.to_owned());
    }
    if let Some(task) = labels.task {
        stage.set(attr::TASK, task.to_owned());
    }
    if let Some(first) = took.first_token {
        stage.set(attr::TIME_TO_FIRST_CHUNK, first.as_secs_f64());
    }
    if took.error.is_none() {
        stage.set(attr::INPUT_TOKENS, took.input_tokens as i64);
        stage.set(attr::OUTPUT_TOKENS, took.output_tokens as i64);
        stage.set(attr::ENERGY, took.joules);
        stage.set(attr::ENERGY_SOURCE, labels.energy_source.to_owned());
    }
}

impl Drop for DecisionRecorder {
    fn drop(&mut self) {
        if !self.ended {
            self.arrival.stage.failed("cancelled");
        }
        self.write_down(Some("cancelled"));
    }
}

pub(crate) fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::Joules;
    use flotilla_core::NodeName;
    use flotilla_core::energy::EnergySource;
    use flotilla_telemetry::Telemetry;

    fn named(requested: &str) -> RoutingDecision {
        RoutingDecision {
            requested: requested.into(),
            ..RoutingDecision::default()
        }
    }

    #[test]
    fn the_last_ones_are_kept_with_what_became_of_them() {
        let decisions = DecisionLog::new("abc", 2, RequestObserver::new(&Telemetry::off().meter()));
        let keep = |requested| {
            let arrival = decisions.inner.observer.arrives("chat", 7, Arc::default());
            decisions.keep(named(requested), arrival)
        };
        let mut first = keep("one");
        let id = first.id().to_owned();
        assert_eq!(DecisionLog::owner(&id), Some("abc"));
        assert_eq!(decisions.get(&id).unwrap().outcome, None);
        first.first_events();
        first.usage(Usage {
            prompt_tokens: 3,
            completion_tokens: 4,
            timing: None,
            energy: None,
        });
        let node = NodeName::new("n").unwrap();
        first.arrival.spends(
            &node,
            None,
            EnergyUsage::new(Joules(0.5), EnergySource::Rapl.into()),
        );
        first.arrival.spends(
            &node,
            None,
            EnergyUsage::new(Joules(1.5), EnergySource::Nvml.into()),
        );
        first.answered();
        let told = decisions.get(&id).unwrap();
        assert_eq!(told.decision.requested, "one");
        let outcome = told.outcome.unwrap();
        assert_eq!(
            (outcome.end, outcome.completion_tokens),
            (OutcomeStatus::Answered, Some(4))
        );
        assert_eq!(outcome.joules, Some(Joules(2.0)));
        assert_eq!(outcome.joules_source.unwrap().as_str(), "rapl+nvml");
        assert!(outcome.first_token_ms.unwrap() <= outcome.total_ms);

        drop(first);
        drop(keep("two"));
        let third = keep("three");
        assert!(decisions.get(&id).is_none(), "its slot was taken");
        for other in ["", "abc", "abc-zz", "abd-0", "abc-999"] {
            assert!(decisions.get(other).is_none(), "{other}");
        }
        let id = third.id().to_owned();
        drop(third);
        let outcome = decisions.get(&id).unwrap().outcome.unwrap();
        assert_eq!(outcome.end, OutcomeStatus::Abandoned);
    }
}
