//! What an evaluation came to, as people read it.

use flotilla_core::ModelName;
use flotilla_core::quality::Proportion;
use flotilla_core::routing::tradeoff::AnswerSummary;
use serde::Serialize;

use super::calibrate::Calibration;
use super::journal::Judged;
use crate::output;

/// Points of a curve that are printed.
const POINTS: usize = 16;

/// How a model did.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    pub(super) model: ModelName,
    pub(super) revision: String,
    #[serde(flatten)]
    pub(super) measured: Proportion,
    pub(super) quality: f64,
    /// With 95 % confidence.
    pub(super) interval: (f64, f64),
    pub(super) median_ms: f64,
    pub(super) p95_ms: f64,
    /// The mean of an answer.
    pub(super) joules: Option<f32>,
}

impl Summary {
    /// Of at least one answer.
    pub(super) fn new(model: &ModelName, revision: &str, answers: &[&Judged]) -> Self {
        let mut measured = Proportion::default();
        answers
            .iter()
            .for_each(|answer| measured.count(answer.right));
        let mut times: Vec<f64> = answers.iter().map(|answer| answer.ms).collect();
        times.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = (times.len() as f64 * part) as usize;
            times
                .get(place.min(times.len().saturating_sub(1)))
                .copied()
                .unwrap_or(0.0)
        };
        let joules: Vec<f32> = answers.iter().filter_map(|answer| answer.joules).collect();
        Self {
            model: model.clone(),
            revision: revision.to_owned(),
            measured,
            quality: measured.rate(),
            interval: measured.interval(),
            median_ms: at(0.5),
            p95_ms: at(0.95),
            joules: (!joules.is_empty()).then(|| joules.iter().sum::<f32>() / joules.len() as f32),
        }
    }
}

pub(super) fn table(summaries: &[Summary]) -> String {
    let rows = summaries.iter().map(|summary| {
        let (low, high) = summary.interval;
        vec![
            summary.model.to_string(),
            summary.revision.clone(),
            format!("{} of {}", summary.measured.right, summary.measured.total),
            percent(summary.quality),
            format!("{} to {}", percent(low), percent(high)),
            format!("{:.1} ms", summary.median_ms),
            format!("{:.1} ms", summary.p95_ms),
            summary.joules.map(joules).unwrap_or_default(),
        ]
    });
    output::table(
        &[
            "MODEL",
            "REVISION",
            "RIGHT",
            "QUALITY",
            "95 % INTERVAL",
            "MEDIAN",
            "P95",
            "ENERGY",
        ],
        rows,
    )
}

/// What the cascade brings and costs.
pub(super) fn calibration(found: &Calibration) -> String {
    let mut told = String::from("Thresholds of the first model, on all requests:\n");
    let step = found.curve.len().div_ceil(POINTS).max(1);
    let last = found.curve.len().saturating_sub(1);
    let shown = found.curve.iter().enumerate();
    let shown = shown.filter(|(n, _)| n % step == 0 || *n == last);
    let rows = shown.map(|(_, point)| {
        vec![
            format!(
                "{} {:.4}",
                point.accept.measure.as_str(),
                point.accept.at_least
            ),
            percent(point.kept.into()),
            percent(point.quality.into()),
            joules(point.cost),
        ]
    });
    told += &output::table(&["AT LEAST", "KEPT", "QUALITY", "ENERGY"], rows);
    told += &format!(
        "\nChosen for a quality of {}. On requests that they were not chosen by (each half tried with\nwhat the other one chooses):\n",
        percent(found.target.into())
    );
    let row = |name: String, overall: &AnswerSummary, kept: String| {
        vec![
            name,
            kept,
            percent(overall.quality.into()),
            joules(overall.cost),
        ]
    };
    let cascade = row("cascade".into(), &found.cascade, percent(found.kept.into()));
    let alone = found
        .alone
        .iter()
        .map(|(model, overall)| row(format!("{model} alone"), overall, String::new()));
    told += &output::table(
        &["", "KEPT BY THE FIRST", "QUALITY", "ENERGY"],
        std::iter::once(cascade).chain(alone),
    );
    if let Some((largest, overall)) = found.alone.last()
        && overall.cost > 0.0
    {
        let saved = 1.0 - found.cascade.cost / overall.cost;
        let energy = if saved < 0.0 { "costs" } else { "saves" };
        told += &format!(
            "\nAgainst {largest} alone the cascade saves it {} of the requests and {energy} {} of the energy.\n",
            percent(found.kept.into()),
            percent(saved.abs().into())
        );
    }
    told
}

fn percent(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}

fn joules(joules: f32) -> String {
    format!("{joules:.4} J")
}
