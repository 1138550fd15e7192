use std::time::Duration;

use flotilla_core::ModelName;
use flotilla_core::admission::{Priority, QueueKey};
use flotilla_core::generate;

use super::ConvertError;
use crate::v1;

fn request() -> generate::GenerateRequest {
    generate::GenerateRequest {
        model: ModelName::new("m").unwrap(),
        input: generate::GenerateInput::Chat(vec![generate::ChatMessage {
            role: "assistant".into(),
            content: "hi".into(),
            name: Some("n".into()),
            tool_calls: vec![generate::ToolCall {
                id: "1".into(),
                name: "f".into(),
                arguments: "{}".into(),
            }],
            tool_call_id: Some("2".into()),
        }]),
        sampling: generate::SamplingParams {
            seed: Some(7),
            stop: Some(vec!["x".into()]),
            logit_bias: [(3, -1.5)].into(),
            ..Default::default()
        },
        tools: vec![generate::Tool {
            name: "f".into(),
            description: None,
            parameters: Some("{}".into()),
            strict: Some(true),
        }],
        tool_choice: generate::ToolChoice::Named("f".into()),
        constraint: Some(generate::OutputConstraint::JsonSchema(
            generate::JsonSchemaFormat {
                schema: "{}".into(),
                ..generate::JsonSchemaFormat::default()
            },
        )),
        parallel_tool_calls: Some(false),
        reasoning_effort: Some("low".into()),
        chat_template_args: Some("{}".into()),
        logprobs: Some(2),
        prompt_logprobs: true,
        choices: 3,
        stream: true,
        upstream: generate::UpstreamFields {
            user: Some("u".into()),
            max_completion_tokens: true,
            extra: Some("{}".into()),
        },
        queue_key: QueueKey {
            priority: Priority::High,
            fairness_key: 9,
        },
        deadline: Some(Duration::from_millis(250)),
    }
}

#[test]
fn request_is_equal_after_a_round_trip() {
    let request = request();
    let received =
        generate::GenerateRequest::try_from(v1::GenerateRequest::from(&request)).unwrap();
    assert_eq!(request, received);
}

#[test]
fn request_without_input_is_an_error() {
    let mut message = v1::GenerateRequest::from(&request());
    message.chat.clear();
    let result = generate::GenerateRequest::try_from(message);
    assert_eq!(result, Err(ConvertError::Missing("chat, text or tokens")));
}

#[test]
fn events_are_equal_after_a_round_trip() {
    for event in [
        generate::GenerateEvent::Delta(generate::ChoiceDelta {
            content: "a".into(),
            ..Default::default()
        }),
        generate::GenerateEvent::Finished(generate::ChoiceFinished {
            choice: 1,
            reason: generate::FinishReason::ToolCalls,
        }),
        generate::GenerateEvent::Usage(generate::Usage::default()),
        generate::GenerateEvent::Computed(Duration::from_micros(1_500)),
    ] {
        let message = v1::GenerateEvent::from(event.clone());
        assert_eq!(generate::GenerateEvent::try_from(message), Ok(event));
    }
}
