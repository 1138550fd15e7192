//! Which row of a list is chosen, while rows come and go.

/// Which row is chosen, and which rows are seen.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// The chosen row's name. It stays chosen wherever it goes.
    pub(super) name: Option<String>,
    pub(super) at: usize,
    pub(super) top: usize,
    /// Rows that are seen.
    pub(super) page: usize,
    /// Whether `at` is what the user wants, rather than `name`.
    moved: bool,
}

impl Cursor {
    /// Goes to a row; past the last one is the last one.
    pub(super) fn to(&mut self, at: usize) {
        (self.at, self.moved) = (at, true);
    }

    /// How far down a text of `rows` lines is of which `page` are seen: no row of it is chosen.
    pub(super) fn scroll(&mut self, rows: usize, page: usize) -> usize {
        self.page = page;
        self.at = self.at.min(rows.saturating_sub(page));
        self.at
    }

    /// Finds the chosen row among `rows` rows, of which `page` are seen. Who is at the top stays
    /// there, where the news are; any other row keeps its place on the screen when rows come in
    /// above it.
    pub(super) fn settle<'a>(&mut self, rows: usize, page: usize, name: impl Fn(usize) -> &'a str) {
        self.page = page;
        if !self.moved && self.at > 0 {
            let known = self.name.as_deref();
            if let Some(at) = (0..rows).find(|at| Some(name(*at)) == known) {
                self.top = (self.top + at).saturating_sub(self.at);
                self.at = at;
            }
        }
        self.moved = false;
        self.at = self.at.min(rows.saturating_sub(1));
        let lowest = (self.at + 1).saturating_sub(page);
        self.top = self.top.clamp(lowest, self.at.max(lowest));
        self.top = self.top.min(rows.saturating_sub(page));
        self.name = (self.at < rows).then(|| name(self.at).to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_row_keeps_its_place_when_rows_come_in_above() {
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let settle = |cursor: &mut Cursor, from: usize| {
            let names = &names[from..];
            cursor.settle(names.len(), 10, |at| &names[at]);
        };
        let mut cursor = Cursor::default();
        settle(&mut cursor, 50);
        settle(&mut cursor, 45);
        assert_eq!(
            cursor.name.as_deref(),
            Some("45"),
            "the top is where the news are"
        );
        cursor.to(20);
        settle(&mut cursor, 45);
        assert_eq!((cursor.at, cursor.top), (20, 11));
        settle(&mut cursor, 40);
        assert_eq!(
            (cursor.name.as_deref(), cursor.at, cursor.top),
            (Some("65"), 25, 16)
        );
        cursor.to(usize::MAX);
        settle(&mut cursor, 40);
        assert_eq!((cursor.at, cursor.top), (59, 50));
        settle(&mut cursor, 95);
        assert_eq!((cursor.at, cursor.top), (4, 0), "fewer rows than fit");
        cursor.settle(0, 10, |_| unreachable!());
        assert_eq!(
            (cursor.name.as_deref(), cursor.at, cursor.top),
            (None, 0, 0)
        );
    }
}
