//! Writes the results as Markdown tables and as a chart.

use std::fmt::Write as _;
use std::path::Path;

use plotters::prelude::{
    BLACK, ChartBuilder, Color, IntoDrawingArea, LineSeries, RGBColor, SVGBackend,
    SeriesLabelPosition, WHITE,
};

use super::attribution::Errors;
use super::simulate::{DayOutcome, PERIODS};

/// A policy with its results.
pub(crate) struct PolicyResult {
    pub(crate) name: &'static str,
    pub(crate) outcome: DayOutcome,
}

/// The differences of Flotilla's joules per request and p95 from those of a baseline, in percent.
pub(crate) struct RelativeResult {
    pub(crate) joules: f64,
    pub(crate) p95: f64,
}

impl RelativeResult {
    pub(crate) fn new(flotilla: &DayOutcome, baseline: &DayOutcome) -> Self {
        let difference = |value: f64, baseline: f64| 100.0 * (value / baseline - 1.0);
        Self {
            joules: difference(flotilla.joules(), baseline.joules()),
            p95: difference(flotilla.quantile(0.95), baseline.quantile(0.95)),
        }
    }
}

/// Returns the results of all policies as a table.
pub(crate) fn table(rows: &[PolicyResult]) -> String {
    let mut text = String::from(
        "| policy | J per request, above idle | J with idle | p50 s | p95 s | p99 s | on nodes under pressure | rejected |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for PolicyResult { name, outcome } in rows {
        let answers = outcome.answers() as f64;
        let _ = writeln!(
            text,
            "| {name} | {:.1} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} % | {} |",
            outcome.joules(),
            outcome.total_joules / answers,
            outcome.quantile(0.5),
            outcome.quantile(0.95),
            outcome.quantile(0.99),
            100.0 * outcome.under_pressure as f64 / answers,
            outcome.rejected,
        );
    }
    text
}

/// Returns the percentages of answers by kind of node as a table.
pub(crate) fn kinds(rows: &[PolicyResult], names: &[&str]) -> String {
    let mut text = format!("| policy | {} |\n| --- |", names.join(" | "));
    text.push_str(&" ---: |".repeat(names.len()));
    text.push('\n');
    for PolicyResult { name, outcome } in rows {
        let _ = write!(text, "| {name} |");
        for answers in &outcome.by_kind {
            let percent = 100.0 * *answers as f64 / outcome.answers() as f64;
            let _ = write!(text, " {percent:.1} % |");
        }
        text.push('\n');
    }
    text
}

/// Returns the attribution errors as a table.
pub(crate) fn errors(errors: &[(&str, Errors)]) -> String {
    let mut text = String::from(
        "| source | length | requests | mean error of a request | error of the sum |\n\
         | --- | --- | ---: | ---: | ---: |\n",
    );
    for (source, errors) in errors {
        for class in errors.iter().filter(|class| class.requests > 0) {
            let _ = writeln!(
                text,
                "| {source} | {} | {} | {:.1} % | {:+.1} % |",
                class.name,
                class.requests,
                100.0 * class.mean_error(),
                100.0 * class.sum_error(),
            );
        }
    }
    text
}

/// Draws the joules per request and the p95 over the day.
pub(crate) fn chart(path: &Path, rows: &[PolicyResult]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (900, 720)).into_drawing_area();
    root.fill(&WHITE)?;
    let panels = root.split_evenly((2, 1));
    let points = |outcome: &DayOutcome, joules: bool| -> Vec<(f64, f64)> {
        let point = |period: usize| {
            let value = if joules {
                outcome.period_joules[period] / outcome.seconds[period].len().max(1) as f64
            } else {
                outcome.period_quantile(period, 0.95)
            };
            (24.0 * (period as f64 + 0.5) / PERIODS as f64, value)
        };
        (0..PERIODS).map(point).collect()
    };
    let titles = [
        ("Joules per request, above idle", true),
        ("p95 of the whole answer, in seconds", false),
    ];
    let colours = [
        RGBColor(140, 140, 140),
        RGBColor(214, 120, 30),
        RGBColor(120, 80, 170),
        RGBColor(20, 120, 200),
        RGBColor(20, 140, 70),
    ];
    for (panel, (title, joules)) in panels.iter().zip(titles) {
        let lines: Vec<_> = rows
            .iter()
            .map(|row| points(&row.outcome, joules))
            .collect();
        let max = lines
            .iter()
            .flatten()
            .map(|(_, value)| *value)
            .fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(panel)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(32)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..24.0, 0.0..1.5 * max)?;
        chart
            .configure_mesh()
            .x_labels(13)
            .x_desc("hour of the simulated day")
            .light_line_style(WHITE)
            .draw()?;
        for ((line, row), colour) in lines.into_iter().zip(rows).zip(colours) {
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
                .label(row.name)
                .legend(move |(x, y)| {
                    plotters::element::PathElement::new(
                        [(x, y), (x + 16, y)],
                        colour.stroke_width(2),
                    )
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    root.present()?;
    Ok(())
}
