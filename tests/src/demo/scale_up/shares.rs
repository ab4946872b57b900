//! Who answers which part of the calls over time: samples, and their picture.

use super::super::{
    screen::{Screen, Style},
    spread::share,
    stage::Stage,
};
use crate::grpc::server::EchoServer;
use comfy_table::{Cell, CellAlignment, Table, presets};
use std::time::{Duration, Instant};

/// Time between two samples.
const PERIOD: Duration = Duration::from_millis(250);
/// Samples that are shown.
const SHOWN: usize = 44;
/// The share that fills the height of a line.
const FULL: f64 = 0.30;

/// Calls that each backend has answered so far, at one moment.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    requests: Vec<u64>,
}

/// Samples since the demo's clients dialled.
#[derive(Debug)]
pub(super) struct Shares {
    samples: Vec<Sample>,
}

// === impl Shares ===

impl Shares {
    pub(super) fn new(stage: &Stage) -> Self {
        let mut shares = Self { samples: Vec::new() };
        shares.sample(stage);
        shares
    }

    fn sample(&mut self, stage: &Stage) {
        let requests = stage.servers.iter().map(EchoServer::requests).collect();
        self.samples.push(Sample { at: Instant::now(), requests });
    }

    /// Goes on for a while, drawing what happens; what stands beside a backend's name is told by `remark`.
    pub(super) async fn watch(
        &mut self,
        stage: &Stage,
        screen: &mut Screen,
        seconds: f64,
        remark: impl Fn(&str) -> &'static str,
    ) {
        let end = tokio::time::sleep(Duration::from_secs_f64(seconds));
        tokio::pin!(end);
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.reset();
        loop {
            tokio::select! {
                () = &mut end => break,
                _ = ticks.tick() => {}
            }
            self.sample(stage);
            screen.live(&self.lines(stage, screen, &remark));
        }
        screen.print(&self.lines(stage, screen, &remark));
    }

    /// The part of all calls between two moments that the backends from `first` on have answered.
    pub(super) fn of(&self, first: usize, from: Instant, until: Instant) -> f64 {
        let (Some(before), Some(after)) = (
            self.samples.iter().rfind(|sample| sample.at <= from),
            self.samples.iter().rfind(|sample| sample.at <= until),
        ) else {
            return 0.0;
        };
        let gained = gained(before, after);
        share(gained.iter().skip(first).sum(), gained.iter().sum())
    }

    /// That part for each whole second since a moment.
    pub(super) fn by_second(&self, first: usize, since: Instant) -> Vec<f64> {
        let Some(last) = self.samples.last() else { return Vec::new() };
        let seconds = last.at.saturating_duration_since(since).as_secs();
        let second = |number: u64| since + Duration::from_secs(number);
        (0..seconds).map(|it| self.of(first, second(it), second(it + 1))).collect()
    }

    fn lines(
        &self,
        stage: &Stage,
        screen: &Screen,
        remark: &impl Fn(&str) -> &'static str,
    ) -> Vec<String> {
        let first = self.samples.len().saturating_sub(SHOWN + 1);
        let steps: Vec<Vec<u64>> =
            self.samples[first..].windows(2).map(|pair| gained(&pair[0], &pair[1])).collect();
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.set_header([
            Cell::new("backend"),
            right("conns".into()),
            right("share".into()),
            Cell::new("share of all calls, four samples a second"),
        ]);
        for (number, server) in stage.servers.iter().enumerate() {
            let of =
                |step: &Vec<u64>| share(step.get(number).copied().unwrap_or(0), step.iter().sum());
            let recent: Vec<u64> = steps.iter().rev().take(4).fold(Vec::new(), |sum, step| {
                step.iter()
                    .enumerate()
                    .map(|(at, it)| it + sum.get(at).copied().unwrap_or(0))
                    .collect()
            });
            let name = match remark(server.name()) {
                "" => server.name().to_owned(),
                remark => format!("{} {remark}", server.name()),
            };
            table.add_row([
                Cell::new(name),
                right(server.live().len().to_string()),
                right(format!("{:.1} %", of(&recent) * 100.0)),
                Cell::new(steps.iter().map(|step| level(of(step))).collect::<String>()),
            ]);
        }
        let mut lines = vec![String::new()];
        for (number, line) in table.lines().enumerate() {
            let mut line = format!(" {}", line.trim_end());
            if number == 0 {
                line = screen.paint(Style::Dim, &line);
            } else if let Some(start) = line.find(is_level) {
                let levels = line.split_off(start);
                line.push_str(&screen.paint(Style::Cyan, &levels));
            }
            lines.push(line);
        }
        lines
    }
}

fn gained(before: &Sample, after: &Sample) -> Vec<u64> {
    let before = before.requests.iter().copied().chain(std::iter::repeat(0));
    after.requests.iter().zip(before).map(|(after, before)| after.saturating_sub(before)).collect()
}

const LEVELS: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

fn level(share: f64) -> char {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number from 0 to 8"
    )]
    let level = (share / FULL * 8.0).clamp(0.0, 8.0).ceil() as usize;
    LEVELS[level]
}

fn is_level(character: char) -> bool {
    LEVELS.contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_between_moments() {
        let start = Instant::now();
        let at = |ms, requests: &[u64]| Sample {
            at: start + Duration::from_millis(ms),
            requests: requests.to_vec(),
        };
        let shares = Shares { samples: vec![at(0, &[10]), at(1_000, &[20]), at(2_000, &[50, 10])] };
        let second = |number| start + Duration::from_secs(number);
        assert!((shares.of(1, second(1), second(2)) - 0.25).abs() < 1e-9);
        assert_eq!(shares.by_second(1, start).len(), 2);
        assert!(shares.of(1, second(0), second(1)).abs() < 1e-9, "it was not there yet");
    }

    #[test]
    fn levels_fill_the_line() {
        assert_eq!([level(0.0), level(0.001), level(FULL), level(1.0)], ['·', '▁', '█', '█']);
    }
}
