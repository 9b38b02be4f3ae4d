//! Lists: aligned columns as Go's tabwriter makes them, templates and JSON.

use serde_json::{Map, Value};

use super::error::CliError;
use super::{template, ui};

/// A column that a list can show: its field name and heading.
pub(super) type Column = (&'static str, &'static str);

/// How a list is printed.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    /// The template or word given with `--format`.
    pub(super) format: Option<&'a str>,
    /// The template of the plain table.
    pub(super) default: &'a str,
    /// All fields with their headings.
    pub(super) columns: &'a [Column],
}

impl Layout<'_> {
    /// Prints the rows.
    pub(super) fn print(&self, rows: &[Value]) -> Result<(), CliError> {
        ui::text(&self.render(rows)?)?;
        Ok(())
    }

    fn render(&self, rows: &[Value]) -> Result<String, CliError> {
        let format = self.format.map_or("table", str::trim);
        let mut text = String::new();
        if format == "json" {
            for row in rows {
                text.push_str(&serde_json::to_string(row)?);
                text.push('\n');
            }
            return Ok(text);
        }
        let Some(template) = format.strip_prefix("table") else {
            for row in rows {
                text.push_str(&template::render(format, row)?);
                text.push('\n');
            }
            return Ok(text);
        };
        let template = if template.trim().is_empty() { self.default } else { template.trim() };
        let headings: Map<String, Value> = self
            .columns
            .iter()
            .map(|(name, heading)| ((*name).to_owned(), Value::from(*heading)))
            .collect();
        let mut lines = vec![template::render(template, &Value::Object(headings))?];
        for row in rows {
            lines.push(template::render(template, row)?);
        }
        Ok(align(&lines))
    }
}

const MIN_WIDTH: usize = 10;
const PADDING: usize = 3;

/// Lines with tabs as columns at least ten wide and three apart; the last cell is free.
pub(super) fn align(lines: &[String]) -> String {
    let cells: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &cells {
        for (column, cell) in row.iter().enumerate().take(row.len() - 1) {
            let width = cell.chars().count() + PADDING;
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width.max(MIN_WIDTH)),
            }
        }
    }
    let mut text = String::new();
    for row in &cells {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let blanks = widths[column] - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        text.push('\n');
    }
    text
}

/// At most `width` characters, the last one an ellipsis where something is cut.
pub(super) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_look_as_dockers() {
        let rows = [
            serde_json::json!({"ID": "c1", "Names": "a-long-name-indeed"}),
            serde_json::json!({"ID": "0123456789ab", "Names": "b"}),
        ];
        let columns = &[("ID", "CONTAINER ID"), ("Names", "NAMES")];
        #[rustfmt::skip]
        let table: &[(Option<&str>, &str)] = &[
            (None,                                     "CONTAINER ID   NAMES\nc1             a-long-name-indeed\n0123456789ab   b\n"),
            (Some("table {{.Names}}\\t{{.ID}}"),       "NAMES                CONTAINER ID\na-long-name-indeed   c1\nb                    0123456789ab\n"),
            (Some("{{.ID}}:{{ json .Names }}"),        "c1:\"a-long-name-indeed\"\n0123456789ab:\"b\"\n"),
            (Some("json"),                             "{\"ID\":\"c1\",\"Names\":\"a-long-name-indeed\"}\n{\"ID\":\"0123456789ab\",\"Names\":\"b\"}\n"),
        ];
        for (format, expected) in table {
            let layout = Layout { format: *format, default: "{{.ID}}\t{{.Names}}", columns };
            assert_eq!(layout.render(&rows).as_deref(), Ok(*expected), "{format:?}");
        }
    }

    #[test]
    fn long_texts_end_in_an_ellipsis() {
        assert_eq!(ellipsis("abcde", 5), "abcde");
        assert_eq!(ellipsis("äbcdef", 5), "äbcd…");
    }
}
