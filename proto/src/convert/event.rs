//! The events of an answer.

use std::time::Duration;

use flotilla_core::generate;

use super::ConvertError;
use super::energy::{energy_message, parse_energy};
use super::same_fields::same_fields;
use crate::v1;

same_fields!(ChoiceDelta { choice, content, reasoning, refusal } each { tool_calls, logprobs, prompt_logprobs });
same_fields!(ToolCallDelta {
    index,
    id,
    name,
    arguments
});
same_fields!(TokenLogprob { token, logprob, bytes } each { top });
same_fields!(TopLogprob {
    token,
    logprob,
    bytes
});

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl From<generate::Usage> for v1::Usage {
    fn from(usage: generate::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            timing: usage.timing.map(|timing| v1::AnswerTiming {
                queued_us: micros(timing.queued),
                prefill_us: micros(timing.prefill),
                decode_us: micros(timing.decode),
            }),
            energy: usage.energy.map(energy_message),
        }
    }
}

impl From<v1::Usage> for generate::Usage {
    fn from(usage: v1::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            timing: usage.timing.map(|timing| generate::AnswerTiming {
                queued: Duration::from_micros(timing.queued_us),
                prefill: Duration::from_micros(timing.prefill_us),
                decode: Duration::from_micros(timing.decode_us),
            }),
            energy: usage.energy.and_then(parse_energy),
        }
    }
}

impl From<generate::GenerateEvent> for v1::GenerateEvent {
    fn from(event: generate::GenerateEvent) -> Self {
        use v1::generate_event::Event;
        let event = match event {
            generate::GenerateEvent::Delta(delta) => Event::Delta(delta.into()),
            generate::GenerateEvent::Finished(finished) => Event::Finished(v1::ChoiceFinished {
                choice: finished.choice,
                reason: match finished.reason {
                    generate::FinishReason::Stop => v1::FinishReason::Stop,
                    generate::FinishReason::Length => v1::FinishReason::Length,
                    generate::FinishReason::ToolCalls => v1::FinishReason::ToolCalls,
                    generate::FinishReason::ContentFilter => v1::FinishReason::ContentFilter,
                }
                .into(),
            }),
            generate::GenerateEvent::Usage(usage) => Event::Usage(usage.into()),
            generate::GenerateEvent::Computed(time) => Event::ComputedUs(micros(time)),
        };
        Self { event: Some(event) }
    }
}

impl TryFrom<v1::GenerateEvent> for generate::GenerateEvent {
    type Error = ConvertError;

    fn try_from(event: v1::GenerateEvent) -> Result<Self, ConvertError> {
        use v1::generate_event::Event;
        Ok(match event.event.ok_or(ConvertError::Missing("event"))? {
            Event::Delta(delta) => Self::Delta(delta.into()),
            Event::Finished(finished) => Self::Finished(generate::ChoiceFinished {
                choice: finished.choice,
                reason: match finished.reason() {
                    v1::FinishReason::Stop => generate::FinishReason::Stop,
                    v1::FinishReason::Length => generate::FinishReason::Length,
                    v1::FinishReason::ToolCalls => generate::FinishReason::ToolCalls,
                    v1::FinishReason::ContentFilter => generate::FinishReason::ContentFilter,
                },
            }),
            Event::Usage(usage) => Self::Usage(usage.into()),
            Event::ComputedUs(micros) => Self::Computed(Duration::from_micros(micros)),
        })
    }
}
