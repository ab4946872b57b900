//! How `top` looks.

use super::readings::{BackendRow, Sample};
use crate::cli::bar::bar;
use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Cell, Paragraph, Row, Table},
};

/// Cells of the longest bar.
const BAR_CELLS: u16 = 20;
/// The columns, as tables of other commands name theirs: `#` for numbers.
pub(super) const HEADINGS: [&str; 10] = [
    "backend",
    "state",
    "#conns",
    "#calls/s",
    "#in flight",
    "#p50 ms",
    "#p99 ms",
    "#failures",
    "#share",
    "~",
];
/// Columns behind the first one, in which services have their names.
const BEHIND_NAME: u16 = 9;
const WIDTHS: [u16; 10] = [26, 9, 7, 9, 9, 8, 8, 8, 8, 20];

/// What is drawn.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) sample: Sample,
    /// Rows that are above the screen.
    pub(super) scroll: usize,
    pub(super) is_paused: bool,
}

/// A backend's row as text.
pub(super) fn cells(row: &BackendRow) -> Vec<String> {
    vec![
        row.address.to_string(),
        row.state.to_owned(),
        row.connections.to_string(),
        format!("{:.1}", row.calls_per_s),
        row.in_flight.to_string(),
        milliseconds(row.p50_ms),
        milliseconds(row.p99_ms),
        row.failures.to_string(),
        format!("{:.1} %", row.share * 100.0),
        bar(row.share, BAR_CELLS),
    ]
}

fn milliseconds(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}"))
}

// === impl View ===

impl View {
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)])
                .areas(frame.area());
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let summary = if self.sample.services.is_empty() && self.sample.seconds == 0.0 {
            "reading".to_owned()
        } else {
            self.sample.summary()
        };
        frame.render_widget(Paragraph::new(Line::styled(summary, bold)), head);
        let rows = self.rows();
        let last = rows.len().saturating_sub(usize::from(body.height.saturating_sub(1)));
        self.scroll = self.scroll.min(last);
        let heading = |text: &&str| {
            let shown = text.trim_start_matches(['#', '~']).to_uppercase();
            aligned(text, shown)
        };
        let headings = Row::new(HEADINGS.iter().map(heading).collect::<Vec<_>>());
        let table = Table::new(rows.into_iter().skip(self.scroll), WIDTHS.map(Constraint::Length))
            .header(headings.style(Style::new().add_modifier(Modifier::DIM)));
        frame.render_widget(table, body);
        let keys = if self.is_paused {
            "paused; p goes on, q quits"
        } else {
            "arrows scroll, p pauses, q quits"
        };
        let dim = Style::new().add_modifier(Modifier::DIM);
        frame.render_widget(Paragraph::new(Line::styled(keys, dim)), foot);
    }

    fn rows(&self) -> Vec<Row<'static>> {
        let mut rows = Vec::new();
        for service in &self.sample.services {
            let bold = Style::new().add_modifier(Modifier::BOLD);
            let moves = self.sample.moves_of(&service.name).unwrap_or_default();
            let name = Cell::from(service.name.clone());
            // The line begins in the second column, and ends where the screen does.
            rows.push(Row::new([name, Cell::from(moves).column_span(BEHIND_NAME)]).style(bold));
            for backend in &service.backends {
                let cells = HEADINGS.iter().zip(cells(backend));
                let cells: Vec<_> = cells.map(|(heading, text)| aligned(heading, text)).collect();
                let colour = match backend.state {
                    "active" => Color::Reset,
                    _ => Color::Yellow,
                };
                rows.push(Row::new(cells).style(Style::new().fg(colour)));
            }
        }
        rows
    }
}

fn aligned(heading: &str, text: String) -> Cell<'static> {
    let line = Line::from(text);
    if heading.starts_with('#') {
        Cell::from(line.right_aligned())
    } else if heading.starts_with('~') {
        Cell::from(line.style(Style::new().fg(Color::Cyan)))
    } else {
        Cell::from(line)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::readings::tests::sample, *};
    use ratatui::{Terminal, backend::TestBackend};

    fn drawn(view: &mut View, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(110, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn shares_are_drawn_as_bars() {
        let mut view = View { sample: sample(), ..View::default() };
        let screen = drawn(&mut view, 12);
        for part in [
            "8 moves begun, 6 made, 2 given up",
            "payments",
            "3 moves begun, 2 made, 1 given up, 1 stubborn",
            "10.0.0.1:50051",
            "75.0 %",
            "███████████████",
            "draining",
        ] {
            assert!(screen.contains(part), "{part} in\n{screen}");
        }
    }

    #[test]
    fn scrolling_ends_where_the_rows_end() {
        let mut view = View { sample: sample(), scroll: 99, is_paused: true };
        let screen = drawn(&mut view, 6);
        assert_eq!(view.scroll, 1, "three rows on two lines");
        assert!(screen.contains("paused") && !screen.contains("payments"), "{screen}");
        assert!(drawn(&mut View::default(), 6).contains("reading"));
    }
}
