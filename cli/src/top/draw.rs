//! The layout of the screen: title, numbers, charts, tabs, list and key hints. Equal states draw
//! equal screens.

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::canvas::{
    BOLD, DIM, SELECTED, Theme, from_column, take_bottom, take_top, write_right, write_text,
};
use super::column::Tone;
use super::format::duration;
use super::screen::{Pane, Screen};
use super::state::{ConnectionState, LiveState};
use super::summary::{self, Field};
use super::{draw_charts, draw_list};

/// Age from which the age of the data is shown while the connection is open.
const STALE_AFTER: Duration = Duration::from_secs(3);
/// Minimum heights of the terminal for charts and for tall charts.
const MIN_HEIGHT_FOR_CHARTS: u16 = 20;
const MIN_HEIGHT_FOR_TALL_CHARTS: u16 = 36;
/// Columns between two fields.
const GAP: u16 = 3;

/// Draws the screen as of `now`.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &mut Screen, now: Instant) {
    let theme = Theme {
        use_color: screen.use_color,
    };
    let mut remaining = frame.area();
    let (width, height) = (remaining.width, remaining.height);
    if width == 0 || height == 0 {
        return;
    }
    let buffer = frame.buffer_mut();
    title(buffer, take_top(&mut remaining, 1), screen, now, theme);
    if height >= 4
        && let Some((text, tone)) = alert(&screen.live, now)
    {
        write_text(
            buffer,
            take_top(&mut remaining, 1),
            &text,
            theme.style(tone),
        );
    }
    if screen.state().controller.is_some() {
        let metrics = summary::metrics(screen.state());
        let positions = flow(&metrics, width);
        // On a small terminal the list is more important than all numbers.
        let lines = positions.last().map_or(0, |(_, line, _)| line + 1);
        let area = take_top(&mut remaining, lines.min(height / 4));
        for (x, line, metric) in positions {
            if line < area.height {
                let line = Rect::new(area.x + x, area.y + line, width - x, 1);
                field(buffer, line, metric, theme);
            }
        }
        if height >= MIN_HEIGHT_FOR_CHARTS {
            let is_tall = height >= MIN_HEIGHT_FOR_TALL_CHARTS;
            let area = take_top(&mut remaining, if is_tall { 5 } else { 3 });
            draw_charts::draw(buffer, area, screen.state(), theme);
        }
    }
    if height >= 3 {
        tabs(buffer, take_top(&mut remaining, 1), screen, theme);
    }
    let hints = match height >= 8 {
        true => take_bottom(&mut remaining, 1),
        false => Rect::ZERO,
    };
    draw_list::draw(buffer, remaining, screen, theme);
    if screen.is_editing_filter {
        // Without a line for hints, the filter covers the last row of the list.
        let line = match hints.is_empty() {
            true => take_bottom(&mut remaining, 1),
            false => hints,
        };
        filter_input(buffer, line, &screen.list().filter);
    } else {
        key_hints(buffer, hints, screen);
    }
}

fn field_width(field: &Field) -> u16 {
    field.name.cell_width() + 1 + field.value.as_str().cell_width()
}

/// Draws a field and returns the column after it.
fn field(buffer: &mut Buffer, line: Rect, field: &Field, theme: Theme) -> u16 {
    let end = write_text(buffer, line, field.name, DIM);
    let style = theme.style(field.tone);
    write_text(buffer, from_column(line, end + 1), &field.value, style)
}

/// Returns the column and the line of each field in a flow of `width` columns.
fn flow(fields: &[Field], width: u16) -> Vec<(u16, u16, &Field)> {
    let (mut x, mut line) = (0_u16, 0);
    let mut positions = Vec::with_capacity(fields.len());
    for field in fields {
        let needed = field_width(field);
        if x > 0 && x.saturating_add(needed) > width {
            (x, line) = (0, line + 1);
        }
        positions.push((x, line, field));
        // Fields start at multiples of four, so that an additional digit does not move all later ones.
        x = x.saturating_add(needed + GAP).next_multiple_of(4);
    }
    positions
}

fn title(buffer: &mut Buffer, line: Rect, screen: &Screen, now: Instant, theme: Theme) {
    let (text, tone) = connection_status(&screen.live, now);
    let needed = text.cell_width().min(line.width);
    let left = Rect {
        width: line.width.saturating_sub(needed + 2),
        ..line
    };
    let right = from_column(line, line.right() - needed);
    write_right(buffer, right, &text, theme.style(tone).patch(BOLD));
    let mut end = write_text(buffer, left, "flotilla top", BOLD);
    for (index, identity) in summary::identity(screen.state()).iter().enumerate() {
        let rest = from_column(left, end + GAP);
        // Fields after the first are left out rather than cut off.
        if index > 0 && field_width(identity) > rest.width {
            break;
        }
        end = field(buffer, rest, identity, theme);
    }
}

/// Returns the state of the connection and the age of the data.
fn connection_status(state: &LiveState, now: Instant) -> (String, Tone) {
    let age = state.age(now);
    match (&state.connection, age) {
        (ConnectionState::Connecting, _) => ("connecting".into(), Tone::Warning),
        (ConnectionState::Live, Some(age)) if age >= STALE_AFTER => {
            (format!("no data for {}", duration(age)), Tone::Warning)
        }
        (ConnectionState::Live, _) => ("live".into(), Tone::Good),
        (ConnectionState::Lost { .. }, Some(age)) => {
            (format!("LOST, data {} old", duration(age)), Tone::Bad)
        }
        (ConnectionState::Lost { .. }, None) => ("NO CONNECTION".into(), Tone::Bad),
    }
}

/// Returns the problem of the connection, or the notes of the controller.
fn alert(state: &LiveState, now: Instant) -> Option<(String, Tone)> {
    if let ConnectionState::Lost { problem, retry_at } = &state.connection {
        let retry = match retry_at {
            Some(time) => {
                // Rounds up to whole seconds.
                let pause = time.saturating_duration_since(now) + Duration::from_millis(999);
                format!("reconnecting in {}", duration(pause))
            }
            None => "reconnecting".into(),
        };
        return Some((format!("{retry}: {problem}"), Tone::Bad));
    }
    let notes = (!state.notes.is_empty()).then(|| state.notes.join("; "));
    notes.map(|notes| (format!("note: {notes}"), Tone::Warning))
}

fn tabs(buffer: &mut Buffer, line: Rect, screen: &Screen, theme: Theme) {
    let mut end = line.x;
    for (index, pane) in Pane::ALL.into_iter().enumerate() {
        let (number, name) = (index + 1, pane.name());
        let (text, style) = match pane == screen.pane {
            true => (format!("[{number} {name}]"), SELECTED),
            false => (format!(" {number} {name} "), Style::new()),
        };
        end = write_text(buffer, from_column(line, end), &text, style) + 1;
    }
    if screen.paused.is_some() {
        let style = theme.style(Tone::Warning).patch(BOLD);
        end = write_text(buffer, from_column(line, end + 1), "PAUSED", style) + 1;
    }
    let status = draw_list::list_status(screen);
    write_text(buffer, from_column(line, end + 1), &status, DIM);
}

fn key_hints(buffer: &mut Buffer, line: Rect, screen: &Screen) {
    let hints: &[(&str, &str)] = match (&screen.detail, screen.pane) {
        (Some(_), _) => &[("Esc", "back"), ("arrows", "scroll"), ("q", "quit")],
        (None, Pane::Help) => &[("?", "back"), ("q", "quit")],
        (None, Pane::Nodes | Pane::Models | Pane::Decisions) => &[
            ("q", "quit"),
            ("?", "help"),
            ("Tab", "next"),
            ("/", "filter"),
            ("s", "sort"),
            ("p", "pause"),
            ("Enter", "details"),
        ],
    };
    let mut end = line.x;
    for (key, action) in hints {
        end = write_text(buffer, from_column(line, end), key, BOLD);
        end = write_text(buffer, from_column(line, end + 1), action, DIM) + 3;
    }
}

/// Draws the filter while the user types it. If it does not fit, its end is shown.
fn filter_input(buffer: &mut Buffer, line: Rect, filter: &str) {
    buffer.set_style(line, Style::reset());
    let end = write_text(buffer, line, "filter: ", BOLD);
    let room = usize::from(from_column(line, end).width.saturating_sub(1));
    let hidden = filter.chars().count().saturating_sub(room);
    let visible: String = filter.chars().skip(hidden).collect();
    let blanks = " ".repeat(usize::from(line.right().saturating_sub(end)));
    write_text(buffer, from_column(line, end), &blanks, Style::new());
    let end = write_text(buffer, from_column(line, end), &visible, Style::new());
    write_text(buffer, from_column(line, end), " ", SELECTED);
}
