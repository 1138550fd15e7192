//! The answer of a cascade's smaller model: held back, and judged by its confidence.

use std::time::Instant;

use flotilla_core::generate::{
    FinishReason, GenerateEvent, GenerateRequest, RequestError, Route, TokenLogprob, Usage,
};
use flotilla_core::routing::{
    AnswerConfidence, CascadeSpec, ConfidenceThreshold, TierOutcome, TierRecord,
};
use flotilla_proto::v1;
use futures::StreamExt;

use crate::answer_stream::AnswerStream;
use crate::plan_execution::PlanExecution;
use crate::{ReplicaView, TaskView};

/// A request to the tiers of a cascade.
pub(crate) struct TierRequest<'a> {
    pub(crate) request: &'a GenerateRequest<Route>,
    /// The message that is sent to replicas.
    pub(crate) message: v1::GenerateRequest,
    pub(crate) task: &'a TaskView,
    pub(crate) cascade: &'a CascadeSpec,
}

/// The answer of a smaller model, held back from the client.
pub(crate) struct HeldAnswer {
    pub(crate) replica: ReplicaView,
    /// The events and the usage. `None` when the answer was abandoned before its end.
    pub(crate) answer: Option<(Vec<GenerateEvent>, Usage)>,
    /// Whether the answer satisfies the cascade.
    pub(crate) kept: bool,
}

/// The part of an answer that was read, and the judgement of it.
struct BufferedAnswer {
    /// The events and the usage. `None` when the answer was abandoned before its end.
    answer: Option<(Vec<GenerateEvent>, Usage)>,
    confidence: Option<f32>,
    outcome: TierOutcome,
}

impl TierRequest<'_> {
    /// Reads and judges the answer of a smaller model, and returns it with its record. With
    /// `larger_ready` a larger model can take over, so that an answer is abandoned as soon as it
    /// cannot become confident enough.
    pub(crate) async fn answer_and_judge(
        &self,
        execution: &mut PlanExecution<'_>,
        larger_ready: bool,
    ) -> (TierRecord, Result<HeldAnswer, RequestError>) {
        let threshold = self.cascade.threshold(&execution.plan.models[0]);
        let began = Instant::now();
        let mut record = TierRecord {
            model: execution.plan.models[0].clone(),
            node: None,
            outcome: TierOutcome::Failed,
            measure: threshold.measure,
            confidence: None,
            threshold: threshold.at_least,
            duration_ms: 0.0,
            completion_tokens: None,
            joules: None,
            joules_source: None,
            error: None,
        };
        let held = self
            .read_and_judge(execution, threshold, larger_ready, &mut record)
            .await;
        record.duration_ms = began.elapsed().as_secs_f64() * 1e3;
        if let Err(error) = &held {
            record.error = Some(error.recorded_text(execution.plan.zones.is_some()));
        }
        (record, held)
    }

    async fn read_and_judge(
        &self,
        execution: &mut PlanExecution<'_>,
        threshold: ConfidenceThreshold,
        larger_ready: bool,
        record: &mut TierRecord,
    ) -> Result<HeldAnswer, RequestError> {
        let mut message = self.message.clone();
        let alternatives = threshold.measure.top_logprobs();
        message.logprobs = Some(message.logprobs.unwrap_or(0).max(alternatives));
        // Only a streamed answer can be abandoned early.
        message.stream = true;
        let (replica, mut stream) = execution.start_answer(&message).await?;
        record.node = Some(replica.node.clone());
        let read = self.read(&mut stream, threshold, larger_ready);
        let limit = execution.answer_limit();
        let read = tokio::time::timeout_at(limit.at.into(), read).await;
        let read = read.unwrap_or_else(|_| Err(limit.error()));
        let read = read.inspect_err(|error| stream.record_failure(error))?;
        record.confidence = read.confidence;
        record.outcome = read.outcome;
        let energy = match &read.answer {
            Some((_, usage)) => {
                record.completion_tokens = Some(usage.completion_tokens);
                stream.record_answer(*usage)
            }
            None => stream.count_energy_so_far(),
        };
        record.joules = Some(energy.joules);
        record.joules_source = Some(energy.sources);
        Ok(HeldAnswer {
            replica,
            answer: read.answer,
            kept: read.outcome == TierOutcome::Accepted,
        })
    }

    /// Reads an answer to its end, or until it cannot become confident enough.
    async fn read(
        &self,
        stream: &mut AnswerStream,
        threshold: ConfidenceThreshold,
        larger_ready: bool,
    ) -> Result<BufferedAnswer, RequestError> {
        let choices = self.request.choices.max(1) as usize;
        let mut confidences = vec![AnswerConfidence::default(); choices];
        let mut texts = vec![String::new(); choices];
        let mut truncated = false;
        let mut events = Vec::new();
        let max_tokens = self.request.sampling.max_tokens;
        while let Some(batch) = stream.next().await {
            for mut event in batch? {
                match &mut event {
                    GenerateEvent::Delta(delta) => {
                        let choice = delta.choice as usize;
                        if let (Some(confidence), Some(text)) =
                            (confidences.get_mut(choice), texts.get_mut(choice))
                        {
                            delta
                                .logprobs
                                .iter()
                                .for_each(|token| confidence.add_token(token));
                            text.push_str(&delta.content);
                        }
                        self.keep_requested_logprobs(&mut delta.logprobs);
                    }
                    GenerateEvent::Finished(end) => {
                        truncated |= end.reason == FinishReason::Length;
                    }
                    GenerateEvent::Computed(_) => {}
                    GenerateEvent::Usage(usage) => {
                        let usage = *usage;
                        events.push(event);
                        let confidence = least_confidence(&confidences, threshold);
                        return Ok(BufferedAnswer {
                            answer: Some((events, usage)),
                            confidence,
                            outcome: self.judge(confidence, &texts, truncated, threshold),
                        });
                    }
                }
                events.push(event);
            }
            let cannot_pass =
                |confidence: &AnswerConfidence| confidence.is_out_of_reach(threshold, max_tokens);
            if larger_ready && confidences.iter().any(cannot_pass) {
                return Ok(BufferedAnswer {
                    answer: None,
                    confidence: least_confidence(&confidences, threshold),
                    outcome: TierOutcome::StoppedEarly,
                });
            }
        }
        Err(RequestError::NodeLost(
            "the answer broke off before its end".into(),
        ))
    }

    /// Removes the log-probabilities that the client did not ask for.
    fn keep_requested_logprobs(&self, logprobs: &mut Vec<TokenLogprob>) {
        match self.request.logprobs {
            None => logprobs.clear(),
            Some(top) => logprobs
                .iter_mut()
                .for_each(|token| token.top.truncate(top as usize)),
        }
    }

    /// Judges a complete answer. The schema does not apply to an answer that was truncated at the most
    /// tokens the client asked for, since it is not complete JSON.
    fn judge(
        &self,
        confidence: Option<f32>,
        texts: &[String],
        truncated: bool,
        threshold: ConfidenceThreshold,
    ) -> TierOutcome {
        let is_valid = |text: &String| match &self.task.schema {
            Some(schema) if !truncated => {
                let value = serde_json::from_str(text);
                value.is_ok_and(|value| schema.is_valid(&value))
            }
            _ => true,
        };
        if !texts.iter().all(is_valid) {
            return TierOutcome::SchemaMismatch;
        }
        if threshold.accepts(confidence) {
            TierOutcome::Accepted
        } else {
            TierOutcome::LowConfidence
        }
    }
}

/// The least confidence of all choices. `None` when that of any choice is unknown.
fn least_confidence(
    confidences: &[AnswerConfidence],
    threshold: ConfidenceThreshold,
) -> Option<f32> {
    let values = confidences
        .iter()
        .map(|confidence| confidence.value(threshold.measure));
    values.reduce(|a, b| Some(a?.min(b?))).flatten()
}
