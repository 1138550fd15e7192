//! Which kept prompts are worth adding to the examples of a task.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::DatasetMessage;
use crate::TaskName;
use crate::normalized_text::normalized;
use crate::routing::TaskProbability;
use crate::spec::MAX_EXAMPLE_BYTES;

/// A kept prompt that may become an example, as the classifier sees it now.
#[derive(Debug, Clone, PartialEq)]
pub struct SuggestionCandidate {
    /// The prompt's newest turn.
    pub text: String,
    /// Whether feedback says that the prompt belongs to the task.
    pub marked: bool,
    /// The tasks that the classifier finds most probable, the best first. Empty while there is no
    /// classifier.
    pub probabilities: Vec<TaskProbability>,
    /// Whether the classifier abstains.
    pub abstained: bool,
}

/// A prompt that is suggested as an example of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExampleSuggestion {
    /// The text of the example.
    pub text: String,
    /// Why it is suggested.
    pub reason: SuggestionReason,
    /// The classifier's confidence that the text belongs to the task, 0 to 1. It is 0 where the task is
    /// neither the most nor the second most probable one.
    pub confidence: f32,
    /// The task that the classifier finds most probable. `None` while there is no classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classified: Option<TaskName>,
}

/// Why a prompt is suggested. The order is that of the suggestions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuggestionReason {
    /// Feedback says that it belongs to the task, but the classifier chooses another one or abstains.
    MarkedAndMissed,
    /// It was answered for the task, and the classifier is less sure of it than of others.
    LowConfidence,
}

/// Returns the prompt's newest turn, which is the text of an example.
#[must_use]
pub fn newest_text(messages: &[DatasetMessage]) -> Option<&str> {
    messages.last().map(|message| message.content.as_str())
}

/// Suggests at most `limit` examples to add to `task`, the most useful first: the prompts that feedback marks
/// with the task and that the classifier misses, then the others; each group by the classifier's
/// confidence, the lowest first. A text that is an example already, or a suggestion before, is left out,
/// whatever its case, spaces and punctuation; so is one that no example may be.
#[must_use]
pub fn suggest_examples<'a>(
    task: &TaskName,
    candidates: Vec<SuggestionCandidate>,
    examples: impl IntoIterator<Item = &'a str>,
    limit: usize,
) -> Vec<ExampleSuggestion> {
    let mut seen: HashSet<String> = examples.into_iter().map(normalized).collect();
    // The normalized form of a text without letters and digits: an example teaches nothing by it.
    seen.insert(String::new());
    let mut suggestions: Vec<_> = candidates
        .into_iter()
        .filter(|candidate| candidate.text.len() <= MAX_EXAMPLE_BYTES)
        .map(|candidate| suggestion(task, candidate))
        .collect();
    suggestions.sort_by(|a, b| {
        let by_confidence = a.confidence.total_cmp(&b.confidence);
        a.reason.cmp(&b.reason).then(by_confidence)
    });
    suggestions.retain(|suggestion| seen.insert(normalized(&suggestion.text)));
    suggestions.truncate(limit);
    suggestions
}

fn suggestion(task: &TaskName, candidate: SuggestionCandidate) -> ExampleSuggestion {
    let best = candidate.probabilities.first().map(|best| &best.task);
    let is_found = best == Some(task) && !candidate.abstained;
    let mut probabilities = candidate.probabilities.iter();
    let of_task = probabilities.find(|probability| probability.task == *task);
    ExampleSuggestion {
        reason: if candidate.marked && !is_found {
            SuggestionReason::MarkedAndMissed
        } else {
            SuggestionReason::LowConfidence
        },
        confidence: of_task.map_or(0.0, |probability| probability.confidence),
        classified: best.cloned(),
        text: candidate.text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(task: &str) -> TaskName {
        TaskName::new(task).unwrap()
    }

    fn candidate(text: &str, marked: bool, best: &str, confidence: f32) -> SuggestionCandidate {
        let other = if best == "banking" {
            "travel"
        } else {
            "banking"
        };
        let probability = |task: &str, confidence| TaskProbability {
            task: name(task),
            confidence,
        };
        SuggestionCandidate {
            text: text.into(),
            marked,
            probabilities: vec![
                probability(best, confidence),
                probability(other, 1.0 - confidence),
            ],
            abstained: confidence < 0.6,
        }
    }

    fn texts(suggestions: &[ExampleSuggestion]) -> Vec<&str> {
        suggestions.iter().map(|s| s.text.as_str()).collect()
    }

    #[test]
    fn prompts_that_are_marked_and_missed_come_first_then_those_with_low_confidence() {
        let candidates = vec![
            candidate("sure", false, "banking", 0.95),
            candidate("less sure", false, "banking", 0.7),
            candidate("marked and found", true, "banking", 0.8),
            candidate("marked and unsure", true, "banking", 0.55),
            candidate("marked and elsewhere", true, "travel", 0.9),
        ];
        let suggestions = suggest_examples(&name("banking"), candidates, [], 10);
        assert_eq!(
            texts(&suggestions),
            [
                "marked and elsewhere",
                "marked and unsure",
                "less sure",
                "marked and found",
                "sure"
            ]
        );
        assert_eq!(suggestions[0].reason, SuggestionReason::MarkedAndMissed);
        assert_eq!(suggestions[0].classified, Some(name("travel")));
        assert!((suggestions[0].confidence - 0.1).abs() < 1e-6);
        assert_eq!(suggestions[2].reason, SuggestionReason::LowConfidence);
    }

    #[test]
    fn duplicates_of_examples_and_of_each_other_are_left_out() {
        let candidates = vec![
            candidate("Freeze  my card!", false, "banking", 0.7),
            candidate("freeze my card", true, "travel", 0.9),
            candidate("What is my balance?", false, "banking", 0.6),
            candidate("?!", true, "travel", 0.9),
            candidate(&"x".repeat(MAX_EXAMPLE_BYTES + 1), true, "travel", 0.9),
        ];
        let suggest = |limit| {
            let examples = ["what is my balance"];
            suggest_examples(&name("banking"), candidates.clone(), examples, limit)
        };
        assert_eq!(texts(&suggest(10)), ["freeze my card"]);
        assert_eq!(texts(&suggest(0)), [] as [&str; 0]);
    }

    #[test]
    fn without_a_classifier_every_marked_prompt_is_missed() {
        let candidates = vec![SuggestionCandidate {
            text: "freeze my card".into(),
            marked: true,
            probabilities: Vec::new(),
            abstained: false,
        }];
        let suggestions = suggest_examples(&name("banking"), candidates, [], 1);
        assert_eq!(suggestions[0].reason, SuggestionReason::MarkedAndMissed);
        assert_eq!(suggestions[0].confidence, 0.0);
        assert_eq!(suggestions[0].classified, None);
    }
}
