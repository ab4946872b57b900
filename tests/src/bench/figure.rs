//! Figures: a median with its spread, beside the bar that it has to meet.

use super::statistics::quantile;
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a figure is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A proportion to something measured in the same round.
    Ratio,
    /// A number without a unit.
    Number,
    /// Nanoseconds.
    Nanoseconds,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Millions of bytes.
    Megabytes,
    /// Hundredths; of CPU, of one core.
    Percent,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{value:.3}x"),
            Self::Number => format!("{value:.3}"),
            Self::Nanoseconds => format!("{value:.0} ns"),
            Self::Microseconds => format!("{value:.1} µs"),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Percent => format!("{value:.1} %"),
        }
    }
}

/// One line of a benchmark's table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured, and against what.
    pub what: String,
    /// What it is counted in.
    pub unit: Unit,
    /// The median of all rounds.
    pub median: f64,
    /// The lower quartile.
    pub low: f64,
    /// The upper quartile.
    pub high: f64,
    /// Rounds.
    pub rounds: usize,
    /// What the median must not exceed.
    pub bar: Option<f64>,
}

impl Figure {
    /// A figure of one value for each round.
    pub fn new(what: impl Into<String>, unit: Unit, rounds: &[f64]) -> Self {
        Self {
            what: what.into(),
            unit,
            median: quantile(rounds, 0.5),
            low: quantile(rounds, 0.25),
            high: quantile(rounds, 0.75),
            rounds: rounds.len(),
            bar: None,
        }
    }

    /// The same figure, with a bar that it has to meet.
    #[must_use]
    pub fn at_most(self, bar: f64) -> Self {
        Self { bar: Some(bar), ..self }
    }

    /// Whether the bar is met, if there is one.
    pub fn met(&self) -> Option<bool> {
        self.bar.map(|bar| self.median <= bar)
    }

    fn cells(&self) -> [String; 6] {
        let met = self.met().map(|met| if met { "met" } else { "missed" });
        [
            self.what.clone(),
            self.unit.show(self.median),
            format!("{} – {}", self.unit.show(self.low), self.unit.show(self.high)),
            self.rounds.to_string(),
            self.bar.map_or_else(String::new, |bar| format!("≤ {}", self.unit.show(bar))),
            met.unwrap_or_default().to_owned(),
        ]
    }
}

const HEADER: [&str; 6] = ["figure", "median", "quartiles", "rounds", "bar", ""];

/// All figures of one benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The benchmark.
    pub benchmark: String,
    /// Its lines.
    pub figures: Vec<Figure>,
    /// Cells of the table as people read them, header first.
    pub table: Vec<Vec<String>>,
}

impl Report {
    /// The report of `benchmark`.
    pub fn new(benchmark: &str, figures: Vec<Figure>) -> Self {
        let header = HEADER.map(str::to_owned).to_vec();
        let rows = figures.iter().map(|figure| figure.cells().to_vec());
        Self {
            benchmark: benchmark.to_owned(),
            table: std::iter::once(header).chain(rows).collect(),
            figures,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        let mut rows = self.table.iter();
        if let Some(header) = rows.next() {
            table.set_header(header);
        }
        table.add_rows(rows);
        write!(f, "{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_by_what_does_not_exceed_it() {
        let figure = Figure::new("p50", Unit::Ratio, &[1.0, 1.1, 1.2]);
        assert_eq!(figure.met(), None);
        assert_eq!(figure.clone().at_most(1.1).met(), Some(true));
        assert_eq!(figure.clone().at_most(1.05).met(), Some(false));
        let text = Report::new("connect", vec![figure.at_most(1.05)]).to_string();
        for part in ["1.100x", "1.050x – 1.150x", "≤ 1.050x", "missed", "3"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
