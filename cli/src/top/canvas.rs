//! Styles, areas and text on the terminal's buffer: what all drawing modules share.

use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::column::Tone;
use super::format::sanitize;

/// The mapping of tones to styles, with or without colors.
#[derive(Clone, Copy)]
pub(super) struct Theme {
    pub(super) use_color: bool,
}

impl Theme {
    /// Returns the style of a tone.
    pub(super) fn style(self, tone: Tone) -> Style {
        match tone {
            Tone::Plain => Style::new(),
            Tone::Dim => DIM,
            Tone::Good => self.foreground(Color::Green),
            Tone::Warning => self.foreground(Color::Yellow),
            Tone::Bad => self.foreground(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    /// Returns the style of charts.
    pub(super) fn chart(self) -> Style {
        self.foreground(Color::Cyan)
    }

    fn foreground(self, color: Color) -> Style {
        match self.use_color {
            true => Style::new().fg(color),
            false => Style::new(),
        }
    }
}

pub(super) const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);
pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
pub(super) const DIM: Style = Style::new().add_modifier(Modifier::DIM);

/// Removes up to `height` lines from the top of `area` and returns them.
pub(super) fn take_top(area: &mut Rect, height: u16) -> Rect {
    let height = height.min(area.height);
    let top = Rect { height, ..*area };
    area.y += height;
    area.height -= height;
    top
}

/// Removes up to `height` lines from the bottom of `area` and returns them.
pub(super) fn take_bottom(area: &mut Rect, height: u16) -> Rect {
    let height = height.min(area.height);
    area.height -= height;
    let y = area.y + area.height;
    Rect { y, height, ..*area }
}

/// Returns the part of `area` from column `x` to its right edge.
pub(super) fn from_column(area: Rect, x: u16) -> Rect {
    let x = x.min(area.right());
    Rect::new(x, area.y, area.right() - x, area.height)
}

/// Writes a left-aligned line of untrusted text and returns the column after it. A text that does
/// not fit ends in `…`.
pub(super) fn write_text(buffer: &mut Buffer, area: Rect, text: &str, style: Style) -> u16 {
    let area = area.intersection(buffer.area);
    if area.is_empty() {
        return area.x;
    }
    let text = sanitize(text);
    let width = text.cell_width();
    if width <= area.width {
        return write_cells(buffer, (area.x, area.y), &text, width, style);
    }
    let end = write_cells(buffer, (area.x, area.y), &text, area.width - 1, style);
    write_cells(buffer, (end, area.y), "…", 1, style)
}

/// Writes a right-aligned line of untrusted text. A text that does not fit ends in `…`.
pub(super) fn write_right(buffer: &mut Buffer, area: Rect, text: &str, style: Style) {
    let area = area.intersection(buffer.area);
    let width = sanitize(text).cell_width();
    let x = area.x + area.width.saturating_sub(width);
    write_text(buffer, from_column(area, x), text, style);
}

/// Writes at most `max_width` cells and returns the column after them.
fn write_cells(
    buffer: &mut Buffer,
    (x, y): (u16, u16),
    text: &str,
    max_width: u16,
    style: Style,
) -> u16 {
    buffer
        .set_stringn(x, y, text, usize::from(max_width), style)
        .0
}
