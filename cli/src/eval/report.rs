//! The results of an evaluation as text for people.

use flotilla_core::ModelName;
use flotilla_core::quality::Proportion;
use flotilla_core::routing::threshold_tradeoff::AnswerSummary;
use serde::Serialize;

use super::calibrate::Calibration;
use super::journal::GradedAnswer;
use crate::output;

/// Maximum number of points of a curve that are printed, apart from the last.
const MAX_POINTS: usize = 16;

/// The measurements of one model.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ModelSummary {
    pub(super) model: ModelName,
    pub(super) revision: String,
    #[serde(flatten)]
    pub(super) measured: Proportion,
    pub(super) quality: f64,
    /// 95 % confidence interval of the quality.
    pub(super) interval: (f64, f64),
    pub(super) median_ms: f64,
    pub(super) p95_ms: f64,
    /// Mean energy of an answer. `None`: unknown.
    pub(super) joules: Option<f32>,
}

impl ModelSummary {
    /// Summarizes the answers of a model.
    pub(super) fn new(model: &ModelName, revision: &str, answers: &[&GradedAnswer]) -> Self {
        let mut measured = Proportion::default();
        answers
            .iter()
            .for_each(|answer| measured.record(answer.correct));
        let mut latencies: Vec<f64> = answers.iter().map(|answer| answer.latency_ms).collect();
        latencies.sort_by(f64::total_cmp);
        let quantile = |fraction: f64| {
            let rank = (latencies.len() as f64 * fraction) as usize;
            latencies
                .get(rank.min(latencies.len().saturating_sub(1)))
                .copied()
                .unwrap_or(0.0)
        };
        let joules: Vec<f32> = answers.iter().filter_map(|answer| answer.joules).collect();
        Self {
            model: model.clone(),
            revision: revision.to_owned(),
            measured,
            quality: measured.rate(),
            interval: measured.confidence_interval(),
            median_ms: quantile(0.5),
            p95_ms: quantile(0.95),
            joules: (!joules.is_empty()).then(|| joules.iter().sum::<f32>() / joules.len() as f32),
        }
    }
}

/// Returns the table of all evaluated models.
pub(super) fn table(summaries: &[ModelSummary]) -> String {
    let rows = summaries.iter().map(|summary| {
        let (low, high) = summary.interval;
        vec![
            summary.model.to_string(),
            summary.revision.clone(),
            format!("{} of {}", summary.measured.correct, summary.measured.total),
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
            "CORRECT",
            "QUALITY",
            "95 % INTERVAL",
            "MEDIAN",
            "P95",
            "ENERGY",
        ],
        rows,
    )
}

/// Returns the results of a calibration: the points of the first model's curve, then the quality and
/// the energy of the cascade and of each model alone.
pub(super) fn calibration(calibration: &Calibration) -> String {
    let mut text = String::from("Thresholds of the first model, on all requests:\n");
    let step = calibration.curve.len().div_ceil(MAX_POINTS).max(1);
    let last = calibration.curve.len().saturating_sub(1);
    let points = calibration.curve.iter().enumerate();
    let points = points.filter(|(n, _)| n % step == 0 || *n == last);
    let rows = points.map(|(_, point)| {
        vec![
            format!(
                "{} {:.4}",
                point.threshold.measure.as_str(),
                point.threshold.at_least
            ),
            percent(point.accepted.into()),
            percent(point.quality.into()),
            joules(point.cost),
        ]
    });
    text += &output::table(&["THRESHOLD", "KEPT", "QUALITY", "ENERGY"], rows);
    text += &format!(
        "\nTarget quality: {}. Cross-validated (each half of the requests is measured with thresholds from\nthe other half):\n",
        percent(calibration.target_quality.into())
    );
    let row = |name: String, overall: &AnswerSummary, kept: String| {
        vec![
            name,
            kept,
            percent(overall.quality.into()),
            joules(overall.cost),
        ]
    };
    let cascade = row(
        "cascade".into(),
        &calibration.cascade,
        percent(calibration.kept_fraction.into()),
    );
    let alone = calibration
        .alone
        .iter()
        .map(|(model, overall)| row(format!("{model} alone"), overall, String::new()));
    text += &output::table(
        &["MODELS", "KEPT BY THE FIRST", "QUALITY", "ENERGY"],
        std::iter::once(cascade).chain(alone),
    );
    if let Some((largest, overall)) = calibration.alone.last()
        && overall.cost > 0.0
    {
        let saved = 1.0 - calibration.cascade.cost / overall.cost;
        let energy = if saved < 0.0 {
            "costs an extra"
        } else {
            "saves"
        };
        text += &format!(
            "\nCompared with {largest} alone, the cascade keeps {} of the requests away from it and {energy} {} of the energy.\n",
            percent(calibration.kept_fraction.into()),
            percent(saved.abs().into())
        );
    }
    text
}

fn percent(fraction: f64) -> String {
    format!("{:.2} %", fraction * 100.0)
}

fn joules(joules: f32) -> String {
    format!("{joules:.4} J")
}
