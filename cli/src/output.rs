//! Output of commands: tables, aligned fields, JSON and YAML.

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::args::OutputFormat;

/// Returns a table with aligned columns and without lines, as `kubectl` prints them.
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

/// Returns lines of `name: value` with aligned values. Fields with an empty value are left out.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    fields
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| {
            let value = value.replace('\n', &format!("\n{:width$}  ", ""));
            format!("{:<width$}  {value}\n", format!("{name}:"))
        })
        .collect()
}

/// Prints `value` as JSON or YAML. Returns `false`, without output, for [`OutputFormat::Table`].
pub(crate) fn print_serialized(
    format: OutputFormat,
    value: &impl Serialize,
) -> anyhow::Result<bool> {
    match format {
        OutputFormat::Table => return Ok(false),
        OutputFormat::Json => println!("{}", serde_json::to_string_pretty(value)?),
        OutputFormat::Yaml => print!("{}", serde_yaml_ng::to_string(value)?),
    }
    Ok(true)
}

/// Returns the text in one line of at most `most` characters, and an ellipsis where it was longer.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_lines() {
        let text = table(&["A", "B"], [vec!["long".into(), "x".into()]]);
        assert_eq!(text, "A      B\nlong   x\n");
    }

    #[test]
    fn values_of_fields_are_aligned_and_empty_ones_left_out() {
        let text = fields(&[
            ("A", "1".into()),
            ("Long", "2".into()),
            ("B", String::new()),
        ]);
        assert_eq!(text, "A:     1\nLong:  2\n");
    }
}
