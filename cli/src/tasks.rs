//! `flotilla tasks`: the examples of tasks.

use flotilla_core::dataset::{ExampleSuggestion, SuggestionReason};
use serde_json::json;

use crate::args::{SuggestArgs, TasksCommand};
use crate::client::{FleetClient, ListResponse, print_notes};
use crate::output;

/// Longest text in a table, in characters.
const MAX_TEXT: usize = 80;

/// Runs a command about the examples of tasks.
pub(crate) async fn run(command: TasksCommand) -> anyhow::Result<()> {
    match command {
        TasksCommand::Suggest(args) => suggest(args).await,
    }
}

async fn suggest(args: SuggestArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let path = ["api", "v1", "tasks", &args.task, "suggestions"];
    let query = format!("limit={}", args.limit);
    let list: ListResponse<ExampleSuggestion> = fleet.get_with_query(&path, &query).await?;
    print_notes(&list.notes);
    let texts: Vec<_> = list.items.iter().map(|s| s.text.as_str()).collect();
    if output::print_serialized(args.output, &json!({ "examples": texts }))? {
        return Ok(());
    }
    if list.items.is_empty() {
        println!(
            "There is nothing to suggest for the task '{}': no prompt was kept that it lacks.",
            args.task
        );
        return Ok(());
    }
    let rows = list.items.iter().map(|suggestion| {
        vec![
            format!("{:.2}", suggestion.confidence),
            reason_text(suggestion, &args.task),
            one_line(&suggestion.text),
        ]
    });
    let header = ["CONFIDENCE", "WHY", "TEXT"];
    print!("{}", output::table(&header, rows));
    Ok(())
}

/// Why an example is suggested for `task`.
fn reason_text(suggestion: &ExampleSuggestion, task: &str) -> String {
    let classified = suggestion.classified.as_ref().map(|name| name.as_str());
    match (suggestion.reason, classified) {
        (SuggestionReason::MarkedAndMissed, Some(other)) if other != task => {
            format!("marked by feedback, classified as {other}")
        }
        (SuggestionReason::MarkedAndMissed, _) => "marked by feedback, unsure".into(),
        (SuggestionReason::LowConfidence, Some(other)) if other != task => {
            format!("kept, classified as {other}")
        }
        (SuggestionReason::LowConfidence, _) => "kept, low confidence".into(),
    }
}

/// The text in one line of bounded length.
fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::TaskName;

    #[test]
    fn reason_says_what_the_classifier_does_instead() {
        let text = |reason, classified: Option<&str>| {
            let suggestion = ExampleSuggestion {
                text: "freeze my card".into(),
                reason,
                confidence: 0.1,
                classified: classified.map(|name| TaskName::new(name).unwrap()),
            };
            reason_text(&suggestion, "banking")
        };
        let (missed, unsure) = (
            SuggestionReason::MarkedAndMissed,
            SuggestionReason::LowConfidence,
        );
        for (reason, classified, expected) in [
            (
                missed,
                Some("travel"),
                "marked by feedback, classified as travel",
            ),
            (missed, Some("banking"), "marked by feedback, unsure"),
            (missed, None, "marked by feedback, unsure"),
            (unsure, Some("travel"), "kept, classified as travel"),
            (unsure, Some("banking"), "kept, low confidence"),
        ] {
            assert_eq!(text(reason, classified), expected);
        }
    }

    #[test]
    fn long_texts_are_cut_to_one_line() {
        assert_eq!(one_line("a\n b"), "a b");
        let long = one_line(&"ä".repeat(200));
        assert_eq!(long.chars().count(), MAX_TEXT + 1);
    }
}
