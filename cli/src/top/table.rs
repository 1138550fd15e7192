//! Tables that fit the width of the terminal, with sorted and filtered rows. The text of a cell is
//! only computed for visible rows and for the width of a column.

use ratatui::buffer::CellWidth;

use super::column::Column;

/// Width of the gap between two columns.
const GAP: u16 = 2;

/// The user's choice of the order of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SortOrder {
    /// Number of the column among those with a sort key; wraps around.
    pub(super) column: usize,
    /// Whether the direction is the opposite of the column's default.
    pub(super) is_reversed: bool,
}

/// Returns the index of the column that rows are sorted by, and whether the largest is first.
pub(super) fn sort_column<R>(columns: &[Column<R>], order: SortOrder) -> Option<(usize, bool)> {
    let sortable: Vec<_> = (0..columns.len())
        .filter(|index| columns[*index].key.is_some())
        .collect();
    let index = *sortable.get(order.column % sortable.len().max(1))?;
    Some((index, columns[index].is_descending != order.is_reversed))
}

/// Sorts rows. Rows with equal keys keep their order.
pub(super) fn sort_rows<R>(rows: Vec<R>, columns: &[Column<R>], order: SortOrder) -> Vec<R> {
    let Some((index, descending)) = sort_column(columns, order) else {
        return rows;
    };
    let Some(key) = columns[index].key else {
        return rows;
    };
    // Keys borrow from rows, so that indices are sorted first and rows moved afterwards.
    let mut keys: Vec<_> = rows.iter().map(key).enumerate().collect();
    keys.sort_by(|(_, a), (_, b)| a.compare(b, descending));
    let indices: Vec<_> = keys.into_iter().map(|(index, _)| index).collect();
    let mut rows: Vec<_> = rows.into_iter().map(Some).collect();
    indices
        .into_iter()
        .filter_map(|index| rows[index].take())
        .collect()
}

/// Returns whether the texts of a row contain all words of a filter. Case does not matter.
pub(super) fn matches_filter<'a>(filter: &str, texts: impl IntoIterator<Item = &'a str>) -> bool {
    if filter.trim().is_empty() {
        return true;
    }
    let mut joined = String::new();
    for text in texts {
        joined.push_str(text);
        joined.push(' ');
    }
    let (joined, filter) = (joined.to_lowercase(), filter.to_lowercase());
    filter.split_whitespace().all(|word| joined.contains(word))
}

/// A visible column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ColumnLayout {
    /// Index of the column.
    pub(super) index: usize,
    /// Distance from the left edge of the table.
    pub(super) x: u16,
    pub(super) width: u16,
}

/// A column while the layout is computed.
struct Candidate {
    index: usize,
    width: u16,
    desired_width: u16,
}

/// Computes the columns that fit in `width` and their widths.
pub(super) fn layout<R>(columns: &[Column<R>], rows: &[R], width: u16) -> Vec<ColumnLayout> {
    let mut candidates = candidates(columns, rows);
    while total_width(&candidates) > width {
        let first_to_drop =
            (0..candidates.len()).max_by_key(|i| columns[candidates[*i].index].drop_priority);
        match first_to_drop {
            Some(i) if columns[candidates[i].index].drop_priority > 0 => {
                candidates.remove(i);
            }
            _ => break,
        }
    }
    if total_width(&candidates) > width {
        for candidate in &mut candidates {
            candidate.width = columns[candidate.index].width;
        }
    }
    let mut remaining = width.saturating_sub(total_width(&candidates));
    for candidate in &mut candidates {
        let growth = candidate
            .desired_width
            .saturating_sub(candidate.width)
            .min(remaining);
        candidate.width += growth;
        remaining -= growth;
    }
    let mut total_weight: u16 = candidates
        .iter()
        .map(|candidate| columns[candidate.index].grow_weight)
        .sum();
    for candidate in &mut candidates {
        let weight = columns[candidate.index].grow_weight;
        let growth = u32::from(remaining) * u32::from(weight);
        let growth = growth.checked_div(u32::from(total_weight)).unwrap_or(0) as u16;
        candidate.width += growth;
        total_weight -= weight;
        remaining -= growth;
    }
    let mut x = 0;
    let place = |candidate: Candidate| {
        let column = ColumnLayout {
            index: candidate.index,
            x,
            width: candidate.width,
        };
        x += candidate.width + GAP;
        column
    };
    candidates.into_iter().map(place).collect()
}

/// Returns the columns that have a value, with their initial and their desired widths.
fn candidates<R>(columns: &[Column<R>], rows: &[R]) -> Vec<Candidate> {
    let has_value = |column: &Column<R>| column.has_value.is_none_or(|has| rows.iter().any(has));
    let desired_width = |column: &Column<R>| {
        if column.max_width == column.width {
            return column.width;
        }
        let widths = rows
            .iter()
            .map(|row| (column.cell)(row).text.as_str().cell_width());
        widths
            .max()
            .unwrap_or(0)
            .clamp(column.width, column.max_width)
    };
    columns
        .iter()
        .enumerate()
        .filter(|(_, column)| has_value(column))
        .map(|(index, column)| {
            let desired_width = desired_width(column);
            let width = match column.drop_priority {
                0 => desired_width,
                _ => column.width,
            };
            Candidate {
                index,
                width,
                desired_width,
            }
        })
        .collect()
}

/// Returns the width of columns with the gaps between them.
fn total_width(candidates: &[Candidate]) -> u16 {
    let gaps = GAP * (candidates.len() as u16).saturating_sub(1);
    candidates
        .iter()
        .map(|candidate| candidate.width)
        .sum::<u16>()
        + gaps
}

#[cfg(test)]
mod tests {
    use super::super::column::SortKey;
    use super::*;

    type TestRow = (&'static str, Option<f64>);

    fn columns() -> Vec<Column<TestRow>> {
        vec![
            Column::text("NAME", 8, |row: &TestRow| row.0.into())
                .grow_weight(1)
                .sort_by(|row| SortKey::text(row.0)),
            Column::text("NOTE", 10, |_| "".into())
                .drop_priority(2)
                .grow_weight(2),
            Column::number("WATTS", 6, |_| "".into())
                .drop_priority(1)
                .sort_by(|row| SortKey::number(row.1)),
        ]
    }

    /// Returns the index and the width of each visible column.
    fn widths(columns: &[Column<TestRow>], rows: &[TestRow], width: u16) -> Vec<(usize, u16)> {
        let layout = layout(columns, rows, width);
        layout.iter().map(|c| (c.index, c.width)).collect()
    }

    #[test]
    fn columns_share_the_remaining_width_and_are_dropped_by_priority() {
        let widths_at = |width| widths(&columns(), &[], width);
        assert_eq!(widths_at(28), [(0, 8), (1, 10), (2, 6)]);
        assert_eq!(widths_at(40), [(0, 12), (1, 18), (2, 6)]);
        assert_eq!(widths_at(27), [(0, 19), (2, 6)]);
        assert_eq!(widths_at(15), [(0, 15)]);
        assert_eq!(
            widths_at(3),
            [(0, 8)],
            "a kept column is cut off when it is drawn"
        );
    }

    #[test]
    fn columns_start_after_a_gap() {
        let starts: Vec<_> = layout(&columns(), &[], 28).iter().map(|c| c.x).collect();
        assert_eq!(starts, [0, 10, 22]);
    }

    #[test]
    fn names_get_their_width_before_other_columns_and_lose_it_last() {
        let mut columns = columns();
        columns[0].max_width = 20;
        let widths_at = |width| widths(&columns, &[("a-name-of-seventeen", None)], width);
        assert_eq!(widths_at(39), [(0, 19), (1, 10), (2, 6)]);
        assert_eq!(widths_at(38), [(0, 30), (2, 6)]);
        assert_eq!(widths_at(26), [(0, 26)]);
        assert_eq!(widths_at(18), [(0, 18)]);
    }

    #[test]
    fn column_without_any_value_is_left_out() {
        let mut columns = columns();
        columns[2].has_value = Some(|row| row.1.is_some());
        assert_eq!(widths(&columns, &[("a", None)], 40).len(), 2);
        assert_eq!(
            widths(&columns, &[("a", None), ("b", Some(1.0))], 40).len(),
            3
        );
    }

    #[test]
    fn unknown_values_are_last_in_both_directions() {
        let rows = vec![("a", None), ("b", Some(1.0)), ("c", Some(2.0))];
        let names = |column, is_reversed| -> String {
            let order = SortOrder {
                column,
                is_reversed,
            };
            let rows = sort_rows(rows.clone(), &columns(), order);
            rows.into_iter().map(|row| row.0).collect()
        };
        assert_eq!(
            (names(0, false), names(0, true)),
            ("abc".into(), "cba".into())
        );
        assert_eq!(
            (names(1, false), names(1, true)),
            ("cba".into(), "bca".into())
        );
    }

    #[test]
    fn filter_is_words_in_any_order_and_case() {
        assert!(matches_filter("", []));
        assert!(matches_filter("TILL north", ["north-3", "till"]));
        assert!(!matches_filter("till south", ["north-3", "till"]));
    }
}
