//! A small model answers first, a larger one where it is not sure.
//!
//! A smaller model's answer is held back until it is judged, and given up as soon as it cannot become
//! sure enough. The last model's answer goes to the client as it comes.

use std::sync::Arc;
use std::time::Instant;

use flotilla_core::generate::{
    FinishReason, GenerateEvent, GenerateRequest, RequestError, Route, TokenLogprob, Usage,
};
use flotilla_core::routing::{
    AnswerConfidence, CascadeSpec, ConfidenceThreshold, RoutingDecision, TierOutcome, TierRecord,
};
use flotilla_gateway::{BackendAnswer, BackendError, EventStream};
use flotilla_proto::v1;
use futures::{StreamExt, stream};

use super::Dispatcher;
use super::plan::DispatchPlan;
use super::relay::AnswerStream;
use super::tries::{RetryState, passed};
use crate::arrival::RequestContext;
use crate::fleet::{ReplicaView, TaskView};

/// A request as the cascade's tiers get it.
struct TierRequest<'a> {
    request: &'a GenerateRequest<Route>,
    /// The same as it travels.
    wire: v1::GenerateRequest,
    task: &'a TaskView,
    cascade: &'a CascadeSpec,
}

/// An answer that was held back.
struct HeldAnswer {
    replica: ReplicaView,
    /// `None`: it was given up before its end.
    answer: Option<(Vec<GenerateEvent>, Usage)>,
    /// Whether it was sure enough.
    kept: bool,
}

/// Answers by the models of a plan for the task `task`, the smallest first.
pub(super) async fn answer(
    dispatch: &Dispatcher,
    request: &GenerateRequest<Route>,
    wire: v1::GenerateRequest,
    (plan, task, cascade): (&DispatchPlan, &TaskView, &CascadeSpec),
    mut decision: RoutingDecision,
    arrival: Arc<RequestContext>,
) -> Result<BackendAnswer<EventStream>, BackendError> {
    let asked = TierRequest {
        request,
        wire,
        task,
        cascade,
    };
    let last = plan.models.len() - 1;
    // The best of the answers that were not sure enough: that of the largest model.
    let mut second_best: Option<(usize, HeldAnswer)> = None;
    let mut given_up: Option<usize> = None;
    for tier in 0..last {
        let mut tries = RetryState::new(dispatch, plan.tier(tier), decision, arrival.clone());
        let larger = dispatch.can_answer(plan, tier + 1..=last);
        tries.waits = !larger;
        let (told, held) = asked.hold(&mut tries, larger).await;
        tries.decision.tiers.push(told);
        match held {
            Ok(held) if held.kept => return Ok(keep(tries, held)),
            Ok(held) if held.answer.is_some() => second_best = Some((tier, held)),
            Ok(_) => given_up = Some(tier),
            Err(error) if tries.is_over() => return Err(tries.refuse(error)),
            // What the small one refuses a larger one may take: a longer prompt, or that its
            // log-probabilities are asked for.
            Err(_) => {}
        }
        decision = tries.record();
    }
    let mut tries = RetryState::new(dispatch, plan.tier(last), decision, arrival.clone());
    let error = match tries.ask(&asked.wire).await {
        Ok((replica, relay)) => return Ok(dispatch.relay(tries, replica, relay)),
        Err(error) => error,
    };
    // An answer that is not sure is better than none, but not where that is what was asked for.
    let wrong = matches!(error, RequestError::Invalid { .. });
    let forbidden = wrong || tries.is_over() || plan.limits.min_quality.is_some();
    let tier = second_best.as_ref().map(|(tier, _)| *tier).or(given_up);
    let Some(tier) = tier.filter(|_| !forbidden) else {
        return Err(tries.refuse(error));
    };
    let mut tries = RetryState::new(dispatch, plan.tier(tier), tries.record(), arrival);
    let told = tries.decision.tiers.iter_mut();
    for told in told.filter(|told| told.model == plan.models[tier]) {
        told.verdict = TierOutcome::KeptForWantOfBetter;
    }
    if let Some((_, held)) = second_best {
        return Ok(keep(tries, held));
    }
    match tries.ask(&asked.wire).await {
        Ok((replica, relay)) => Ok(dispatch.relay(tries, replica, relay)),
        Err(_) => Err(tries.refuse(error)),
    }
}

/// Gives a held answer to the client.
fn keep(mut tries: RetryState<'_>, held: HeldAnswer) -> BackendAnswer<EventStream> {
    tries.decision.model = Some(tries.plan.models[0].clone());
    tries.decision.node = Some(held.replica.node.clone());
    let (by, mut recorder) = tries.answered(held.replica);
    recorder.first_events();
    let (mut events, usage) = held.answer.unwrap_or_default();
    recorder.usage(usage);
    if let Some(GenerateEvent::Usage(usage)) = events.last_mut() {
        usage.energy = Some(recorder.spent());
    }
    recorder.answered();
    BackendAnswer {
        by,
        content: stream::iter([Ok(events)]).boxed(),
    }
}

impl TierRequest<'_> {
    /// The answer of a smaller model, judged, and what there is to tell of it. It is given up early
    /// only where a `larger` one can take over.
    async fn hold(
        &self,
        tries: &mut RetryState<'_>,
        larger: bool,
    ) -> (TierRecord, Result<HeldAnswer, RequestError>) {
        let accept = self.cascade.accept(&tries.plan.models[0]);
        let asked_at = Instant::now();
        let mut tier = TierRecord {
            model: tries.plan.models[0].clone(),
            node: None,
            verdict: TierOutcome::Failed,
            measure: accept.measure,
            confidence: None,
            threshold: accept.at_least,
            ms: 0.0,
            completion_tokens: None,
            joules: None,
            joules_source: None,
            error: None,
        };
        let held = self.hold_for(tries, accept, larger, &mut tier).await;
        tier.ms = asked_at.elapsed().as_secs_f64() * 1e3;
        if let Err(error) = &held {
            tier.error = Some(error.on_record(tries.plan.zones.is_some()));
        }
        (tier, held)
    }

    async fn hold_for(
        &self,
        tries: &mut RetryState<'_>,
        accept: ConfidenceThreshold,
        larger: bool,
        tier: &mut TierRecord,
    ) -> Result<HeldAnswer, RequestError> {
        let mut wire = self.wire.clone();
        let alternatives = accept.measure.alternatives();
        wire.logprobs = Some(wire.logprobs.unwrap_or(0).max(alternatives));
        // Only what comes piece by piece can be given up early.
        wire.stream = true;
        let (replica, mut relay) = tries.ask(&wire).await?;
        tier.node = Some(replica.node.clone());
        let reading = self.read(&mut relay, accept, larger);
        let read = match tries.time() {
            None => reading.await,
            Some(left) => {
                let read = tokio::time::timeout(left, reading).await;
                read.unwrap_or_else(|_| Err(passed(tries.plan.deadline.unwrap_or_default())))
            }
        };
        let read = read.inspect_err(|error| relay.failed(error))?;
        tier.confidence = read.confidence;
        tier.verdict = read.verdict;
        let spent = match &read.answer {
            Some((_, usage)) => {
                tier.completion_tokens = Some(usage.completion_tokens);
                relay.served(*usage)
            }
            None => relay.given_up(),
        };
        tier.joules = Some(spent.joules);
        tier.joules_source = Some(spent.sources);
        Ok(HeldAnswer {
            replica,
            answer: read.answer,
            kept: read.verdict == TierOutcome::Kept,
        })
    }

    /// Reads an answer to its end, or until it is lost.
    async fn read(
        &self,
        relay: &mut AnswerStream,
        accept: ConfidenceThreshold,
        larger: bool,
    ) -> Result<BufferedAnswer, RequestError> {
        let choices = self.request.choices.max(1) as usize;
        let mut sure = vec![AnswerConfidence::default(); choices];
        let mut texts = vec![String::new(); choices];
        let mut cut = false;
        let mut events = Vec::new();
        let most = self.request.sampling.max_tokens;
        let least = |sure: &[AnswerConfidence]| {
            let values = sure
                .iter()
                .map(|confidence| confidence.value(accept.measure));
            // One choice of which nothing is known leaves all unknown.
            values.reduce(|a, b| Some(a?.min(b?))).flatten()
        };
        while let Some(batch) = relay.next().await {
            for mut event in batch? {
                match &mut event {
                    GenerateEvent::Delta(delta) => {
                        let choice = delta.choice as usize;
                        if let (Some(confidence), Some(text)) =
                            (sure.get_mut(choice), texts.get_mut(choice))
                        {
                            delta
                                .logprobs
                                .iter()
                                .for_each(|token| confidence.take(token));
                            text.push_str(&delta.content);
                        }
                        self.as_asked(&mut delta.logprobs);
                    }
                    GenerateEvent::Finished(end) => cut |= end.reason == FinishReason::Length,
                    GenerateEvent::Usage(usage) => {
                        let usage = *usage;
                        events.push(event);
                        let confidence = least(&sure);
                        let verdict = self.judge(confidence, &texts, cut, accept);
                        return Ok(BufferedAnswer {
                            answer: Some((events, usage)),
                            confidence,
                            verdict,
                        });
                    }
                }
                events.push(event);
            }
            let lost = |confidence: &AnswerConfidence| confidence.is_lost(accept, most);
            if larger && sure.iter().any(lost) {
                return Ok(BufferedAnswer {
                    answer: None,
                    confidence: least(&sure),
                    verdict: TierOutcome::StoppedEarly,
                });
            }
        }
        Err(RequestError::NodeLost(
            "the answer broke off before its end".into(),
        ))
    }

    /// Leaves of log-probabilities what the client asked for.
    fn as_asked(&self, logprobs: &mut Vec<TokenLogprob>) {
        match self.request.logprobs {
            None => logprobs.clear(),
            Some(top) => logprobs
                .iter_mut()
                .for_each(|token| token.top.truncate(top as usize)),
        }
    }

    /// Whether a whole answer is kept. One that was `cut` off at the most tokens that were asked for
    /// is no JSON yet: its form says nothing.
    fn judge(
        &self,
        confidence: Option<f32>,
        texts: &[String],
        cut: bool,
        accept: ConfidenceThreshold,
    ) -> TierOutcome {
        let matches = |text: &String| match &self.task.schema {
            Some(schema) if !cut => {
                let value = serde_json::from_str(text);
                value.is_ok_and(|value| schema.is_valid(&value))
            }
            _ => true,
        };
        if !texts.iter().all(matches) {
            return TierOutcome::Malformed;
        }
        if accept.keeps(confidence) {
            TierOutcome::Kept
        } else {
            TierOutcome::Unsure
        }
    }
}

/// What was read of an answer.
struct BufferedAnswer {
    /// `None`: it was given up.
    answer: Option<(Vec<GenerateEvent>, Usage)>,
    confidence: Option<f32>,
    verdict: TierOutcome,
}
