//! How lists are printed.

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::args::Format;

/// A table without lines, as `kubectl` prints them.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// Prints `items` in a machine's format; `false` for [`Format::Table`].
pub(crate) fn machine(format: Format, items: &impl Serialize) -> anyhow::Result<bool> {
    match format {
        Format::Table => return Ok(false),
        Format::Json => println!("{}", serde_json::to_string_pretty(items)?),
        Format::Yaml => print!("{}", serde_yaml_ng::to_string(items)?),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_lines_around_them() {
        let text = table(&["A", "B"], [vec!["long".into(), "x".into()]]);
        assert_eq!(text, "A      B\nlong   x\n");
    }
}
