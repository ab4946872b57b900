//! The tables of backends and of pods, with a bar for each one's requests.

use super::spread::{Spread, share};
use balancer_agent::cli::bar;
use comfy_table::{Cell, CellAlignment, Table, presets};

/// Cells of the longest bar.
pub const BAR_CELLS: u16 = 22;

/// What is shown of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Its live connections.
    pub connections: u64,
    /// Requests in the time shown.
    pub requests: u64,
    /// What is special about it: new, draining; empty for nothing.
    pub remark: &'static str,
}

/// What is shown of one pod, whose clients alone are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRow {
    /// Its name.
    pub name: String,
    /// Requests in the time shown.
    pub requests: u64,
    /// What is special about it: new; empty for nothing.
    pub remark: &'static str,
}

/// The rows as lines without colours, at most 80 columns wide.
pub fn lines(rows: &[Row]) -> Vec<String> {
    let requests: Vec<u64> = rows.iter().map(|row| row.requests).collect();
    let header = [Cell::new("backend"), Cell::new("address"), right("conns".into())];
    let cells = rows.iter().map(|row| {
        let connections = right(row.connections.to_string());
        vec![name(&row.name, row.remark), Cell::new(&row.address), connections]
    });
    with_bars(header.into(), cells.collect(), &requests)
}

/// The same for pods.
pub fn pod_lines(rows: &[PodRow]) -> Vec<String> {
    let requests: Vec<u64> = rows.iter().map(|row| row.requests).collect();
    let cells = rows.iter().map(|row| vec![name(&row.name, row.remark)]);
    with_bars(vec![Cell::new("pod")], cells.collect(), &requests)
}

fn with_bars(mut header: Vec<Cell>, rows: Vec<Vec<Cell>>, requests: &[u64]) -> Vec<String> {
    let total: u64 = requests.iter().sum();
    let peak = requests.iter().copied().max().unwrap_or(0);
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    header.extend([right("requests".into()), right("share".into()), Cell::new("")]);
    table.set_header(header);
    for (mut row, own) in rows.into_iter().zip(requests) {
        row.extend([
            right(own.to_string()),
            right(format!("{:.1} %", share(*own, total) * 100.0)),
            Cell::new(bar(share(*own, peak))),
        ]);
        table.add_row(row);
    }
    table.lines().map(|line| format!(" {}", line.trim_end())).collect()
}

fn name(name: &str, remark: &str) -> Cell {
    Cell::new(if remark.is_empty() { name.to_owned() } else { format!("{name} {remark}") })
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// The line below a table.
pub fn summary(spread: &Spread) -> String {
    format!(
        "peak/mean {:.2}, coefficient of variation {:.3}",
        spread.peak_to_mean, spread.variation
    )
}

/// A bar that fills `share` of [`BAR_CELLS`].
pub fn bar(share: f64) -> String {
    bar::bar(share, BAR_CELLS)
}

#[cfg(test)]
mod tests {
    use super::super::screen::COLUMNS;
    use super::*;

    #[test]
    fn tables_fit_the_terminal() {
        let row = |name: &str, requests, remark| Row {
            name: name.into(),
            address: "10.1.0.1:50051".into(),
            connections: 1000,
            requests,
            remark,
        };
        let rows =
            [row("b1", 9_999_999, ""), row("b2", 4_999_999, "draining"), row("b3", 0, "new")];
        let lines = lines(&rows);
        assert_eq!(lines.len(), rows.len() + 1);
        for line in &lines {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
        assert!(lines[1].ends_with(&"█".repeat(BAR_CELLS.into())), "{lines:?}");
        assert!(lines[1].contains("66.7 %") && lines[3].contains("0.0 %"), "{lines:?}");

        let name = "a-deployment-5b7cc4599c-abcde".to_owned();
        let lines = pod_lines(&[PodRow { name, requests: 9_999_999, remark: "new" }]);
        assert!(lines[1].ends_with(&"█".repeat(BAR_CELLS.into())), "{lines:?}");
        assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS), "{lines:?}");
    }
}
