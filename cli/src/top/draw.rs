//! The screen: what goes where, and how it looks. It is drawn from what is known alone; who is told
//! the same draws the same.

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::state::{Connection, State};
use super::summary::{self, Field};
use super::table::Tone;
use super::view::{Pane, Screen};
use super::words::{clean, duration};
use super::{draw_charts, draw_list};

/// After which time without news it is said how old the last ones are.
const QUIET: Duration = Duration::from_secs(3);
/// Heights from which there are charts, and tall ones.
const CHARTS_FROM: u16 = 20;
const TALL_CHARTS_FROM: u16 = 36;
/// Blanks between two numbers of the header.
const GAP: u16 = 3;

/// How things look, with colours or without.
#[derive(Clone, Copy)]
pub(super) struct Theme {
    color: bool,
}

impl Theme {
    pub(super) fn of(self, tone: Tone) -> Style {
        let colored = |color| match self.color {
            true => Style::new().fg(color),
            false => Style::new(),
        };
        match tone {
            Tone::Plain => Style::new(),
            Tone::Dim => Style::new().add_modifier(Modifier::DIM),
            Tone::Good => colored(Color::Green),
            Tone::Warn => colored(Color::Yellow),
            Tone::Bad => colored(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    pub(super) fn chart(self) -> Style {
        match self.color {
            true => Style::new().fg(Color::Cyan),
            false => Style::new(),
        }
    }
}

pub(super) const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);
pub(super) const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
pub(super) const DIM: Style = Style::new().add_modifier(Modifier::DIM);

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &mut Screen, now: Instant) {
    let theme = Theme {
        color: screen.color,
    };
    let mut left = frame.area();
    let (width, height) = (left.width, left.height);
    if width == 0 || height == 0 {
        return;
    }
    let buffer = frame.buffer_mut();
    title(buffer, cut(&mut left, 1), screen, now, theme);
    if height >= 4
        && let Some((text, tone)) = alert(&screen.live, now)
    {
        put(buffer, cut(&mut left, 1), &text, theme.of(tone), false);
    }
    if screen.state().controller.is_some() {
        let fields = summary::numbers(screen.state());
        let places = flow(&fields, width);
        // Where there is little room the list is worth more than all numbers.
        let lines = places.last().map_or(0, |(_, line, _)| line + 1);
        let area = cut(&mut left, lines.min(height / 4));
        for (x, line, field) in places {
            if line < area.height {
                let at = Rect::new(area.x + x, area.y + line, width - x, 1);
                named(buffer, at, field, theme);
            }
        }
        if height >= CHARTS_FROM {
            let tall = if height >= TALL_CHARTS_FROM { 5 } else { 3 };
            draw_charts::draw(buffer, cut(&mut left, tall), screen.state(), theme);
        }
    }
    if height >= 3 {
        tabs(buffer, cut(&mut left, 1), screen, theme);
    }
    let keys = match height >= 8 {
        true => cut_below(&mut left, 1),
        false => Rect::ZERO,
    };
    draw_list::draw(buffer, left, screen, theme);
    if screen.editing {
        // Where there is no room for the keys the filter is written over the last row.
        let at = if keys.is_empty() {
            cut_below(&mut left, 1)
        } else {
            keys
        };
        edited(buffer, at, &screen.list().filter);
    } else {
        hints(buffer, keys, screen);
    }
}

/// Takes `height` lines off the top of `area`, or what there is.
pub(super) fn cut(area: &mut Rect, height: u16) -> Rect {
    let height = height.min(area.height);
    let top = Rect { height, ..*area };
    area.y += height;
    area.height -= height;
    top
}

fn cut_below(area: &mut Rect, height: u16) -> Rect {
    let height = height.min(area.height);
    area.height -= height;
    let y = area.y + area.height;
    Rect { y, height, ..*area }
}

/// Writes a text of one line, which may come from anyone, and says where it ends. One that is too
/// long ends in `…`.
pub(super) fn put(buffer: &mut Buffer, at: Rect, text: &str, style: Style, right: bool) -> u16 {
    let at = at.intersection(buffer.area);
    if at.is_empty() {
        return at.x;
    }
    let text = clean(text);
    let room = at.width;
    let needed = text.cell_width();
    if needed <= room {
        let x = if right { at.x + room - needed } else { at.x };
        return buffer.set_string_at(x, at.y, &text, needed, style);
    }
    let end = buffer.set_string_at(at.x, at.y, &text, room - 1, style);
    buffer.set_string_at(end, at.y, "…", 1, style)
}

/// What of a buffer is used here: where the text ends matters, not the line.
trait SetAt {
    fn set_string_at(&mut self, x: u16, y: u16, text: &str, most: u16, style: Style) -> u16;
}

impl SetAt for Buffer {
    fn set_string_at(&mut self, x: u16, y: u16, text: &str, most: u16, style: Style) -> u16 {
        self.set_stringn(x, y, text, usize::from(most), style).0
    }
}

/// Moves the left end of a line to `x`.
fn from(at: Rect, x: u16) -> Rect {
    let x = x.min(at.right());
    Rect::new(x, at.y, at.right() - x, at.height)
}

fn named(buffer: &mut Buffer, at: Rect, field: &Field, theme: Theme) -> u16 {
    let end = put(buffer, at, field.name, DIM, false);
    put(
        buffer,
        from(at, end + 1),
        &field.value,
        theme.of(field.tone),
        false,
    )
}

/// Where each field goes: how far from the left, and on which line.
fn flow(fields: &[Field], width: u16) -> Vec<(u16, u16, &Field)> {
    let (mut x, mut line) = (0_u16, 0);
    let mut places = Vec::with_capacity(fields.len());
    for field in fields {
        let needed = field.name.cell_width() + 1 + field.value.as_str().cell_width();
        if x > 0 && x.saturating_add(needed) > width {
            (x, line) = (0, line + 1);
        }
        places.push((x, line, field));
        // Steps of four, so that a digit more does not move all that follow.
        x = x.saturating_add(needed + GAP).next_multiple_of(4);
    }
    places
}

fn title(buffer: &mut Buffer, at: Rect, screen: &Screen, now: Instant, theme: Theme) {
    let (text, tone) = connection(&screen.live, now);
    let needed = text.cell_width().min(at.width);
    let (left, right) = (
        Rect {
            width: at.width.saturating_sub(needed + 2),
            ..at
        },
        from(at, at.right() - needed),
    );
    put(buffer, right, &text, theme.of(tone).patch(STRONG), true);
    let mut end = put(buffer, left, "flotilla top", STRONG, false);
    for (number, field) in summary::who(screen.state()).iter().enumerate() {
        let at = from(left, end + GAP);
        let needed = field.name.cell_width() + 1 + field.value.as_str().cell_width();
        // Half an id is of no use.
        if number > 0 && needed > at.width {
            break;
        }
        end = named(buffer, at, field, theme);
    }
}

/// Whether what is shown is what is.
fn connection(state: &State, now: Instant) -> (String, Tone) {
    let age = state.age(now);
    match (&state.connection, age) {
        (Connection::Connecting, _) => ("connecting".into(), Tone::Warn),
        (Connection::Live, Some(age)) if age >= QUIET => {
            (format!("nothing new for {}", duration(age)), Tone::Warn)
        }
        (Connection::Live, _) => ("live".into(), Tone::Good),
        (Connection::Lost { .. }, Some(age)) => {
            (format!("LOST, data {} old", duration(age)), Tone::Bad)
        }
        (Connection::Lost { .. }, None) => ("NO CONNECTION".into(), Tone::Bad),
    }
}

/// What is wrong with the whole, if anything is.
fn alert(state: &State, now: Instant) -> Option<(String, Tone)> {
    if let Connection::Lost { problem, retry } = &state.connection {
        let again = match retry {
            Some(at) => {
                let wait = at.saturating_duration_since(now) + Duration::from_millis(999);
                format!("next try in {}", duration(wait))
            }
            None => "trying again".into(),
        };
        return Some((format!("{again}: {problem}"), Tone::Bad));
    }
    let notes = (!state.notes.is_empty()).then(|| state.notes.join("; "));
    notes.map(|notes| (format!("note: {notes}"), Tone::Warn))
}

fn tabs(buffer: &mut Buffer, at: Rect, screen: &Screen, theme: Theme) {
    let mut end = at.x;
    for (number, pane) in Pane::ALL.into_iter().enumerate() {
        let name = pane.name();
        let (text, style) = match pane == screen.pane {
            true => (format!("[{} {name}]", number + 1), CHOSEN),
            false => (format!(" {} {name} ", number + 1), Style::new()),
        };
        end = put(buffer, from(at, end), &text, style, false) + 1;
    }
    if screen.held.is_some() {
        let style = theme.of(Tone::Warn).patch(STRONG);
        end = put(buffer, from(at, end + 1), "PAUSED", style, false) + 1;
    }
    let about = draw_list::about(screen);
    put(buffer, from(at, end + 1), &about, DIM, false);
}

fn hints(buffer: &mut Buffer, at: Rect, screen: &Screen) {
    let keys: &[(&str, &str)] = match (&screen.detail, screen.pane) {
        (Some(_), _) => &[("Esc", "back"), ("arrows", "scroll"), ("q", "quit")],
        (None, Pane::Help) => &[("?", "back"), ("q", "quit")],
        (None, _) => &[
            ("q", "quit"),
            ("?", "help"),
            ("Tab", "next"),
            ("/", "filter"),
            ("s", "sort"),
            ("p", "pause"),
            ("Enter", "all about it"),
        ],
    };
    let mut end = at.x;
    for (key, what) in keys {
        end = put(buffer, from(at, end), key, STRONG, false);
        end = put(buffer, from(at, end + 1), what, DIM, false) + 3;
    }
}

/// The filter while it is written, its end in view.
fn edited(buffer: &mut Buffer, at: Rect, filter: &str) {
    buffer.set_style(at, Style::reset());
    let end = put(buffer, at, "filter: ", STRONG, false);
    let room = usize::from(from(at, end).width.saturating_sub(1));
    let skip = filter.chars().count().saturating_sub(room);
    let seen: String = filter.chars().skip(skip).collect();
    let blank = " ".repeat(usize::from(at.right().saturating_sub(end)));
    put(buffer, from(at, end), &blank, Style::new(), false);
    let end = put(buffer, from(at, end), &seen, Style::new(), false);
    put(buffer, from(at, end), " ", CHOSEN, false);
}
