//! The current pane: a list with its selected row, details, the help, or instructions for an empty
//! list.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::canvas::{BOLD, DIM, SELECTED, Theme, take_top, write_right, write_text};
use super::column::{Cell, Column};
use super::cursor::Cursor;
use super::format::{UNKNOWN, count, wrap};
use super::screen::{DetailSubject, Pane, Screen};
use super::state::{ConnectionState, LiveState};
use super::table::{ColumnLayout, SortOrder, layout, sort_column, sort_rows};
use super::{decisions, models, nodes, summary};
use crate::describe;

const HELP: &[&str] = &[
    "1 2 3 4, Tab   show nodes, models, decisions, this help",
    "arrows         move; also PgUp, PgDn, Home, End, j, k, g, G and space",
    "Enter          show the details of the selected row; Esc goes back",
    "/              filter: show rows that contain all words; Esc clears the filter",
    "s, r           sort by the next column; reverse the order",
    "p              pause and resume the display",
    "q, Esc         quit; also Ctrl-C",
    "",
    "≈ marks values that are at least partly estimated.",
    "Rates are means over 5 seconds; percentiles are the maximum over 5 seconds.",
    "power is the power of the nodes, request energy the part attributed to requests.",
    "LOAD: active + queued requests on nodes. PENDING: requests that wait for a first",
    "replica. REQUESTS, TOKENS, J/TOKEN: since the controller started.",
    "TTFT: time to first token.",
];

/// Draws the pane.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, screen: &mut Screen, theme: Theme) {
    if screen.detail.is_some() {
        return detail(buffer, area, screen);
    }
    if screen.pane == Pane::Help {
        let help = wrap_lines(HELP, area);
        let cursor = &mut screen.lists[Pane::Help as usize].cursor;
        let first_line = cursor.scroll(help.len(), usize::from(area.height));
        return text_lines(buffer, area, &help, (first_line, 0));
    }
    if let Some(instructions) = empty_list_text(screen) {
        let instructions = wrap_lines(&instructions, area);
        return text_lines(buffer, area, &instructions, (0, 0));
    }
    let list = screen.list();
    let (order, filter) = (list.order, list.filter.clone());
    // The rows borrow from the screen while the cursor is updated.
    let mut cursor = std::mem::take(&mut screen.lists[screen.pane as usize].cursor);
    let state = screen.state();
    let table = TableView {
        area,
        order,
        theme,
        cursor: &mut cursor,
    };
    match screen.pane {
        Pane::Nodes => table.draw(
            buffer,
            nodes::rows(state, &filter),
            &nodes::columns(),
            |node| &node.metadata.name,
        ),
        Pane::Models => table.draw(
            buffer,
            models::rows(state, &filter),
            &models::columns(),
            |row| row.name(),
        ),
        Pane::Decisions => table.draw(
            buffer,
            decisions::rows(state, &filter, &screen.time_zone),
            &decisions::columns(),
            |row| &row.request.id,
        ),
        Pane::Help => {}
    }
    screen.lists[screen.pane as usize].cursor = cursor;
}

/// Returns the number of rows, the filter and the sort column of the current list.
pub(super) fn list_status(screen: &Screen) -> String {
    let order = screen.list().order;
    let sort_title = match screen.pane {
        Pane::Nodes => sort_title(&nodes::columns(), order),
        Pane::Models => sort_title(&models::columns(), order),
        Pane::Decisions => sort_title(&decisions::columns(), order),
        Pane::Help => return String::new(),
    };
    let (state, filter) = (screen.state(), &screen.list().filter);
    let (visible, total) = row_counts(screen);
    let mut status = count(total);
    if !filter.is_empty() {
        status = format!("{} of {status} match '{filter}'", count(visible));
    }
    if screen.pane == Pane::Decisions && state.omitted_decisions > 0 {
        status += &format!(", {} not listed", count(state.omitted_decisions));
    }
    format!("{status}, sorted by {sort_title}")
}

/// Returns the number of rows that match the filter, and of all rows.
fn row_counts(screen: &Screen) -> (u64, u64) {
    let (state, filter) = (screen.state(), &screen.list().filter);
    let (visible, total) = match screen.pane {
        Pane::Nodes => (nodes::rows(state, filter).len(), state.nodes.len()),
        Pane::Models => (models::rows(state, filter).len(), state.models.len()),
        Pane::Decisions => (
            decisions::rows(state, filter, &screen.time_zone).len(),
            state.decisions.len(),
        ),
        Pane::Help => (0, 0),
    };
    (visible as u64, total as u64)
}

fn sort_title<R>(columns: &[Column<R>], order: SortOrder) -> &'static str {
    sort_column(columns, order).map_or(UNKNOWN, |(index, _)| columns[index].title)
}

/// Returns the text to show instead of a list without rows. `None`: there are rows.
fn empty_list_text(screen: &Screen) -> Option<Vec<String>> {
    let (state, filter) = (screen.state(), &screen.list().filter);
    if state.controller.is_none() {
        let text = match &state.connection {
            ConnectionState::Lost { problem, .. } => problem.clone(),
            ConnectionState::Connecting | ConnectionState::Live => {
                format!("Connecting to {} …", state.url)
            }
        };
        return Some(vec![text]);
    }
    let (visible, total) = row_counts(screen);
    if visible > 0 {
        return None;
    }
    if total > 0 {
        return Some(vec![format!(
            "None of the {} {} matches '{filter}'. Press Esc to clear the filter.",
            count(total),
            screen.pane.name()
        )]);
    }
    Some(match screen.pane {
        Pane::Nodes => summary::join_instructions(state),
        Pane::Models => vec![
            "The fleet has no models yet. Add one with".into(),
            String::new(),
            "  flotilla apply -f model.yaml".into(),
        ],
        Pane::Decisions | Pane::Help => vec![
            "No request was completed since the controller started. Send one with".into(),
            String::new(),
            format!(
                "  flotilla chat --url {} auto \"where is my new card?\"",
                state.url
            ),
        ],
    })
}

fn wrap_lines(lines: &[impl AsRef<str>], area: Rect) -> Vec<String> {
    let width = usize::from(area.width);
    lines
        .iter()
        .flat_map(|line| wrap(line.as_ref(), width))
        .collect()
}

/// Draws the part of a text that starts at a line and a column, cut off at the edges of the area.
fn text_lines(
    buffer: &mut Buffer,
    area: Rect,
    lines: &[impl AsRef<str>],
    (first_line, first_column): (usize, usize),
) {
    for (row, line) in area.rows().zip(lines.iter().skip(first_line)) {
        let line: String = line.as_ref().chars().skip(first_column).collect();
        write_text(buffer, row, &line, Style::new());
    }
}

fn detail(buffer: &mut Buffer, mut area: Rect, screen: &mut Screen) {
    let Some(mut detail) = screen.detail.take() else {
        return;
    };
    let (title, text) = detail_text(&detail.subject, screen.state());
    let title_line = take_top(&mut area, 1);
    let end = write_text(buffer, title_line, &title, BOLD);
    let lines: Vec<_> = text.lines().collect();
    let page = usize::from(area.height);
    let longest = lines.iter().map(|line| line.chars().count()).max();
    // Keys can move past the end: the size of the text is known only here.
    detail.line = detail.line.min(lines.len().saturating_sub(page));
    detail.column = detail
        .column
        .min(longest.unwrap_or(0).saturating_sub(usize::from(area.width)));
    if lines.len() > page {
        let last = (detail.line + page).min(lines.len());
        let position = format!("  lines {} to {last} of {}", detail.line + 1, lines.len());
        let rest = Rect::new(end, title_line.y, title_line.right() - end, 1);
        write_text(buffer, rest, &position, DIM);
    }
    text_lines(buffer, area, &lines, (detail.line, detail.column));
    screen.detail = Some(detail);
}

/// Returns the title and the text of details.
fn detail_text(subject: &DetailSubject, state: &LiveState) -> (String, String) {
    let missing = |kind: &str, name: &str| {
        (
            format!("{kind} {name}"),
            format!("The {} no longer exists.", kind.to_lowercase()),
        )
    };
    match subject {
        DetailSubject::Node(name) => match state.nodes.get(name) {
            Some(node) => (
                format!("Node {name}"),
                nodes::power_details(node) + "\n" + &describe::describe_node(node),
            ),
            None => missing("Node", name),
        },
        DetailSubject::Model(name) => match state.models.get(name) {
            Some(model) => (
                format!("Model {name}"),
                describe::describe_model(model).unwrap_or_else(|error| error.to_string()),
            ),
            None => missing("Model", name),
        },
        DetailSubject::Decision { id, explanation } => (
            format!("Decision {id}"),
            explanation.clone().unwrap_or_else(|| "Loading …".into()),
        ),
    }
}

/// The drawing of a table.
struct TableView<'c> {
    area: Rect,
    order: SortOrder,
    theme: Theme,
    cursor: &'c mut Cursor,
}

impl TableView<'_> {
    fn draw<R>(
        mut self,
        buffer: &mut Buffer,
        rows: Vec<R>,
        columns: &[Column<R>],
        name: impl Fn(&R) -> &str,
    ) {
        let rows = sort_rows(rows, columns, self.order);
        let header = take_top(&mut self.area, 1);
        // The first column has the mark of the selected row, for terminals without reverse video.
        let visible = layout(columns, &rows, self.area.width.saturating_sub(1));
        self.draw_header(buffer, header, columns, &visible);
        let page = usize::from(self.area.height);
        self.cursor
            .update(rows.len(), page, |index| name(&rows[index]));
        let visible_rows = rows.iter().enumerate().skip(self.cursor.first_visible);
        for (line, (index, row)) in self.area.rows().zip(visible_rows) {
            for position in &visible {
                let column = &columns[position.index];
                let Cell { text, tone } = (column.cell)(row);
                let style = self.theme.style(tone);
                write_cell(buffer, cell_area(line, position), column, (&text, style));
            }
            if index == self.cursor.index {
                write_text(buffer, Rect { width: 1, ..line }, ">", BOLD);
                buffer.set_style(line, SELECTED);
            }
        }
    }

    fn draw_header<R>(
        &self,
        buffer: &mut Buffer,
        line: Rect,
        columns: &[Column<R>],
        visible: &[ColumnLayout],
    ) {
        let sorted = sort_column(columns, self.order);
        for position in visible {
            let column = &columns[position.index];
            let (mark, style) = match sorted {
                Some((index, true)) if index == position.index => ("▼", BOLD),
                Some((index, false)) if index == position.index => ("▲", BOLD),
                _ => ("", DIM),
            };
            let title = format!("{}{mark}", column.title);
            write_cell(buffer, cell_area(line, position), column, (&title, style));
        }
    }
}

/// Returns the area of a column on a line, after the mark of the selected row.
fn cell_area(line: Rect, position: &ColumnLayout) -> Rect {
    Rect::new(line.x + 1 + position.x, line.y, position.width, 1).intersection(line)
}

fn write_cell<R>(
    buffer: &mut Buffer,
    area: Rect,
    column: &Column<R>,
    (text, style): (&str, Style),
) {
    if column.is_right_aligned {
        write_right(buffer, area, text, style);
    } else {
        write_text(buffer, area, text, style);
    }
}
