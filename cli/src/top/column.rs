//! The columns of a table, and the text, tone and sort key of their cells.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::format::{UNKNOWN, sanitize};

/// The meaning of a text, which selects its style. The text itself says the same: colors may be
/// off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Dim,
    Good,
    Warning,
    Bad,
}

/// The content of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl Cell {
    /// Creates a cell from untrusted text.
    pub(super) fn new(text: &str, tone: Tone) -> Self {
        Self {
            text: sanitize(text).into_owned(),
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
        let tone = match text {
            UNKNOWN => Tone::Dim,
            _ => Tone::Plain,
        };
        Self::new(text, tone)
    }
}

/// The key by which a row is sorted. `Unknown` is last in both directions.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SortKey<'a> {
    Text(Cow<'a, str>),
    Number(f64),
    Unknown,
}

impl<'a> SortKey<'a> {
    pub(super) fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    pub(super) fn number(number: Option<f64>) -> Self {
        number.map_or(Self::Unknown, Self::Number)
    }

    /// Compares two keys in the given direction.
    pub(super) fn compare(&self, other: &Self, descending: bool) -> Ordering {
        let directed = |ordering: Ordering| match descending {
            true => ordering.reverse(),
            false => ordering,
        };
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => directed(a.cmp(b)),
            (Self::Number(a), Self::Number(b)) => directed(a.total_cmp(b)),
            (Self::Unknown, Self::Unknown) => Ordering::Equal,
            (Self::Unknown, _) => Ordering::Greater,
            (_, Self::Unknown) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Less,
            (Self::Number(_), Self::Text(_)) => Ordering::Greater,
        }
    }
}

/// A column of a table with rows of type `R`.
pub(super) struct Column<R> {
    pub(super) title: &'static str,
    /// Minimum width.
    pub(super) width: u16,
    /// Width up to which the column grows to fit its longest text.
    pub(super) max_width: u16,
    /// Share of the remaining width, relative to the shares of other columns.
    pub(super) grow_weight: u16,
    pub(super) is_right_aligned: bool,
    /// The column with the highest number is dropped first if the width does not suffice. Columns
    /// with 0 are never dropped.
    pub(super) drop_priority: u8,
    pub(super) cell: fn(&R) -> Cell,
    /// Sort key of a row. `None`: rows cannot be sorted by this column.
    pub(super) key: Option<for<'r> fn(&'r R) -> SortKey<'r>>,
    /// Whether the default direction is from the largest to the smallest.
    pub(super) is_descending: bool,
    /// Whether a row has a value for this column. A column without any value is left out. `None`:
    /// the column is always shown.
    pub(super) has_value: Option<fn(&R) -> bool>,
}

impl<R> Column<R> {
    /// Creates a left-aligned column of texts.
    pub(super) fn text(title: &'static str, width: u16, cell: fn(&R) -> Cell) -> Self {
        Self {
            title,
            width,
            max_width: width,
            grow_weight: 0,
            is_right_aligned: false,
            drop_priority: 0,
            cell,
            key: None,
            is_descending: false,
            has_value: None,
        }
    }

    /// Creates a right-aligned column of numbers, the largest first.
    pub(super) fn number(title: &'static str, width: u16, cell: fn(&R) -> Cell) -> Self {
        Self {
            is_right_aligned: true,
            is_descending: true,
            ..Self::text(title, width, cell)
        }
    }

    /// Lets the column grow to its longest text, up to `max_width`. A column that is never dropped
    /// gets that width before others get theirs: names that are cut off look alike.
    pub(super) fn max_width(self, max_width: u16) -> Self {
        Self { max_width, ..self }
    }

    pub(super) fn grow_weight(self, grow_weight: u16) -> Self {
        Self {
            grow_weight,
            ..self
        }
    }

    pub(super) fn drop_priority(self, drop_priority: u8) -> Self {
        Self {
            drop_priority,
            ..self
        }
    }

    pub(super) fn sort_by(self, key: for<'r> fn(&'r R) -> SortKey<'r>) -> Self {
        let key = Some(key);
        Self { key, ..self }
    }

    pub(super) fn only_if(self, has_value: fn(&R) -> bool) -> Self {
        let has_value = Some(has_value);
        Self { has_value, ..self }
    }
}
