//! Records how one request ends.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{GenerateEvent, RequestError, Usage};
use flotilla_core::routing::{OutcomeStatus, RequestOutcome};
use flotilla_core::spec::LearnSource;
use flotilla_core::{ModelName, TaskName};
use flotilla_telemetry::names::attr;
use flotilla_telemetry::server_metrics::{DropReason, RequestLabels, RequestStats};
use flotilla_telemetry::trace::RequestSpan;

use crate::held_prompts::HeldPrompts;
use crate::kept_answer::{AnswerNotKept, KeptAnswer};
use crate::kept_prompt::is_escalation;
use crate::request_context::RequestContext;
use crate::request_observer::{EndedRequest, RequestObserver};
use crate::stored_decision::{RecordState, StoredDecision};

/// Records how one request ends, exactly once. A success is recorded before the client can read the end
/// of the answer, so that a client that has the answer finds a complete record. Dropping the recorder
/// without an outcome records a cancelled request.
pub(crate) struct DecisionRecorder {
    id: String,
    stored: Arc<StoredDecision>,
    context: Arc<RequestContext>,
    observer: RequestObserver,
    held_prompts: Arc<HeldPrompts>,
    /// The text of the answer. `None` unless the task of the request learns.
    answer: Option<KeptAnswer>,
    outcome: RequestOutcome,
    /// Whether the requested model or task exists. Metrics have no label for others, since clients
    /// could make any number of them.
    known_target: bool,
    /// Time from the arrival to the first events. `None` before them.
    first_token: Option<Duration>,
    /// Time on the node from the first token to the last. `None` unless the node reports it.
    decode: Option<Duration>,
    ended: bool,
}

impl DecisionRecorder {
    /// Creates the recorder of a stored decision. The recorder, not `context`, counts the request's end.
    pub(crate) fn new(
        id: String,
        stored: Arc<StoredDecision>,
        context: Arc<RequestContext>,
        observer: RequestObserver,
        held_prompts: Arc<HeldPrompts>,
    ) -> Self {
        context.hand_to_recorder();
        Self {
            id,
            stored,
            answer: context.kept_prompt().map(|_| KeptAnswer::default()),
            context,
            observer,
            held_prompts,
            outcome: RequestOutcome::default(),
            known_target: true,
            first_token: None,
            decode: None,
            ended: false,
        }
    }

    /// The id of the decision record.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The span of the whole request.
    pub(crate) fn span(&self) -> &RequestSpan {
        &self.context.span
    }

    /// Records that the first events have arrived.
    pub(crate) fn record_first_events(&mut self) {
        self.first_token = Some(self.context.arrived.elapsed());
    }

    /// Records the text of these events, if the task of the request learns.
    pub(crate) fn record_text(&mut self, events: &[GenerateEvent]) {
        if let Some(answer) = &mut self.answer {
            answer.append(events);
        }
    }

    /// Records the tokens and times of the answer.
    pub(crate) fn record_usage(&mut self, usage: Usage) {
        self.outcome.prompt_tokens = Some(usage.prompt_tokens);
        self.outcome.completion_tokens = Some(usage.completion_tokens);
        self.decode = usage.timing.map(|timing| timing.decode);
        let queued = usage.timing.map(|timing| timing.queued);
        self.outcome.queued_ms = queued.map(|queued| queued.as_secs_f64() * 1e3);
    }

    /// Records the node's time from the first token to the last, and derives the time of the first token
    /// from it: an unstreamed answer arrives as a whole with its last token.
    pub(crate) fn record_decode_time(&mut self, decode: Duration) {
        let first = self.context.arrived.elapsed().saturating_sub(decode);
        self.first_token = Some(self.first_token.map_or(first, |earlier| earlier.min(first)));
    }

    /// The energy so far, on all replicas.
    pub(crate) fn energy(&self) -> EnergyUsage {
        self.context.energy()
    }

    /// Records that the answer is complete.
    pub(crate) fn record_success(&mut self) {
        self.outcome.status = OutcomeStatus::Answered;
        self.keep_answer();
        self.finish(None);
    }

    /// Keeps the complete answer, if the task of the request learns from it: in the task's dataset if it is
    /// an escalation or has feedback already, and in memory until feedback comes.
    fn keep_answer(&mut self) {
        let (Some(prompt), Some(answer)) = (self.context.kept_prompt(), self.answer.take()) else {
            return;
        };
        let (decision, learn) = (&self.stored.decision, &prompt.learn);
        let mut state = self.stored.record.lock();
        let feedback = match &*state {
            RecordState::NotKept => None,
            RecordState::Kept(feedback) => feedback.clone(),
            RecordState::Forbidden => return,
        };
        let is_held = learn.learns_from(LearnSource::Feedback);
        let is_escalation = learn.learns_from(LearnSource::Escalations) && is_escalation(decision);
        let is_recorded = is_escalation || feedback.is_some();
        if !is_held && !is_recorded {
            return;
        }
        let answer = match answer.complete() {
            Ok(answer) => answer,
            Err(AnswerNotKept::NoCompleteText) => return,
            Err(AnswerNotKept::TooLarge) => {
                let metrics = &self.observer.metrics;
                return metrics.record_dropped_record(prompt.task.as_str(), DropReason::TooLarge);
            }
        };
        if is_held {
            self.held_prompts.set_answer(self.stored.number, &answer);
        }
        if is_recorded {
            let record = prompt.record(decision, &self.id, self.stored.at, Some(answer));
            let record = match &feedback {
                Some(feedback) => record.with_feedback(feedback.clone()),
                None => record,
            };
            if self.observer.keep_record(record, learn.keep) {
                *state = RecordState::Kept(feedback);
            }
        }
    }

    /// Records that the request failed before or during its answer.
    pub(crate) fn record_failure(&mut self, error: &RequestError) {
        self.known_target = !matches!(
            error,
            RequestError::ModelNotFound(_) | RequestError::TaskNotFound(_)
        );
        self.outcome.status = OutcomeStatus::Failed;
        self.context.span.record_error(error.kind());
        self.log_failure(error.kind(), error.is_replica_fault());
        let held_to_zones = !self.stored.decision.zones.is_empty();
        self.outcome.error = Some(error.recorded_text(held_to_zones));
        self.finish(Some(error.kind()));
    }

    /// Logs the failure, with the ids of the trace: as a warning if the replica is at fault.
    fn log_failure(&self, kind: &'static str, is_replica_fault: bool) {
        let (id, decision) = (self.id.as_str(), &self.stored.decision);
        let model = decision.model.as_ref().map_or("", |model| model.as_str());
        let node = decision.node.as_ref().map_or("", |node| node.as_str());
        self.context.span.in_scope(|| match is_replica_fault {
            true => tracing::warn!(decision = id, model, node, error = kind, "a request failed"),
            false => tracing::debug!(decision = id, model, node, error = kind, "a request failed"),
        });
    }

    /// Stores and counts the outcome. The first call wins.
    fn finish(&mut self, error: Option<&'static str>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let total = self.context.arrived.elapsed();
        let energy = self.context.energy();
        let mut outcome = std::mem::take(&mut self.outcome);
        outcome.total_ms = total.as_secs_f64() * 1e3;
        outcome.first_token_ms = self.first_token.map(|first| first.as_secs_f64() * 1e3);
        if energy != EnergyUsage::default() {
            outcome.joules = Some(energy.joules);
            outcome.joules_source = Some(energy.sources);
            outcome.co2_grams = energy.co2_grams;
            outcome.cost = energy.cost.map(|price| price.amount);
            outcome.currency = energy.cost.map(|price| price.currency);
        }
        let stats = RequestStats {
            duration: total,
            error_type: error,
            time_to_first_token: self.first_token,
            decode_time: self.decode,
            input_tokens: u64::from(outcome.prompt_tokens.unwrap_or(0)),
            output_tokens: u64::from(outcome.completion_tokens.unwrap_or(0)),
            joules: f64::from(energy.joules.0),
            co2_grams: energy.co2_grams,
            cost: outcome.cost,
        };
        self.count(&outcome, &stats, &energy);
        let _ = self.stored.outcome.set(outcome);
    }

    /// Counts the outcome in metrics and traces, and notifies the listener.
    fn count(&self, outcome: &RequestOutcome, stats: &RequestStats, energy: &EnergyUsage) {
        let decision = &self.stored.decision;
        let labels = RequestLabels {
            operation: self.context.operation,
            requested_model: self
                .known_target
                .then_some(decision.requested_model.as_str()),
            model: decision.model.as_ref().map(ModelName::as_str),
            task: decision.task.as_ref().map(TaskName::as_str),
            energy_source: energy.sources.as_str(),
            currency: energy.cost.as_ref().map(|price| price.currency.as_str()),
        };
        let metrics = &self.observer.metrics;
        metrics.record_request(labels, stats);
        self.observer.listener.request_ended(&EndedRequest {
            id: &self.id,
            at: self.stored.at,
            decision,
            outcome,
            energy: *energy,
            time_per_token: stats.time_per_output_token(),
        });
        for tier in &decision.cascade_tiers {
            metrics.record_cascade_answer(
                labels.task.unwrap_or_default(),
                tier.model.as_str(),
                tier.outcome.as_str(),
            );
        }
        for hedge in &decision.hedges {
            metrics.record_hedge(hedge.won);
        }
        if self.span().is_recording() {
            set_span_attributes(self.span(), &self.id, &labels, stats);
        }
    }
}

/// Sets the attributes of a span whose request has ended.
fn set_span_attributes(
    span: &RequestSpan,
    id: &str,
    labels: &RequestLabels<'_>,
    stats: &RequestStats,
) {
    span.set_attribute(attr::DECISION_ID, id.to_owned());
    if let Some(model) = labels.model {
        span.set_attribute(attr::RESPONSE_MODEL, model.to_owned());
    }
    if let Some(task) = labels.task {
        span.set_attribute(attr::TASK, task.to_owned());
    }
    if let Some(first) = stats.time_to_first_token {
        span.set_attribute(attr::TIME_TO_FIRST_CHUNK, first.as_secs_f64());
    }
    if stats.error_type.is_none() {
        span.set_attribute(attr::INPUT_TOKENS, stats.input_tokens as i64);
        span.set_attribute(attr::OUTPUT_TOKENS, stats.output_tokens as i64);
        span.set_attribute(attr::REQUEST_ENERGY, stats.joules);
        span.set_attribute(attr::ENERGY_SOURCE, labels.energy_source.to_owned());
    }
}

impl Drop for DecisionRecorder {
    fn drop(&mut self) {
        if !self.ended {
            self.context.span.record_error("cancelled");
        }
        self.finish(Some("cancelled"));
    }
}
