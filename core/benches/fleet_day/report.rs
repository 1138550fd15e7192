//! Writes the results as Markdown tables and as a chart.

use std::fmt::Write as _;
use std::path::Path;

use plotters::prelude::{
    BLACK, ChartBuilder, Color, IntoDrawingArea, LineSeries, RGBColor, SVGBackend,
    SeriesLabelPosition, WHITE,
};

use super::attribution::Errors;
use super::simulate::{DayOutcome, HOURS};

/// A policy with its results.
pub(crate) struct PolicyResult {
    pub(crate) name: &'static str,
    pub(crate) outcome: DayOutcome,
}

/// By how much Flotilla's joules per request and p95 are higher than a baseline's, in percent.
pub(crate) struct RelativeResult {
    pub(crate) joules: f64,
    pub(crate) p95: f64,
}

impl RelativeResult {
    pub(crate) fn new(flotilla: &DayOutcome, other: &DayOutcome) -> Self {
        let more = |here: f64, there: f64| 100.0 * (here / there - 1.0);
        Self {
            joules: more(flotilla.joules(), other.joules()),
            p95: more(flotilla.quantile(0.95), other.quantile(0.95)),
        }
    }
}

/// The results of all policies as a table.
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
            outcome.whole / answers,
            outcome.quantile(0.5),
            outcome.quantile(0.95),
            outcome.quantile(0.99),
            100.0 * outcome.under_pressure as f64 / answers,
            outcome.rejected,
        );
    }
    text
}

/// The share of answers by kind of node, in percent, as a table.
pub(crate) fn kinds(rows: &[PolicyResult], names: &[&str]) -> String {
    let mut text = format!("| policy | {} |\n| --- |", names.join(" | "));
    text.push_str(&" ---: |".repeat(names.len()));
    text.push('\n');
    for PolicyResult { name, outcome } in rows {
        let _ = write!(text, "| {name} |");
        for answers in &outcome.by_kind {
            let part = 100.0 * *answers as f64 / outcome.answers() as f64;
            let _ = write!(text, " {part:.1} % |");
        }
        text.push('\n');
    }
    text
}

/// The attribution errors as a table.
pub(crate) fn errors(errors: &[(&str, Errors)]) -> String {
    let mut text = String::from(
        "| source | requests of | requests | mean error of one | error of their sum |\n\
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
    let of = |outcome: &DayOutcome, joules: bool| -> Vec<(f64, f64)> {
        let hour = |at: usize| {
            let value = if joules {
                outcome.hours[at] / outcome.seconds[at].len().max(1) as f64
            } else {
                outcome.hour_quantile(at, 0.95)
            };
            (24.0 * (at as f64 + 0.5) / HOURS as f64, value)
        };
        (0..HOURS).map(hour).collect()
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
        let lines: Vec<_> = rows.iter().map(|row| of(&row.outcome, joules)).collect();
        let most = lines
            .iter()
            .flatten()
            .map(|(_, value)| *value)
            .fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(panel)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(32)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..24.0, 0.0..1.5 * most)?;
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
