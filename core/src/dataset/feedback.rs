//! What a client says about an answered request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::TaskName;

/// What a client says about an answered request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "FeedbackFields", into = "FeedbackFields")]
#[schemars(with = "FeedbackFields")]
pub enum Feedback {
    /// The task that the request belongs to.
    Task(TaskName),
    /// Whether the answer was good.
    Good(bool),
}

/// What a client says about an answered request: exactly one of `task` and `good`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Feedback")]
struct FeedbackFields {
    /// The task that the request belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<TaskName>,
    /// Whether the answer was good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    good: Option<bool>,
}

impl TryFrom<FeedbackFields> for Feedback {
    type Error = &'static str;

    fn try_from(fields: FeedbackFields) -> Result<Self, Self::Error> {
        match (fields.task, fields.good) {
            (Some(task), None) => Ok(Self::Task(task)),
            (None, Some(good)) => Ok(Self::Good(good)),
            _ => Err("must have exactly one of: task, good"),
        }
    }
}

impl From<Feedback> for FeedbackFields {
    fn from(feedback: Feedback) -> Self {
        match feedback {
            Feedback::Task(task) => Self {
                task: Some(task),
                good: None,
            },
            Feedback::Good(good) => Self {
                task: None,
                good: Some(good),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feedback_has_exactly_one_field() {
        for text in [r#"{"task":"banking"}"#, r#"{"good":false}"#] {
            let feedback: Feedback = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&feedback).unwrap(), text);
        }
        for text in [
            "{}",
            r#"{"task": "a", "good": true}"#,
            r#"{"task": "No Name"}"#,
            r#"{"better": true}"#,
        ] {
            assert!(serde_json::from_str::<Feedback>(text).is_err(), "{text}");
        }
    }
}
