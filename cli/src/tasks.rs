//! `flotilla tasks`: the examples of tasks.

use std::collections::BTreeMap;

use anyhow::bail;
use flotilla_controller::admin::ClassifierStatus;
use flotilla_core::dataset::{ExampleSuggestion, SuggestionReason};
use flotilla_core::routing::{Classifier, TaskExamples, TrainingSet};
use flotilla_core::spec::{AbstainRule, Resource, RouterSpec};
use serde_json::json;

use crate::args::{CheckArgs, SuggestArgs, TasksCommand};
use crate::client::{FleetClient, ListResponse, print_notes};
use crate::{manifest, output, separation_text};

/// Longest text in a table, in characters.
const MAX_TEXT: usize = 80;

/// Runs a command about the examples of tasks.
pub(crate) async fn run(command: TasksCommand) -> anyhow::Result<()> {
    match command {
        TasksCommand::Check(args) => check(args).await,
        TasksCommand::Suggest(args) => suggest(args).await,
    }
}

/// Reports how well tasks can be distinguished: those in files, without a controller, or those of the fleet.
async fn check(args: CheckArgs) -> anyhow::Result<()> {
    let separation = if args.files.is_empty() {
        let fleet = FleetClient::new(&args.endpoint)?;
        let status: ClassifierStatus = fleet.get(&["api", "v1", "classifier"]).await?;
        status.separation
    } else {
        let resources = manifest::read_all(&args.files)?;
        let (examples, abstain) = training_set(resources.into_iter().map(|read| read.resource));
        Classifier::train(&examples, abstain).map(|classifier| classifier.separation().clone())
    };
    let Some(separation) = separation else {
        bail!("there are no tasks to distinguish");
    };
    if !output::print_serialized(args.output, &separation)? {
        print!("{}", separation_text::report(&separation));
    }
    Ok(())
}

/// What a classifier learns from these resources, and when it abstains. Of two with one name the last one counts.
fn training_set(resources: impl Iterator<Item = Resource>) -> (TrainingSet, AbstainRule) {
    let mut tasks = BTreeMap::new();
    let mut router = RouterSpec::default();
    for resource in resources {
        match resource {
            Resource::Task(task) => {
                tasks.insert(task.name().clone(), TaskExamples::of(&task));
            }
            Resource::Router(applied) => router = applied.spec,
            Resource::Model(_) => {}
        }
    }
    let examples = TrainingSet {
        tasks: tasks.into_values().collect(),
        out_of_scope: router.examples,
    };
    (examples, router.abstain)
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
            output::one_line(&suggestion.text, MAX_TEXT),
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
}
