//! The list of requests that have ended.

use flotilla_controller::admin::RequestSummary;
use flotilla_core::routing::OutcomeStatus;

use super::state::State;
use super::table::{Cell, Column, Key, Tone, fits};
use super::words::{NONE, clock, measured, millis, si};

/// A decision, and how far east of Greenwich its reader is, in seconds.
pub(super) struct Row<'a> {
    pub(super) brief: &'a RequestSummary,
    pub(super) offset: i64,
}

/// The decisions that fit a filter: by what was asked for, task, model, node and end.
pub(super) fn rows<'a>(state: &'a State, filter: &str, offset: i64) -> Vec<Row<'a>> {
    let row = |brief| Row { brief, offset };
    let fits = |row: &Row<'_>| {
        let brief = row.brief;
        let known = [&brief.task, &brief.model, &brief.node, &brief.error];
        let known = known.into_iter().flatten().map(String::as_str);
        let own = [brief.requested.as_str(), brief.id.as_str(), row.end()];
        fits(filter, own.into_iter().chain(known))
    };
    state.decisions.iter().map(row).filter(fits).collect()
}

pub(super) fn columns<'a>() -> Vec<Column<Row<'a>>> {
    vec![
        Column::number("TIME", 8, |row: &Row<'_>| {
            clock(row.brief.at, row.offset).into()
        })
        .sorted(|row| Key::Number(row.brief.at as f64)),
        Column::text("TASK", 12, |row: &Row<'_>| match &row.brief.task {
            Some(task) => task.as_str().into(),
            // Without a task the request named the model itself.
            None => Cell::toned(NONE, Tone::Dim),
        })
        .rank(4)
        .holds(20),
        Column::text("MODEL", 14, |row: &Row<'_>| {
            let model = row.brief.model.as_ref();
            model.unwrap_or(&row.brief.requested).as_str().into()
        })
        .holds(28),
        Column::text("NODE", 8, |row: &Row<'_>| {
            row.brief.node.as_deref().unwrap_or(NONE).into()
        })
        .rank(2)
        .holds(28),
        Column::number("FIRST", 8, |row: &Row<'_>| {
            let first = row.brief.first_token_ms;
            first.map_or_else(|| NONE.into(), millis).into()
        })
        .rank(1)
        .sorted(|row| Key::number(row.brief.first_token_ms)),
        Column::number("TOTAL", 8, |row: &Row<'_>| {
            millis(row.brief.total_ms).into()
        })
        .sorted(|row| Key::Number(row.brief.total_ms)),
        Column::number("ENERGY", 8, |row: &Row<'_>| {
            let source = row.brief.joules_source.as_deref().unwrap_or_default();
            let joules = row.brief.joules;
            let text = joules.map_or_else(|| NONE.into(), |joules| si(joules, "J"));
            measured(text, source.contains("estimate")).into()
        })
        .rank(3)
        .sorted(|row| Key::number(row.brief.joules)),
        Column::text("END", 8, |row: &Row<'_>| {
            let tone = match row.brief.end {
                OutcomeStatus::Answered => Tone::Good,
                OutcomeStatus::Failed => Tone::Bad,
                OutcomeStatus::Abandoned => Tone::Warn,
            };
            Cell::toned(row.end(), tone)
        }),
        Column::text("", 12, Row::note).rank(5).grows(4),
    ]
}

impl Row<'_> {
    fn end(&self) -> &'static str {
        match self.brief.end {
            OutcomeStatus::Answered => "answered",
            OutcomeStatus::Failed => "failed",
            // The client did.
            OutcomeStatus::Abandoned => "left",
        }
    }

    fn note(&self) -> Cell {
        let brief = self.brief;
        let tiers = match brief.tiers {
            0 => None,
            1 => Some("after 1 smaller model".to_owned()),
            tiers => Some(format!("after {tiers} smaller models")),
        };
        let hedged = brief.hedged.then(|| "hedged".to_owned());
        let tone = match brief.error {
            Some(_) => Tone::Bad,
            None => Tone::Plain,
        };
        let notes = [brief.error.clone(), hedged, tiers];
        let notes: Vec<_> = notes.into_iter().flatten().collect();
        Cell::toned(&notes.join(", "), tone)
    }
}
