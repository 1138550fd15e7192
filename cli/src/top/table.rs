//! Tables whose columns fit the room there is, whose rows are sorted and filtered, and of which only
//! the rows that are seen are ever made into text.

use std::borrow::Cow;
use std::cmp::Ordering;

use ratatui::buffer::CellWidth;

use super::words::{NONE, clean};

/// Blanks between two columns.
const GAP: u16 = 2;

/// How something stands. Never the only thing that says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Dim,
    Good,
    Warn,
    Bad,
}

/// What is in one place of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl Cell {
    /// A text that may come from anyone.
    pub(super) fn toned(text: &str, tone: Tone) -> Self {
        Self {
            text: clean(text).into_owned(),
            tone,
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        let tone = if text == NONE { Tone::Dim } else { Tone::Plain };
        Self::toned(text, tone)
    }
}

/// What rows are sorted by. What is not known comes last, whichever way.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Key<'a> {
    Text(Cow<'a, str>),
    Number(f64),
    Unknown,
}

impl<'a> Key<'a> {
    pub(super) fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    pub(super) fn number(number: Option<f64>) -> Self {
        number.map_or(Self::Unknown, Self::Number)
    }

    fn compare(&self, other: &Self, down: bool) -> Ordering {
        let turned = |ordering: Ordering| if down { ordering.reverse() } else { ordering };
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => turned(a.cmp(b)),
            (Self::Number(a), Self::Number(b)) => turned(a.total_cmp(b)),
            (Self::Unknown, Self::Unknown) => Ordering::Equal,
            (Self::Unknown, _) => Ordering::Greater,
            (_, Self::Unknown) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Less,
            (Self::Number(_), Self::Text(_)) => Ordering::Greater,
        }
    }
}

/// A column of rows `R`.
pub(super) struct Column<R> {
    pub(super) title: &'static str,
    /// The room it needs.
    pub(super) width: u16,
    /// The room that it is given, where there is so much, to hold its longest text.
    pub(super) most: u16,
    /// Of the room that is left after that, so many parts.
    pub(super) grows: u16,
    /// Whether it stands at its right end, as numbers do.
    pub(super) right: bool,
    /// Where there is too little room the column with the highest goes first; 0 stays.
    pub(super) rank: u8,
    pub(super) cell: fn(&R) -> Cell,
    /// What it is sorted by, if it can be.
    pub(super) key: Option<for<'r> fn(&'r R) -> Key<'r>>,
    /// Whether the largest comes first unless asked otherwise.
    pub(super) down: bool,
    /// Whether a row has something to show in it: without one the column is left out.
    pub(super) used: Option<fn(&R) -> bool>,
}

impl<R> Column<R> {
    /// A column of texts.
    pub(super) fn text(title: &'static str, width: u16, cell: fn(&R) -> Cell) -> Self {
        Self {
            title,
            width,
            most: width,
            grows: 0,
            right: false,
            rank: 0,
            cell,
            key: None,
            down: false,
            used: None,
        }
    }

    /// A column of numbers.
    pub(super) fn number(title: &'static str, width: u16, cell: fn(&R) -> Cell) -> Self {
        Self {
            right: true,
            down: true,
            ..Self::text(title, width, cell)
        }
    }

    /// Up to `most` it is as wide as its longest text. One that stays where others go has that
    /// before they have their room: names that are cut off are all the same.
    pub(super) fn holds(self, most: u16) -> Self {
        Self { most, ..self }
    }

    pub(super) fn grows(self, grows: u16) -> Self {
        Self { grows, ..self }
    }

    pub(super) fn rank(self, rank: u8) -> Self {
        Self { rank, ..self }
    }

    pub(super) fn sorted(self, key: for<'r> fn(&'r R) -> Key<'r>) -> Self {
        let key = Some(key);
        Self { key, ..self }
    }

    pub(super) fn used(self, used: fn(&R) -> bool) -> Self {
        let used = Some(used);
        Self { used, ..self }
    }
}

/// By what rows are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sort {
    /// Which of the columns that rows can be sorted by.
    pub(super) by: usize,
    /// Against the way of that column.
    pub(super) reversed: bool,
}

/// The column that `sort` means, and whether its largest come first.
pub(super) fn sorted_by<R>(columns: &[Column<R>], sort: Sort) -> Option<(usize, bool)> {
    let can: Vec<_> = (0..columns.len())
        .filter(|at| columns[*at].key.is_some())
        .collect();
    let at = *can.get(sort.by % can.len().max(1))?;
    Some((at, columns[at].down != sort.reversed))
}

/// Sorts rows. Those that are equal stay as they were.
pub(super) fn sort<R>(rows: Vec<R>, columns: &[Column<R>], by: Sort) -> Vec<R> {
    let Some((at, down)) = sorted_by(columns, by) else {
        return rows;
    };
    let Some(key) = columns[at].key else {
        return rows;
    };
    let mut order: Vec<_> = rows.iter().map(key).enumerate().collect();
    order.sort_by(|(_, a), (_, b)| a.compare(b, down));
    let order: Vec<_> = order.into_iter().map(|(at, _)| at).collect();
    let mut rows: Vec<_> = rows.into_iter().map(Some).collect();
    order.into_iter().filter_map(|at| rows[at].take()).collect()
}

/// Whether all words of a filter are among `texts`.
pub(super) fn fits<'a>(filter: &str, texts: impl IntoIterator<Item = &'a str>) -> bool {
    if filter.trim().is_empty() {
        return true;
    }
    let mut all = String::new();
    for text in texts {
        all.push_str(text);
        all.push(' ');
    }
    let (all, filter) = (all.to_lowercase(), filter.to_lowercase());
    filter.split_whitespace().all(|word| all.contains(word))
}

/// The columns that there is room for in `width`, each with what it gets, in their order.
pub(super) fn arrange<R>(columns: &[Column<R>], rows: &[R], width: u16) -> Vec<(usize, u16)> {
    let used = |column: &Column<R>| column.used.is_none_or(|used| rows.iter().any(used));
    let wanted = |column: &Column<R>| {
        if column.most == column.width {
            return column.width;
        }
        let long = rows
            .iter()
            .map(|row| (column.cell)(row).text.as_str().cell_width());
        long.max().unwrap_or(0).clamp(column.width, column.most)
    };
    let mut shown: Vec<_> = columns
        .iter()
        .enumerate()
        .filter(|(_, c)| used(c))
        .map(|(at, column)| {
            let wanted = wanted(column);
            let width = if column.rank == 0 {
                wanted
            } else {
                column.width
            };
            Shown { at, width, wanted }
        })
        .collect();
    while needed(&shown) > width {
        let first = (0..shown.len()).max_by_key(|i| columns[shown[*i].at].rank);
        match first {
            Some(first) if columns[shown[first].at].rank > 0 => {
                shown.remove(first);
            }
            _ => break,
        }
    }
    if needed(&shown) > width {
        for shown in &mut shown {
            shown.width = columns[shown.at].width;
        }
    }
    let mut left = width.saturating_sub(needed(&shown));
    for shown in &mut shown {
        let more = shown.wanted.saturating_sub(shown.width).min(left);
        shown.width += more;
        left -= more;
    }
    let mut parts: u16 = shown.iter().map(|shown| columns[shown.at].grows).sum();
    for shown in &mut shown {
        let grows = columns[shown.at].grows;
        let more = u32::from(left) * u32::from(grows);
        let more = more.checked_div(u32::from(parts)).unwrap_or(0) as u16;
        shown.width += more;
        parts -= grows;
        left -= more;
    }
    shown
        .into_iter()
        .map(|shown| (shown.at, shown.width))
        .collect()
}

/// A column on its way to a place.
struct Shown {
    at: usize,
    width: u16,
    wanted: u16,
}

/// The room that columns take with the blanks between them.
fn needed(shown: &[Shown]) -> u16 {
    let gaps = GAP * (shown.len() as u16).saturating_sub(1);
    shown.iter().map(|shown| shown.width).sum::<u16>() + gaps
}

/// Where the columns of `widths` begin.
pub(super) fn places(widths: &[(usize, u16)]) -> impl Iterator<Item = (usize, u16, u16)> {
    widths.iter().scan(0, |from, (at, width)| {
        let place = (*at, *from, *width);
        *from += width + GAP;
        Some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static str, Option<f64>);

    fn columns() -> Vec<Column<Row>> {
        vec![
            Column::text("NAME", 8, |row: &Row| row.0.into())
                .grows(1)
                .sorted(|row| Key::text(row.0)),
            Column::text("NOTE", 10, |_| "".into()).rank(2).grows(2),
            Column::number("WATTS", 6, |_| "".into())
                .rank(1)
                .sorted(|row| Key::number(row.1)),
        ]
    }

    #[test]
    fn columns_share_what_is_left_and_go_by_rank_where_room_is_short() {
        let of = |width| arrange(&columns(), &[], width);
        assert_eq!(of(28), [(0, 8), (1, 10), (2, 6)]);
        assert_eq!(of(40), [(0, 12), (1, 18), (2, 6)]);
        assert_eq!(of(27), [(0, 19), (2, 6)]);
        assert_eq!(of(15), [(0, 15)]);
        assert_eq!(of(3), [(0, 8)], "what stays is cut off where it is drawn");
    }

    #[test]
    fn names_have_their_room_before_other_columns_and_lose_it_where_nothing_else_helps() {
        let mut columns = columns();
        columns[0].most = 20;
        let of = |width| arrange(&columns, &[("a-name-of-seventeen", None)], width);
        assert_eq!(of(39), [(0, 19), (1, 10), (2, 6)]);
        assert_eq!(of(38), [(0, 30), (2, 6)]);
        assert_eq!(of(26), [(0, 26)]);
        assert_eq!(of(18), [(0, 18)]);
    }

    #[test]
    fn a_column_that_no_row_uses_is_left_out() {
        let mut columns = columns();
        columns[2].used = Some(|row| row.1.is_some());
        assert_eq!(arrange(&columns, &[("a", None)], 40).len(), 2);
        assert_eq!(
            arrange(&columns, &[("a", None), ("b", Some(1.0))], 40).len(),
            3
        );
    }

    #[test]
    fn what_is_not_known_comes_last_whichever_way() {
        let rows = vec![("a", None), ("b", Some(1.0)), ("c", Some(2.0))];
        let names = |by, reversed| -> String {
            let sort_by = Sort { by, reversed };
            let rows = sort(rows.clone(), &columns(), sort_by);
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
    fn a_filter_is_words_in_any_order_and_case() {
        assert!(fits("", []) && fits("TILL north", ["north-3", "till"]));
        assert!(!fits("till south", ["north-3", "till"]));
    }
}
