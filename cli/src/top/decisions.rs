//! The table of completed requests with their routing decisions.

use flotilla_controller::admin::RequestSummary;
use flotilla_core::routing::OutcomeStatus;
use jiff::tz::TimeZone;

use super::column::{Cell, Column, SortKey, Tone};
use super::format::{UNKNOWN, mark_estimate, millis, si, time_of_day};
use super::state::LiveState;
use super::table::matches_filter;

/// A completed request.
pub(super) struct DecisionRow<'a> {
    pub(super) request: &'a RequestSummary,
    /// Time zone of the reader.
    time_zone: &'a TimeZone,
}

/// Returns the requests whose requested model, task, model, node, id, outcome or error match the
/// filter.
pub(super) fn rows<'a>(
    state: &'a LiveState,
    filter: &str,
    time_zone: &'a TimeZone,
) -> Vec<DecisionRow<'a>> {
    let row = |request| DecisionRow { request, time_zone };
    let matches = |row: &DecisionRow<'_>| {
        let request = row.request;
        let optional = [&request.task, &request.model, &request.node, &request.error];
        let optional = optional.into_iter().flatten().map(String::as_str);
        let required = [
            request.requested_model.as_str(),
            request.id.as_str(),
            row.outcome(),
        ];
        matches_filter(filter, required.into_iter().chain(optional))
    };
    state.decisions.iter().map(row).filter(matches).collect()
}

pub(super) fn columns<'a>() -> Vec<Column<DecisionRow<'a>>> {
    vec![
        Column::number("TIME", 8, |row: &DecisionRow<'_>| {
            time_of_day(row.request.at, row.time_zone).into()
        })
        .sort_by(|row| SortKey::Number(row.request.at as f64)),
        Column::text("TASK", 12, |row: &DecisionRow<'_>| {
            match &row.request.task {
                Some(task) => task.as_str().into(),
                // The request named a model, not a task.
                None => UNKNOWN.into(),
            }
        })
        .drop_priority(4)
        .max_width(20),
        Column::text("MODEL", 14, |row: &DecisionRow<'_>| {
            let model = row.request.model.as_ref();
            model
                .unwrap_or(&row.request.requested_model)
                .as_str()
                .into()
        })
        .max_width(28),
        Column::text("NODE", 8, |row: &DecisionRow<'_>| {
            row.request.node.as_deref().unwrap_or(UNKNOWN).into()
        })
        .drop_priority(2)
        .max_width(28),
        Column::number("TTFT", 8, |row: &DecisionRow<'_>| {
            let first_token_ms = row.request.first_token_ms;
            first_token_ms.map_or_else(|| UNKNOWN.into(), millis).into()
        })
        .drop_priority(1)
        .sort_by(|row| SortKey::number(row.request.first_token_ms)),
        Column::number("TOTAL", 8, |row: &DecisionRow<'_>| {
            millis(row.request.total_ms).into()
        })
        .sort_by(|row| SortKey::Number(row.request.total_ms)),
        Column::number("ENERGY", 8, |row: &DecisionRow<'_>| {
            let source = row.request.joules_source.as_deref().unwrap_or_default();
            let joules = row.request.joules;
            let text = joules.map_or_else(|| UNKNOWN.into(), |joules| si(joules, "J"));
            mark_estimate(text, source.contains("estimate")).into()
        })
        .drop_priority(3)
        .sort_by(|row| SortKey::number(row.request.joules)),
        Column::text("OUTCOME", 9, |row: &DecisionRow<'_>| {
            let tone = match row.request.status {
                OutcomeStatus::Answered => Tone::Good,
                OutcomeStatus::Failed => Tone::Bad,
                OutcomeStatus::Cancelled => Tone::Warning,
            };
            Cell::new(row.outcome(), tone)
        }),
        Column::text("NOTE", 12, DecisionRow::note)
            .drop_priority(5)
            .grow_weight(4),
    ]
}

impl DecisionRow<'_> {
    fn outcome(&self) -> &'static str {
        match self.request.status {
            OutcomeStatus::Answered => "answered",
            OutcomeStatus::Failed => "failed",
            OutcomeStatus::Cancelled => "cancelled",
        }
    }

    /// Returns the error, and whether the request was hedged or passed on by smaller models.
    fn note(&self) -> Cell {
        let request = self.request;
        let cascade = match request.cascade_tiers {
            0 => None,
            1 => Some("via 1 smaller model".to_owned()),
            tiers => Some(format!("via {tiers} smaller models")),
        };
        let hedged = request.hedged.then(|| "hedged".to_owned());
        let tone = match request.error {
            Some(_) => Tone::Bad,
            None => Tone::Plain,
        };
        let notes = [request.error.clone(), hedged, cascade];
        let notes: Vec<_> = notes.into_iter().flatten().collect();
        Cell::new(&notes.join(", "), tone)
    }
}
