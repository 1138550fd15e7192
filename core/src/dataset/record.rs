//! A prompt with its answer, as it is kept, exported and moved between controllers.

use serde::{Deserialize, Serialize};

use super::Feedback;
use crate::spec::LearnSource;
use crate::{ModelName, TaskName};

/// One turn of a kept prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetMessage {
    /// Always `user`: instructions and earlier answers are not kept.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

impl DatasetMessage {
    /// Returns a turn of a user.
    #[must_use]
    pub fn user(content: &str) -> Self {
        Self {
            role: "user".into(),
            content: content.to_owned(),
        }
    }
}

/// A prompt with its answer, in the dataset of the task that the request was answered for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetRecord {
    /// The user's turns, the oldest first.
    pub messages: Vec<DatasetMessage>,
    /// The complete answer. `None` where there is none, or where feedback says that it was not good or
    /// belongs to another task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Why the request was kept.
    pub source: LearnSource,
    /// The task that the request was answered for.
    pub task: TaskName,
    /// What a client said about the request. `None` without feedback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<Feedback>,
    /// The model that answered. `None` if the request failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// The confidence of the last smaller model of the cascade in its own answer, 0 to 1. `None` without
    /// a cascade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
    /// The id of the decision record.
    pub decision: String,
    /// When the decision was made, in milliseconds since 1970.
    pub at: u64,
}

impl DatasetRecord {
    /// Returns the record with this feedback. Its answer is removed where the feedback speaks against it,
    /// so that no model is trained on it.
    #[must_use]
    pub fn with_feedback(self, feedback: Feedback) -> Self {
        let is_good = match &feedback {
            Feedback::Task(task) => *task == self.task,
            Feedback::Good(good) => *good,
        };
        Self {
            answer: self.answer.filter(|_| is_good),
            source: LearnSource::Feedback,
            feedback: Some(feedback),
            ..self
        }
    }

    /// Whether feedback says that the request belongs to `task`.
    #[must_use]
    pub fn is_marked_with(&self, task: &TaskName) -> bool {
        matches!(&self.feedback, Some(Feedback::Task(marked)) if marked == task)
    }

    /// Whether the record can be an example of `task`: feedback says so, or the request was answered for the
    /// task and no feedback speaks against that.
    #[must_use]
    pub fn is_candidate_for(&self, task: &TaskName) -> bool {
        match &self.feedback {
            Some(Feedback::Task(marked)) => marked == task,
            Some(Feedback::Good(good)) => *good && self.task == *task,
            None => self.task == *task,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::dataset) fn record(decision: &str, at: u64) -> DatasetRecord {
        DatasetRecord {
            messages: vec![DatasetMessage::user("freeze my card")],
            answer: Some("done".into()),
            source: LearnSource::Escalations,
            task: TaskName::new("banking").unwrap(),
            feedback: None,
            model: Some(ModelName::new("large").unwrap()),
            confidence: Some(0.25),
            decision: decision.into(),
            at,
        }
    }

    #[test]
    fn record_is_one_line_of_json_and_is_read_again() {
        let before = record("c-1", 7).with_feedback(Feedback::Good(true));
        let line = serde_json::to_string(&before).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(
            serde_json::from_str::<DatasetRecord>(&line).unwrap(),
            before
        );
    }

    #[test]
    fn an_answer_that_feedback_speaks_against_is_not_kept() {
        let task = |name: &str| Feedback::Task(TaskName::new(name).unwrap());
        let travel = TaskName::new("travel").unwrap();
        for (feedback, has_answer, fits_banking) in [
            (Feedback::Good(true), true, true),
            (Feedback::Good(false), false, false),
            (task("banking"), true, true),
            (task("travel"), false, false),
        ] {
            let marked = record("c-1", 7).with_feedback(feedback.clone());
            assert_eq!(marked.answer.is_some(), has_answer, "{feedback:?}");
            assert_eq!(marked.source, LearnSource::Feedback);
            let fits = marked.is_candidate_for(&marked.task);
            assert_eq!(fits, fits_banking, "{feedback:?}");
            assert_eq!(marked.is_candidate_for(&travel), feedback == task("travel"));
        }
        assert!(record("c-1", 7).is_candidate_for(&TaskName::new("banking").unwrap()));
    }
}
