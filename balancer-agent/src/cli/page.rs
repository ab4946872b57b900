//! How results reach standard output: one report struct, as tables for people or as JSON for programs.

use super::arguments::Output;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{self, Write};

/// Narrowest terminal that tables are fitted into.
const COLUMNS_MIN: u16 = 60;

/// What a command found.
pub(super) trait Report: Serialize {
    /// Lays it out for people.
    fn lay_out(&self, page: &mut Page);
}

/// Prints a report to standard output.
pub(super) fn print(output: Output, report: &impl Report) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut stdout, report).map_err(io::Error::from)?;
            writeln!(stdout)?;
        }
        Output::Table => {
            // Only a terminal has a width; what is piped on is for grep, one line for each row.
            let width = terminal_size::terminal_size_of(io::stdout())
                .map(|(columns, _)| columns.0.max(COLUMNS_MIN));
            let mut page = Page::new(width);
            report.lay_out(&mut page);
            stdout.write_all(page.text.as_bytes())?;
        }
    }
    Ok(stdout.flush()?)
}

/// Text for people, in the making.
pub(super) struct Page {
    width: Option<u16>,
    text: String,
}

impl Page {
    pub(super) fn new(width: Option<u16>) -> Self {
        let text = String::new();
        Self { width, text }
    }

    /// What was laid out.
    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// A line of its own.
    pub(super) fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Starts a part of the page.
    pub(super) fn heading(&mut self, heading: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.line(&heading.to_uppercase());
    }

    /// Names with their values.
    pub(super) fn pairs(&mut self, pairs: &[(&str, String)]) {
        let mut table = self.empty_table();
        for (name, value) in pairs {
            table.add_row([*name, value]);
        }
        self.place(&mut table);
    }

    /// A list, if there is anything in it.
    pub(super) fn list(&mut self, heading: &str, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        self.heading(heading);
        let mut table = self.empty_table();
        for line in lines {
            table.add_row(["-", line]);
        }
        self.place(&mut table);
    }

    /// A table. The headings of columns of numbers start with `#`, those of text that may be broken
    /// into several lines with `~`; neither is printed. Other columns are never broken: in a
    /// terminal too narrow for them all, lines run over.
    pub(super) fn table(&mut self, headings: &[&str], rows: Vec<Vec<String>>) {
        let mut table = self.empty_table();
        table.set_header(
            headings.iter().map(|heading| heading.trim_start_matches(['#', '~']).to_uppercase()),
        );
        for row in rows {
            table.add_row(row);
        }
        for (column, heading) in table.column_iter_mut().zip(headings) {
            if heading.starts_with('#') {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if !heading.starts_with('~') {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        self.place(&mut table);
    }

    fn empty_table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        if let Some(width) = self.width {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(width);
        }
        table
    }

    fn place(&mut self, table: &mut Table) {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            self.line(line.trim_end());
        }
    }
}

/// `-` for nothing.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// Items in one cell.
pub(super) fn joined<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "-".into();
    }
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

/// Microseconds for people.
pub(super) fn microseconds(us: u64) -> String {
    match us {
        0 => "-".into(),
        1..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{}.{}ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{}s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

/// Seconds for people.
pub(super) fn seconds(s: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(s)).to_string()
}

/// Compares a report's table with its golden file; `UPDATE_GOLDEN=1` writes the file anew.
#[cfg(test)]
pub(super) fn check_golden(name: &str, report: &impl Report, width: Option<u16>) {
    let mut page = Page::new(width);
    report.lay_out(&mut page);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/cli/golden")
        .join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, page.text()).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(page.text(), golden, "{} differs; UPDATE_GOLDEN=1 accepts it", path.display());
    // JSON renders the same struct.
    assert!(serde_json::to_value(report).unwrap().is_object());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_fit_a_narrow_terminal() {
        let mut page = Page::new(Some(40));
        let path = "/kubepods.slice/".repeat(5);
        page.table(&["~name", "#count"], vec![vec![path, "12".into()]]);
        assert!(page.text().lines().all(|line| line.len() <= 40));
        assert!(page.text().lines().count() > 2);
        let mut page = Page::new(None);
        page.table(&["name", "#count"], vec![vec!["x".repeat(300), "12".into()]]);
        assert_eq!(page.text().lines().count(), 2);
    }

    #[test]
    fn units_are_for_people() {
        assert_eq!(microseconds(0), "-");
        assert_eq!(microseconds(999), "999us");
        assert_eq!(microseconds(1_250), "1.2ms");
        assert_eq!(microseconds(12_345_678), "12.3s");
        assert_eq!(seconds(3_661), "1h 1m 1s");
    }
}
