//! The last minutes, side by side.

use flotilla_controller::admin::TrafficPoint;
use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::widgets::{Sparkline, Widget};

use super::draw::{DIM, Theme, cut, put};
use super::series::{Series, columns, step};
use super::state::State;
use super::words::{millis, number, si};

/// What a column of the smallest height is worth against the number that it stands for: charts are
/// drawn of whole numbers.
const SCALE: f64 = 1_000.0;

fn requests(point: &TrafficPoint) -> Option<f64> {
    Some(point.requests as f64)
}

fn first_token(point: &TrafficPoint) -> Option<f64> {
    point.first_token_ms.map(|percentiles| percentiles.p95)
}

const ALL: [Series; 3] = [
    Series {
        title: "requests/s",
        read: requests,
        worst: false,
        text: number,
    },
    Series {
        title: "1st token p95",
        read: first_token,
        worst: true,
        text: millis,
    },
    Series {
        title: "power",
        read: |point| point.watts,
        worst: false,
        text: |watts| si(watts, "W"),
    },
];

/// Draws the charts, each with its highest column in words.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let places = Layout::horizontal([Constraint::Ratio(1, 3); 3]).spacing(2);
    let places: [Rect; 3] = places.areas(area);
    for (series, mut at) in ALL.iter().zip(places) {
        let values = columns(state, series, at.width);
        let highest = values.iter().flatten().copied().reduce(f64::max);
        let highest = match highest {
            Some(highest) => format!("max {}", (series.text)(highest)),
            None => "none".to_owned(),
        };
        let span = u64::from(at.width) * step(at.width) / 60;
        let mut title = format!("{}, {span} min, {highest}", series.title);
        if title.as_str().cell_width() > at.width {
            title = format!("{}, {highest}", series.title);
        }
        put(buffer, cut(&mut at, 1), &title, DIM, false);
        let whole = |value: Option<f64>| value.map(|value| (value * SCALE) as u64);
        Sparkline::default()
            .data(values.into_iter().map(whole))
            // What is not known is no zero.
            .absent_value_symbol(" ")
            .style(theme.chart())
            .render(at, buffer);
    }
}
