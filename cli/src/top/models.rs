//! The table of models.

use flotilla_controller::admin::{ModelResource, UsageTotal};

use super::nodes::load;
use super::state::State;
use super::table::{Cell, Column, Key, Tone, fits};
use super::words::{NONE, count, measured, si};

/// A model with what it did.
pub(super) struct Row<'a> {
    pub(super) model: &'a ModelResource,
    /// `None`: nothing yet.
    total: Option<&'a UsageTotal>,
}

/// The models that fit a filter: by name, state, engine, nodes and what they are for.
pub(super) fn rows<'a>(state: &'a State, filter: &str) -> Vec<Row<'a>> {
    let fits = |(name, model): &(&String, &ModelResource)| {
        let own = [name.as_str(), &*model.status.phase];
        let for_what = [model.model.spec.description.as_str()];
        let nodes = model.status.replicas.iter().map(|r| r.node.as_str());
        fits(filter, own.into_iter().chain(for_what).chain(nodes))
    };
    let row = |(name, model)| Row {
        model,
        total: state.totals.get(name),
    };
    state.models.iter().filter(fits).map(row).collect()
}

pub(super) fn columns<'a>() -> Vec<Column<Row<'a>>> {
    vec![
        Column::text("MODEL", 14, |row: &Row<'_>| row.name().into())
            .holds(32)
            .sorted(|row| Key::text(row.name())),
        Column::text("STATE", 8, |row: &Row<'_>| {
            Cell::toned(&row.model.status.phase, row.tone())
        })
        .sorted(|row| Key::Number(row.trouble())),
        Column::number("READY", 7, |row: &Row<'_>| {
            let status = &row.model.status;
            format!("{}/{}", status.ready, status.assigned).into()
        })
        .rank(1)
        .sorted(|row| Key::Number(f64::from(row.model.status.ready))),
        Column::number("LOAD", 7, |row: &Row<'_>| {
            let (active, queued) = row.load();
            load(active, queued)
        })
        .rank(2)
        .sorted(|row| {
            let (active, queued) = row.load();
            Key::Number(f64::from(active + queued))
        }),
        Column::number("WAITING", 8, |row: &Row<'_>| {
            match row.model.status.waiting {
                0 => Cell::toned("0", Tone::Dim),
                waiting => Cell::toned(&waiting.to_string(), Tone::Warn),
            }
        })
        .rank(5)
        .sorted(|row| Key::Number(f64::from(row.model.status.waiting))),
        Column::number("REQUESTS", 9, |row: &Row<'_>| {
            count(row.total.map_or(0, |total| total.requests)).into()
        })
        .rank(3)
        .sorted(|row| Key::Number(row.total.map_or(0.0, |total| total.requests as f64))),
        Column::number("TOKENS", 8, |row: &Row<'_>| {
            count(row.total.map_or(0, |total| total.output_tokens)).into()
        })
        .rank(6)
        .sorted(|row| Key::Number(row.total.map_or(0.0, |total| total.output_tokens as f64))),
        Column::number("J/TOKEN", 9, |row: &Row<'_>| {
            let estimated = row.total.is_some_and(|t| t.energy.estimated_joules > 0.0);
            let joules = row.joules_per_token();
            let text = joules.map_or_else(|| NONE.into(), |joules| si(joules, "J"));
            measured(text, estimated).into()
        })
        .rank(4)
        .sorted(|row| Key::number(row.joules_per_token())),
        Column::text("", 16, Row::note).rank(7).grows(3),
    ]
}

impl Row<'_> {
    pub(super) fn name(&self) -> &str {
        self.model.model.name().as_str()
    }

    fn tone(&self) -> Tone {
        match self.model.status.phase.as_str() {
            "Ready" => Tone::Good,
            "Asleep" => Tone::Dim,
            "Failed" => Tone::Bad,
            _ => Tone::Warn,
        }
    }

    /// Models in trouble come first.
    fn trouble(&self) -> f64 {
        let order = [
            "Failed", "Pending", "Partial", "Fetching", "Updating", "Ready", "Asleep",
        ];
        let phase = self.model.status.phase.as_str();
        let at = order.iter().position(|known| *known == phase);
        at.map_or(-1.0, |at| at as f64)
    }

    fn load(&self) -> (u32, u32) {
        let counters = self.model.status.replicas.iter().map(|r| &r.counters);
        counters.fold((0, 0), |(active, queued), more| {
            (active + more.active, queued + more.queued)
        })
    }

    fn joules_per_token(&self) -> Option<f64> {
        let total = self.total.filter(|total| total.output_tokens > 0)?;
        Some(total.energy.joules / total.output_tokens as f64)
    }

    /// What is wrong, or under way, or what it is for.
    fn note(&self) -> Cell {
        let status = &self.model.status;
        let problem = status.replicas.iter().find(|r| !r.problem.is_empty());
        if let Some(replica) = problem {
            return Cell::toned(&format!("{}: {}", replica.node, replica.problem), Tone::Bad);
        }
        let wrong = [
            &status.fetch,
            &status.rollback_reason,
            &status.unplaced_reason,
        ];
        if let Some(wrong) = wrong.into_iter().flatten().next() {
            return Cell::toned(wrong, Tone::Warn);
        }
        let progress = status.replicas.iter().filter(|r| !r.progress.is_empty());
        let progress: Vec<_> = progress
            .map(|r| format!("{}: {}", r.node, r.progress))
            .collect();
        match progress.is_empty() {
            true => Cell::toned(&self.model.model.spec.description, Tone::Dim),
            false => progress.join(", ").into(),
        }
    }
}
