//! The table of models.

use flotilla_controller::admin::{ModelResource, UsageTotal};

use super::column::{Cell, Column, SortKey, Tone};
use super::format::{UNKNOWN, count, mark_estimate, si};
use super::nodes::load;
use super::state::LiveState;
use super::table::matches_filter;

/// A model with its usage.
pub(super) struct ModelRow<'a> {
    pub(super) model: &'a ModelResource,
    /// Usage since the controller started. `None`: no requests yet.
    usage: Option<&'a UsageTotal>,
}

/// Returns the models whose name, state, description or nodes match the filter.
pub(super) fn rows<'a>(state: &'a LiveState, filter: &str) -> Vec<ModelRow<'a>> {
    let matches = |(name, model): &(&String, &ModelResource)| {
        let description = model.model.spec.description.as_str();
        let texts = [name.as_str(), &*model.status.phase, description];
        let nodes = model.status.replicas.iter().map(|r| r.node.as_str());
        matches_filter(filter, texts.into_iter().chain(nodes))
    };
    let row = |(name, model)| ModelRow {
        model,
        usage: state.totals.get(name),
    };
    state.models.iter().filter(matches).map(row).collect()
}

pub(super) fn columns<'a>() -> Vec<Column<ModelRow<'a>>> {
    vec![
        Column::text("MODEL", 14, |row: &ModelRow<'_>| row.name().into())
            .max_width(32)
            .sort_by(|row| SortKey::text(row.name())),
        Column::text("STATE", 8, |row: &ModelRow<'_>| {
            Cell::new(&row.model.status.phase, row.tone())
        })
        .sort_by(|row| SortKey::Number(row.severity())),
        Column::number("READY", 7, |row: &ModelRow<'_>| {
            let spec = &row.model.model.spec;
            format!("{}/{}", row.model.status.ready, spec.replicas).into()
        })
        .drop_priority(1)
        .sort_by(|row| SortKey::Number(f64::from(row.model.status.ready))),
        Column::number("LOAD", 7, |row: &ModelRow<'_>| {
            let (active, queued) = row.load();
            load(active, queued)
        })
        .drop_priority(2)
        .sort_by(|row| {
            let (active, queued) = row.load();
            SortKey::Number(f64::from(active + queued))
        }),
        Column::number("PENDING", 8, |row: &ModelRow<'_>| {
            match row.model.status.waiting {
                0 => Cell::new("0", Tone::Dim),
                waiting => Cell::new(&waiting.to_string(), Tone::Warning),
            }
        })
        .drop_priority(5)
        .sort_by(|row| SortKey::Number(f64::from(row.model.status.waiting))),
        Column::number("REQUESTS", 9, |row: &ModelRow<'_>| {
            count(row.usage.map_or(0, |usage| usage.requests)).into()
        })
        .drop_priority(3)
        .sort_by(|row| SortKey::Number(row.usage.map_or(0.0, |usage| usage.requests as f64))),
        Column::number("TOKENS", 8, |row: &ModelRow<'_>| {
            count(row.usage.map_or(0, |usage| usage.output_tokens)).into()
        })
        .drop_priority(6)
        .sort_by(|row| SortKey::Number(row.usage.map_or(0.0, |usage| usage.output_tokens as f64))),
        Column::number("J/TOKEN", 9, |row: &ModelRow<'_>| {
            let estimated = row
                .usage
                .is_some_and(|usage| usage.energy.estimated_joules > 0.0);
            let joules = row.joules_per_token();
            let text = joules.map_or_else(|| UNKNOWN.into(), |joules| si(joules, "J"));
            mark_estimate(text, estimated).into()
        })
        .drop_priority(4)
        .sort_by(|row| SortKey::number(row.joules_per_token())),
        Column::text("NOTE", 16, ModelRow::note)
            .drop_priority(7)
            .grow_weight(3),
    ]
}

impl ModelRow<'_> {
    pub(super) fn name(&self) -> &str {
        self.model.model.name().as_str()
    }

    fn tone(&self) -> Tone {
        match self.model.status.phase.as_str() {
            "Ready" => Tone::Good,
            "Asleep" => Tone::Dim,
            "Failed" => Tone::Bad,
            _ => Tone::Warning,
        }
    }

    /// Returns the sort key of the state: models with problems come first.
    fn severity(&self) -> f64 {
        let order = [
            "Failed", "Pending", "Partial", "Fetching", "Updating", "Ready", "Asleep",
        ];
        let phase = self.model.status.phase.as_str();
        let position = order.iter().position(|listed| *listed == phase);
        position.map_or(-1.0, |position| position as f64)
    }

    /// Returns the numbers of active and of queued requests on all nodes.
    fn load(&self) -> (u32, u32) {
        let counters = self.model.status.replicas.iter().map(|r| &r.counters);
        counters.fold((0, 0), |(active, queued), counters| {
            (active + counters.active, queued + counters.queued)
        })
    }

    fn joules_per_token(&self) -> Option<f64> {
        let usage = self.usage.filter(|usage| usage.output_tokens > 0)?;
        Some(usage.energy.joules / usage.output_tokens as f64)
    }

    /// Returns the first of: a problem, progress, the description.
    fn note(&self) -> Cell {
        let status = &self.model.status;
        if let Some(problem) = status.problem() {
            let is_failing = status.replicas.iter().any(|r| !r.error.is_empty());
            let tone = if is_failing { Tone::Bad } else { Tone::Warning };
            return Cell::new(&problem, tone);
        }
        let progress = status.replicas.iter().filter(|r| !r.progress.is_empty());
        let progress: Vec<_> = progress
            .map(|r| format!("{}: {}", r.node, r.progress))
            .collect();
        match progress.is_empty() {
            true => Cell::new(&self.model.model.spec.description, Tone::Dim),
            false => progress.join(", ").into(),
        }
    }
}
