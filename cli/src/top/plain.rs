//! The fleet as plain text, once: for scripts, and where there is no terminal.

use super::state::State;
use super::table::{Column, arrange};
use super::words::clean;
use super::{models, nodes, summary};
use crate::output;
use crate::output::fields;

/// The header's numbers, then the nodes and the models.
pub(super) fn snapshot(state: &State) -> String {
    let all = summary::who(state)
        .into_iter()
        .chain(summary::numbers(state));
    let all: Vec<_> = all.map(|field| (field.name, field.value)).collect();
    let mut text = fields(&all);
    for note in &state.notes {
        text += &format!("note: {}\n", clean(note));
    }
    text += "\n";
    match state.nodes.is_empty() {
        true => text += &(summary::how_to_join(state).join("\n") + "\n"),
        false => text += &table(&nodes::rows(state, ""), &nodes::columns()),
    }
    if !state.models.is_empty() {
        text += "\n";
        text += &table(&models::rows(state, ""), &models::columns());
    }
    text
}

/// All columns, as wide as they need to be.
fn table<R>(rows: &[R], columns: &[Column<R>]) -> String {
    let shown = arrange(columns, rows, u16::MAX / 2);
    let header: Vec<_> = shown.iter().map(|(at, _)| columns[*at].title).collect();
    let row = |row: &R| {
        let cells = shown.iter().map(|(at, _)| (columns[*at].cell)(row).text);
        cells.collect()
    };
    output::table(&header, rows.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_snapshot_has_the_numbers_and_both_tables() {
        let text = snapshot(&fixture::busy());
        for part in [
            "fleet:",
            "http://fleet.example:8080",
            "2 of 3 ready",
            "NODE",
            "till-1",
            "MODEL",
            "support",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn nothing_in_it_does_anything_to_a_terminal() {
        let text = snapshot(&fixture::hostile());
        let harmful = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(harmful), "{text:?}");
    }
}
