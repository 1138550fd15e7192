//! The pane: a list with its chosen row, a text, or what to do where there is nothing yet.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::cursor::Cursor;
use super::draw::{CHOSEN, DIM, STRONG, Theme, cut, put};
use super::state::{Connection, State};
use super::table::{Column, Sort, arrange, places, sort, sorted_by};
use super::view::{Of, Pane, Screen};
use super::words::{NONE, count, wrapped};
use super::{decisions, models, nodes, summary};
use crate::describe;

const HELP: &[&str] = &[
    "1 2 3 4, Tab   nodes, models, decisions, this help",
    "arrows         move, as PgUp, PgDn, Home and End do, and j, k, g, G, space",
    "Enter          all that is known of the chosen row; Esc goes back",
    "/              only rows with all these words; Esc shows all again",
    "s, r           sort by the next column; the other way round",
    "p              hold what is shown; p again goes on",
    "q, Esc         quit, as Ctrl-C does",
    "",
    "≈ stands before what is estimated, at least in part.",
    "Rates are means of the last 5 seconds, percentiles those of the worst of them.",
    "power is what the nodes draw, requests' energy what went to requests of it.",
    "LOAD: requests that are computed + those that wait on the node. WAITING: those",
    "that wait for a first replica. REQUESTS, TOKENS, J/TOKEN: since this controller",
    "started. FIRST: time to the first token. END left: the client went away.",
];

/// Draws the pane.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, screen: &mut Screen, theme: Theme) {
    if screen.detail.is_some() {
        return detail(buffer, area, screen);
    }
    if screen.pane == Pane::Help {
        let help: Vec<_> = HELP.iter().flat_map(|line| broken(line, area)).collect();
        let cursor = &mut screen.lists[Pane::Help as usize].cursor;
        let down = cursor.scroll(help.len(), usize::from(area.height));
        return lines(buffer, area, &help, down, 0);
    }
    if let Some(said) = nothing(screen) {
        let said: Vec<_> = said.iter().flat_map(|line| broken(line, area)).collect();
        return lines(buffer, area, &said, 0, 0);
    }
    let list = screen.list();
    let (by, filter) = (list.sort, list.filter.clone());
    // The rows borrow what is known; the cursor is changed beside it.
    let mut cursor = std::mem::take(&mut screen.lists[screen.pane as usize].cursor);
    let state = screen.state();
    let table = Table {
        area,
        by,
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
            decisions::rows(state, &filter, screen.offset),
            &decisions::columns(),
            |row| &row.brief.id,
        ),
        Pane::Help => {}
    }
    screen.lists[screen.pane as usize].cursor = cursor;
}

/// What is to be said of the pane beside its name.
pub(super) fn about(screen: &Screen) -> String {
    let sort = screen.list().sort;
    let sorted = match screen.pane {
        Pane::Nodes => sorted(&nodes::columns(), sort),
        Pane::Models => sorted(&models::columns(), sort),
        Pane::Decisions => sorted(&decisions::columns(), sort),
        Pane::Help => return String::new(),
    };
    let (state, filter) = (screen.state(), &screen.list().filter);
    let (shown, all) = rows(screen);
    let mut about = count(all);
    if !filter.is_empty() {
        about = format!("{} of {about} with '{filter}'", count(shown));
    }
    if screen.pane == Pane::Decisions && state.omitted > 0 {
        about += &format!(", {} not listed", count(state.omitted));
    }
    format!("{about}, by {sorted}")
}

/// Rows that are shown, and that there are.
fn rows(screen: &Screen) -> (u64, u64) {
    let (state, filter) = (screen.state(), &screen.list().filter);
    let (shown, all) = match screen.pane {
        Pane::Nodes => (nodes::rows(state, filter).len(), state.nodes.len()),
        Pane::Models => (models::rows(state, filter).len(), state.models.len()),
        Pane::Decisions => (
            decisions::rows(state, filter, screen.offset).len(),
            state.decisions.len(),
        ),
        Pane::Help => (0, 0),
    };
    (shown as u64, all as u64)
}

fn sorted<R>(columns: &[Column<R>], by: Sort) -> &'static str {
    sorted_by(columns, by).map_or(NONE, |(at, _)| columns[at].title)
}

/// What to say where the list is empty.
fn nothing(screen: &Screen) -> Option<Vec<String>> {
    let (state, filter) = (screen.state(), &screen.list().filter);
    if state.controller.is_none() {
        let what = match &state.connection {
            Connection::Lost { problem, .. } => problem.clone(),
            _ => format!("Connecting to {} …", state.url),
        };
        return Some(vec![what]);
    }
    let (shown, all) = rows(screen);
    if shown > 0 {
        return None;
    }
    if all > 0 {
        return Some(vec![format!(
            "None of the {} {} has '{filter}': Esc shows all again.",
            count(all),
            screen.pane.name()
        )]);
    }
    Some(match screen.pane {
        Pane::Nodes => summary::how_to_join(state),
        Pane::Models => vec![
            "No model is wished for yet. This places one:".into(),
            String::new(),
            "  flotilla apply -f model.yaml".into(),
        ],
        _ => vec![
            "No request has ended since this controller started. This sends one:".into(),
            String::new(),
            format!(
                "  flotilla chat --url {} auto \"where is my new card?\"",
                state.url
            ),
        ],
    })
}

fn broken(line: &str, area: Rect) -> Vec<String> {
    wrapped(line, usize::from(area.width))
}

/// Writes lines, cut off at the right; a text that is longer than the pane is moved.
fn lines<T: AsRef<str>>(buffer: &mut Buffer, area: Rect, all: &[T], down: usize, right: usize) {
    let rows = area.rows().zip(all.iter().skip(down));
    for (at, line) in rows {
        let line: String = line.as_ref().chars().skip(right).collect();
        put(buffer, at, &line, Style::new(), false);
    }
}

fn detail(buffer: &mut Buffer, mut area: Rect, screen: &mut Screen) {
    let Some(mut detail) = screen.detail.take() else {
        return;
    };
    let (title, text) = told(&detail.of, screen.state());
    let at = cut(&mut area, 1);
    let end = put(buffer, at, &title, STRONG, false);
    let all: Vec<_> = text.lines().collect();
    let page = usize::from(area.height);
    let longest = all.iter().map(|line| line.chars().count()).max();
    // What is asked for may be past the end: here it is known where that is.
    detail.down = detail.down.min(all.len().saturating_sub(page));
    detail.right = detail
        .right
        .min(longest.unwrap_or(0).saturating_sub(usize::from(area.width)));
    if all.len() > page {
        let seen = (detail.down + page).min(all.len());
        let position = format!("  lines {} to {seen} of {}", detail.down + 1, all.len());
        let at = Rect::new(end, at.y, at.right() - end, 1);
        put(buffer, at, &position, DIM, false);
    }
    lines(buffer, area, &all, detail.down, detail.right);
    screen.detail = Some(detail);
}

/// A title, and all that is known.
fn told(of: &Of, state: &State) -> (String, String) {
    let gone = |what: &str, name: &str| (format!("{what} {name}"), "It is gone.".to_owned());
    match of {
        Of::Node(name) => match state.nodes.get(name) {
            Some(node) => (
                format!("Node {name}"),
                nodes::energy(node) + "\n" + &describe::describe_node(node),
            ),
            None => gone("Node", name),
        },
        Of::Model(name) => match state.models.get(name) {
            Some(model) => (
                format!("Model {name}"),
                describe::describe_model(model).unwrap_or_else(|error| error.to_string()),
            ),
            None => gone("Model", name),
        },
        Of::Decision(id, told) => (
            format!("Decision {id}"),
            told.clone()
                .unwrap_or_else(|| "Asking the controller …".into()),
        ),
    }
}

/// A list on its way to the screen.
struct Table<'c> {
    area: Rect,
    by: Sort,
    theme: Theme,
    cursor: &'c mut Cursor,
}

impl Table<'_> {
    fn draw<R>(
        mut self,
        buffer: &mut Buffer,
        rows: Vec<R>,
        columns: &[Column<R>],
        name: impl Fn(&R) -> &str,
    ) {
        let rows = sort(rows, columns, self.by);
        let header = cut(&mut self.area, 1);
        // One place at the left says which row is chosen, also where nothing can be reversed.
        let widths = arrange(columns, &rows, self.area.width.saturating_sub(1));
        let place =
            |at: Rect, x: u16, width: u16| Rect::new(at.x + 1 + x, at.y, width, 1).intersection(at);
        let sorted = sorted_by(columns, self.by);
        for (at, x, width) in places(&widths) {
            let column = &columns[at];
            let (mark, style) = match sorted {
                Some((by, true)) if by == at => ("▼", STRONG),
                Some((by, false)) if by == at => ("▲", STRONG),
                _ => ("", DIM),
            };
            let title = format!("{}{mark}", column.title);
            put(buffer, place(header, x, width), &title, style, column.right);
        }
        let page = usize::from(self.area.height);
        self.cursor.settle(rows.len(), page, |at| name(&rows[at]));
        let seen = rows.iter().enumerate().skip(self.cursor.top);
        for (line, (index, row)) in self.area.rows().zip(seen) {
            for (at, x, width) in places(&widths) {
                let (column, cell) = (&columns[at], (columns[at].cell)(row));
                let style = self.theme.of(cell.tone);
                put(
                    buffer,
                    place(line, x, width),
                    &cell.text,
                    style,
                    column.right,
                );
            }
            if index == self.cursor.at {
                put(buffer, Rect { width: 1, ..line }, ">", STRONG, false);
                buffer.set_style(line, CHOSEN);
            }
        }
    }
}
