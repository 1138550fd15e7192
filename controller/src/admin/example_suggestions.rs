//! The examples that the kept prompts of all controllers suggest for a task.

use axum::Json;
use axum::extract::State;
use flotilla_core::TaskName;
use flotilla_core::dataset::{
    DatasetRecord, ExampleSuggestion, SuggestionCandidate, newest_text, suggest_examples,
};
use flotilla_core::routing::Classifier;
use flotilla_gateway::{ApiError, ApiPath, ApiQuery};
use http::HeaderMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::datasets::{DatasetsState, MergedList, merged_records};
use super::errors::not_in_view;
use super::off_thread::off_thread;

/// Number of suggestions unless the query says otherwise.
const DEFAULT_SUGGESTIONS: usize = 20;
/// The most suggestions of one reply.
const MAX_SUGGESTIONS: usize = 1_000;

#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct SuggestionsQuery {
    /// The most suggestions, 1 to 1000. Default: 20.
    limit: Option<usize>,
}

/// `GET /api/v1/tasks/{name}/suggestions`.
pub(super) async fn suggest(
    State(state): State<DatasetsState>,
    ApiPath(name): ApiPath<String>,
    ApiQuery(query): ApiQuery<SuggestionsQuery>,
    headers: HeaderMap,
) -> Result<Json<MergedList<ExampleSuggestion>>, ApiError> {
    let limit = query.limit.unwrap_or(DEFAULT_SUGGESTIONS);
    if !(1..=MAX_SUGGESTIONS).contains(&limit) {
        let problem = format!("'limit' must be between 1 and {MAX_SUGGESTIONS}.");
        return Err(ApiError::invalid(Some("limit".into()), problem));
    }
    let view = state.others.fleet.view();
    let routing = view.routing.clone();
    let Some((task, _)) = routing.tasks.get_key_value(name.as_str()) else {
        return Err(not_in_view(&view, "task", &name));
    };
    let task = task.clone();
    let merged = merged_records(&state, &headers, &task, true).await?;
    let (records, notes) = (merged.items, merged.notes);
    let trained = state.classifier.borrow().clone();
    let suggest = move || {
        let classifier = trained.as_ref().and_then(|t| t.classifier.as_ref());
        let candidates = records.iter();
        let candidates = candidates.filter_map(|record| candidate(record, &task, classifier));
        let of_tasks = routing
            .tasks
            .values()
            .flat_map(|view| &view.task.spec.examples);
        let of_router = routing.router.iter().flat_map(|router| &router.examples);
        let examples = of_tasks.chain(of_router).map(String::as_str);
        suggest_examples(&task, candidates.collect(), examples, limit)
    };
    let items = off_thread(suggest).await?;
    Ok(Json(MergedList { items, notes }))
}

/// The prompt of a record as the classifier sees it. `None` if the record has no prompt.
fn candidate(
    record: &DatasetRecord,
    task: &TaskName,
    classifier: Option<&Classifier>,
) -> Option<SuggestionCandidate> {
    let text = newest_text(&record.messages)?.to_owned();
    let newest_first = record.messages.iter().rev();
    let turns = newest_first.map(|message| message.content.as_str());
    let found = classifier.map(|classifier| classifier.classify(turns, 0));
    Some(SuggestionCandidate {
        text,
        marked: record.is_marked_with(task),
        abstained: found.as_ref().is_some_and(|found| found.abstained),
        probabilities: found.map_or_else(Vec::new, |found| {
            [found.best].into_iter().chain(found.runner_up).collect()
        }),
    })
}
