//! The fleet as plain text: for `top --once`, scripts and pipes.

use super::column::Column;
use super::format::sanitize;
use super::state::LiveState;
use super::table::layout;
use super::{models, nodes, summary};
use crate::output;

/// Returns the numbers of the header, then the tables of nodes and of models.
pub(super) fn snapshot(state: &LiveState) -> String {
    let fields = summary::identity(state).into_iter();
    let fields = fields.chain(summary::metrics(state));
    let fields: Vec<_> = fields.map(|field| (field.name, field.value)).collect();
    let mut text = output::fields(&fields);
    for note in &state.notes {
        text += &format!("note: {}\n", sanitize(note));
    }
    text += "\n";
    match state.nodes.is_empty() {
        true => text += &(summary::join_instructions(state).join("\n") + "\n"),
        false => text += &table(&nodes::rows(state, ""), &nodes::columns()),
    }
    if !state.models.is_empty() {
        text += "\n";
        text += &table(&models::rows(state, ""), &models::columns());
    }
    text
}

/// Returns a table with all columns that have a value.
fn table<R>(rows: &[R], columns: &[Column<R>]) -> String {
    let visible: Vec<_> = layout(columns, rows, u16::MAX / 2)
        .iter()
        .map(|column| &columns[column.index])
        .collect();
    let header: Vec<_> = visible.iter().map(|column| column.title).collect();
    let cells = |row: &R| {
        let texts = visible.iter().map(|column| (column.cell)(row).text);
        texts.collect()
    };
    output::table(&header, rows.iter().map(cells))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    #[test]
    fn snapshot_contains_the_numbers_and_both_tables() {
        let text = snapshot(&fixtures::busy());
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
    fn snapshot_contains_no_control_characters() {
        let text = snapshot(&fixtures::hostile());
        let is_control = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(is_control), "{text:?}");
    }
}
