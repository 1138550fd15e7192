//! What is kept of a request whose task learns: the prompt, and the record that is made of it.

use flotilla_core::TaskName;
use flotilla_core::dataset::{DatasetMessage, DatasetRecord};
use flotilla_core::generate::GenerateInput;
use flotilla_core::routing::{RoutingDecision, TierOutcome};
use flotilla_core::spec::{LearnSource, LearnSpec};

use crate::plan::DispatchPlan;

/// Largest prompt that is kept, in bytes.
pub(crate) const MAX_PROMPT_BYTES: usize = 32 << 10;
/// What a message takes besides its text, in bytes.
const MESSAGE_BYTES: usize = 64;

/// The prompt of a request whose task learns from its requests.
#[derive(Debug)]
pub(crate) struct KeptPrompt {
    pub(crate) task: TaskName,
    pub(crate) learn: LearnSpec,
    messages: Vec<DatasetMessage>,
}

/// The error of a prompt that is longer than [`MAX_PROMPT_BYTES`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PromptTooLarge;

impl KeptPrompt {
    /// Returns the prompt of a request, `None` unless its task learns and the request is held to no privacy
    /// zone.
    ///
    /// # Errors
    /// When the prompt is too large.
    pub(crate) fn of_request(
        plan: &DispatchPlan,
        input: &GenerateInput,
    ) -> Result<Option<Self>, PromptTooLarge> {
        let task = plan.task.as_ref().filter(|_| plan.zones.is_none());
        let Some((task, learn)) = task.and_then(|view| {
            let learn = view.task.spec.learn.clone()?;
            Some((view.task.name().clone(), learn))
        }) else {
            return Ok(None);
        };
        let texts: Vec<&str> = match input {
            GenerateInput::Text(text) => vec![text],
            GenerateInput::Chat(messages) => {
                let of_user = messages.iter().filter(|message| message.role == "user");
                of_user.map(|message| message.content.as_str()).collect()
            }
            // Without the model's vocabulary there is no text to keep.
            GenerateInput::Tokens(_) => Vec::new(),
        };
        if texts.iter().all(|text| text.trim().is_empty()) {
            return Ok(None);
        }
        if texts.iter().map(|text| size(text)).sum::<usize>() > MAX_PROMPT_BYTES {
            return Err(PromptTooLarge);
        }
        let messages = texts.into_iter().map(DatasetMessage::user).collect();
        Ok(Some(Self {
            task,
            learn,
            messages,
        }))
    }

    /// The memory that the prompt takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.messages.iter().map(|m| size(&m.content)).sum()
    }

    /// Returns the record of the decision with this id, which was made at `at`, in milliseconds since 1970.
    pub(crate) fn record(
        &self,
        decision: &RoutingDecision,
        id: &str,
        at: u64,
        answer: Option<String>,
    ) -> DatasetRecord {
        let tiers = decision.cascade_tiers.iter().rev();
        DatasetRecord {
            messages: self.messages.clone(),
            answer,
            source: LearnSource::Escalations,
            task: self.task.clone(),
            feedback: None,
            model: decision.model.clone(),
            confidence: tiers.filter_map(|tier| tier.confidence).next(),
            decision: id.to_owned(),
            at,
        }
    }
}

fn size(text: &str) -> usize {
    text.len() + MESSAGE_BYTES
}

/// Whether a larger model of a cascade answered because a smaller one's answer did not satisfy it. A smaller
/// model that could not answer at all teaches nothing.
pub(crate) fn is_escalation(decision: &RoutingDecision) -> bool {
    let has = |outcomes: &[TierOutcome]| {
        let mut tiers = decision.cascade_tiers.iter();
        tiers.any(|tier| outcomes.contains(&tier.outcome))
    };
    has(&[
        TierOutcome::LowConfidence,
        TierOutcome::StoppedEarly,
        TierOutcome::SchemaMismatch,
    ]) && !has(&[TierOutcome::AcceptedAsFallback])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flotilla_core::ModelName;
    use flotilla_core::routing::{ConfidenceMeasure, TierRecord};

    pub(crate) fn prompt(task: &str, text: &str) -> KeptPrompt {
        KeptPrompt {
            task: TaskName::new(task).unwrap(),
            learn: LearnSpec {
                from: [LearnSource::Feedback].into_iter().collect(),
                keep: 10,
            },
            messages: vec![DatasetMessage::user(text)],
        }
    }

    fn decision(outcomes: &[TierOutcome]) -> RoutingDecision {
        let tiers = outcomes.iter().map(|outcome| TierRecord {
            model: ModelName::new("small").unwrap(),
            node: None,
            outcome: *outcome,
            measure: ConfidenceMeasure::default(),
            confidence: None,
            threshold: 0.5,
            duration_ms: 1.0,
            completion_tokens: None,
            joules: None,
            joules_source: None,
            error: None,
        });
        RoutingDecision {
            cascade_tiers: tiers.collect(),
            ..RoutingDecision::default()
        }
    }

    #[test]
    fn escalation_is_an_answer_of_a_model_larger_than_one_that_was_not_sure() {
        use TierOutcome::{
            Accepted, AcceptedAsFallback, Failed, LowConfidence, SchemaMismatch, StoppedEarly,
        };
        for (outcomes, expected) in [
            (&[][..], false),
            (&[Accepted], false),
            (&[LowConfidence], true),
            (&[StoppedEarly], true),
            (&[SchemaMismatch], true),
            (&[LowConfidence, Accepted], true),
            (&[Failed], false),
            (&[Failed, Accepted], false),
            (&[AcceptedAsFallback], false),
            (&[LowConfidence, AcceptedAsFallback], false),
        ] {
            assert_eq!(is_escalation(&decision(outcomes)), expected, "{outcomes:?}");
        }
    }
}
