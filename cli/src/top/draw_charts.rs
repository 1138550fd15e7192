//! The charts of the last minutes, side by side.

use flotilla_controller::admin::TrafficPoint;
use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::widgets::{Sparkline, Widget};

use super::canvas::{DIM, Theme, take_top, write_text};
use super::chart_series::{Aggregation, ChartSeries, columns, seconds_per_column};
use super::format::{millis, number, si};
use super::state::LiveState;

/// Factor by which values are multiplied before they are rounded: `Sparkline` draws whole numbers.
const SCALE: f64 = 1_000.0;

fn requests(point: &TrafficPoint) -> Option<f64> {
    Some(point.requests as f64)
}

fn first_token_p95(point: &TrafficPoint) -> Option<f64> {
    point.first_token_ms.map(|percentiles| percentiles.p95)
}

const CHARTS: [ChartSeries; 3] = [
    ChartSeries {
        title: "requests/s",
        value: requests,
        aggregation: Aggregation::Mean,
        format: number,
    },
    ChartSeries {
        title: "1st token p95",
        value: first_token_p95,
        aggregation: Aggregation::Max,
        format: millis,
    },
    ChartSeries {
        title: "power",
        value: |point| point.watts,
        aggregation: Aggregation::Mean,
        format: |watts| si(watts, "W"),
    },
];

/// Draws the charts, each with its maximum in the title.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, state: &LiveState, theme: Theme) {
    let areas = Layout::horizontal([Constraint::Ratio(1, 3); 3]).spacing(2);
    let areas: [Rect; 3] = areas.areas(area);
    for (series, mut area) in CHARTS.iter().zip(areas) {
        let values = columns(state, series, area.width);
        let max = values.iter().flatten().copied().reduce(f64::max);
        let max = match max {
            Some(max) => format!("max {}", (series.format)(max)),
            None => "no data".to_owned(),
        };
        let minutes = u64::from(area.width) * seconds_per_column(area.width) / 60;
        let mut title = format!("{}, {minutes} min, {max}", series.title);
        if title.as_str().cell_width() > area.width {
            title = format!("{}, {max}", series.title);
        }
        write_text(buffer, take_top(&mut area, 1), &title, DIM);
        let scaled = |value: Option<f64>| value.map(|value| (value * SCALE) as u64);
        Sparkline::default()
            .data(values.into_iter().map(scaled))
            // An unknown value must not look like a zero.
            .absent_value_symbol(" ")
            .style(theme.chart())
            .render(area, buffer);
    }
}
