//! The selection of a row in a list whose rows change.

/// The selected row and the visible part of a list or text.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// Name of the selected row. The selection follows the row when its index changes.
    pub(super) name: Option<String>,
    /// Index of the selected row, or of the first visible line of a text.
    pub(super) index: usize,
    /// Index of the first visible row.
    pub(super) first_visible: usize,
    /// Number of visible rows.
    pub(super) page_rows: usize,
    /// Whether the user moved the cursor since the last update: `index` then takes precedence over
    /// `name`.
    moved: bool,
}

impl Cursor {
    /// Moves to a row. An index past the last row selects the last row.
    pub(super) fn move_to(&mut self, index: usize) {
        (self.index, self.moved) = (index, true);
    }

    /// Returns the index of the first visible line of a text with `lines` lines, of which
    /// `page_rows` fit.
    pub(super) fn scroll(&mut self, lines: usize, page_rows: usize) -> usize {
        self.page_rows = page_rows;
        self.index = self.index.min(lines.saturating_sub(page_rows));
        self.index
    }

    /// Updates the cursor for a list of `rows` rows, of which `page_rows` fit.
    ///
    /// If the first row is selected, the selection stays on the first row, where new rows appear.
    /// Any other selected row keeps its position on the screen when rows are inserted above it.
    pub(super) fn update<'a>(
        &mut self,
        rows: usize,
        page_rows: usize,
        name: impl Fn(usize) -> &'a str,
    ) {
        self.page_rows = page_rows;
        if !self.moved && self.index > 0 {
            let selected = self.name.as_deref();
            if let Some(index) = (0..rows).find(|index| Some(name(*index)) == selected) {
                self.first_visible = (self.first_visible + index).saturating_sub(self.index);
                self.index = index;
            }
        }
        self.moved = false;
        self.index = self.index.min(rows.saturating_sub(1));
        let lowest = (self.index + 1).saturating_sub(page_rows);
        self.first_visible = self.first_visible.clamp(lowest, self.index.max(lowest));
        self.first_visible = self.first_visible.min(rows.saturating_sub(page_rows));
        self.name = (self.index < rows).then(|| name(self.index).to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selected_row_keeps_its_position_when_rows_are_inserted_above() {
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let update = |cursor: &mut Cursor, first: usize| {
            let names = &names[first..];
            cursor.update(names.len(), 10, |index| &names[index]);
        };
        let mut cursor = Cursor::default();
        update(&mut cursor, 50);
        update(&mut cursor, 45);
        assert_eq!(
            cursor.name.as_deref(),
            Some("45"),
            "the selection stays on the first row"
        );
        cursor.move_to(20);
        update(&mut cursor, 45);
        assert_eq!((cursor.index, cursor.first_visible), (20, 11));
        update(&mut cursor, 40);
        assert_eq!(
            (cursor.name.as_deref(), cursor.index, cursor.first_visible),
            (Some("65"), 25, 16)
        );
        cursor.move_to(usize::MAX);
        update(&mut cursor, 40);
        assert_eq!((cursor.index, cursor.first_visible), (59, 50));
        update(&mut cursor, 95);
        assert_eq!(
            (cursor.index, cursor.first_visible),
            (4, 0),
            "fewer rows than fit"
        );
        cursor.update(0, 10, |_| unreachable!());
        assert_eq!(
            (cursor.name.as_deref(), cursor.index, cursor.first_visible),
            (None, 0, 0)
        );
    }
}
