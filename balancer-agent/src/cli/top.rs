//! `top`: a live view of services and their backends: shares, calls, moves, failures.

mod readings;
mod view;

use self::{
    readings::{Reading, Sample},
    view::View,
};
use super::{
    arguments::{self, Global, Output},
    exit::Exit,
    page::{self, Page, Report},
};
use anyhow::Context;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use serde::Serialize;
use std::{
    io::{IsTerminal, stdout},
    thread::park_timeout,
    time::{Duration, Instant},
};

/// One sample, where there is no terminal to draw on.
#[derive(Debug, Serialize)]
struct TopReport {
    #[serde(flatten)]
    sample: Sample,
}

impl Report for TopReport {
    fn lay_out(&self, page: &mut Page) {
        page.line(&self.sample.summary());
        for service in &self.sample.services {
            page.heading(&service.name);
            if let Some(moves) = self.sample.moves_of(&service.name) {
                page.line(&moves);
            }
            let rows = service.backends.iter().map(view::cells).collect();
            page.table(&view::HEADINGS, rows);
        }
    }
}

pub(super) fn run(global: &Global, flags: &arguments::Top) -> anyhow::Result<Exit> {
    let service = flags.service.as_deref();
    if flags.once || global.output == Output::Json || !stdout().is_terminal() {
        let before = Reading::take(global, service)?;
        park_timeout_fully(flags.interval);
        let sample = Reading::take(global, service)?.since(&before);
        page::print(global.output, &TopReport { sample })?;
        return Ok(Exit::Ok);
    }
    // Whatever is wrong is said before the terminal is taken.
    let first = Reading::take(global, service)?;
    let mut terminal = ratatui::try_init().context("draw on the terminal; hint: --once prints")?;
    let result = draw(&mut terminal, global, flags, first);
    ratatui::restore();
    result.map(|()| Exit::Ok)
}

fn park_timeout_fully(duration: Duration) {
    let began = Instant::now();
    while let Some(left) = duration.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        park_timeout(left);
    }
}

fn draw(
    terminal: &mut DefaultTerminal,
    global: &Global,
    flags: &arguments::Top,
    first: Reading,
) -> anyhow::Result<()> {
    let mut before = first;
    let mut view = View::default();
    let mut next = Instant::now() + Duration::from_millis(200).min(flags.interval);
    loop {
        terminal.draw(|frame| view.draw(frame)).context("draw on the terminal")?;
        if event::poll(next.saturating_duration_since(Instant::now())).context("read keys")? {
            let event = event::read().context("read keys")?;
            if !obey(&mut view, &event) {
                return Ok(());
            }
        }
        if Instant::now() >= next {
            next += flags.interval;
            let reading = Reading::take(global, flags.service.as_deref())?;
            if !view.is_paused {
                view.sample = reading.since(&before);
            }
            before = reading;
        }
    }
}

/// Follows a key; whether to go on.
fn obey(view: &mut View, event: &Event) -> bool {
    let Event::Key(key) = event else { return true };
    if key.kind == KeyEventKind::Release {
        return true;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('p' | ' ') => view.is_paused = !view.is_paused,
        KeyCode::Up | KeyCode::Char('k') => view.scroll = view.scroll.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => view.scroll = view.scroll.saturating_add(1),
        KeyCode::PageUp => view.scroll = view.scroll.saturating_sub(20),
        KeyCode::PageDown => view.scroll = view.scroll.saturating_add(20),
        KeyCode::Home => view.scroll = 0,
        _ => {}
    }
    true
}
