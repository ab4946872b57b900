//! What the demo shows: at most 80 columns, colours and live redrawing on a terminal only.

use std::{
    env,
    io::{IsTerminal, Stdout, Write},
};

/// Columns that a line may take.
pub const COLUMNS: usize = 80;
const INDENT: &str = "  ";

/// A colour or weight of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Headings.
    Bold,
    /// What may be skipped.
    Dim,
    /// What holds.
    Green,
    /// What does not.
    Red,
    /// Bars.
    Cyan,
}

impl Style {
    /// The parameter of the terminal's "select graphic rendition" (ECMA-48, 8.3.117).
    const fn code(self) -> u8 {
        match self {
            Self::Bold => 1,
            Self::Dim => 2,
            Self::Green => 32,
            Self::Red => 31,
            Self::Cyan => 36,
        }
    }
}

/// Standard output, with a block at its end that can be drawn anew.
pub struct Screen {
    out: Stdout,
    terminal: bool,
    coloured: bool,
    live_lines: usize,
}

impl Screen {
    /// The screen of this process. Colours obey `NO_COLOR` (no-color.org).
    pub fn new() -> Self {
        let out = std::io::stdout();
        let terminal = out.is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { out, terminal, coloured: terminal && !refused, live_lines: 0 }
    }

    /// Text in a style, where colours are shown.
    pub fn paint(&self, style: Style, text: &str) -> String {
        if self.coloured { format!("\x1b[{}m{text}\x1b[0m", style.code()) } else { text.to_owned() }
    }

    /// A heading over the whole width.
    pub fn heading(&mut self, title: &str) {
        let heading = heading(title);
        let painted = self.paint(Style::Bold, &heading);
        self.print(&[String::new(), painted]);
    }

    /// A paragraph, wrapped.
    pub fn say(&mut self, text: &str) {
        let lines: Vec<String> = wrap(text, COLUMNS - INDENT.len())
            .into_iter()
            .map(|line| format!("{INDENT}{line}"))
            .collect();
        self.print(&lines);
    }

    /// Something that was checked.
    pub fn verdict(&mut self, holds: bool, text: &str) {
        let (style, mark) = if holds { (Style::Green, "✔") } else { (Style::Red, "✘") };
        let mark = self.paint(style, mark);
        for (number, line) in wrap(text, COLUMNS - 4).into_iter().enumerate() {
            let mark = if number == 0 { mark.as_str() } else { " " };
            self.print(&[format!("{INDENT}{mark} {line}")]);
        }
    }

    /// Draws lines in place of those that were drawn live before. Elsewhere than on a terminal
    /// nothing is shown until it is final.
    pub fn live(&mut self, lines: &[String]) {
        if self.terminal {
            self.print(lines);
            self.live_lines = lines.len();
        }
    }

    /// Prints lines that stay, in place of those that were drawn live.
    pub fn print(&mut self, lines: &[String]) {
        let mut text = String::new();
        if self.live_lines > 0 {
            // Cursor up, then erase to the end of the screen (ECMA-48, 8.3.22 and 8.3.39).
            text = format!("\x1b[{}A\x1b[J", self.live_lines);
            self.live_lines = 0;
        }
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        // A reader that went away must not keep the demo from cleaning up.
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

fn heading(title: &str) -> String {
    let used = title.chars().count() + 4;
    format!("━━ {title} {}", "━".repeat(COLUMNS.saturating_sub(used)))
}

/// Breaks text at spaces so that no line is longer than `columns`, unless a word is.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > columns {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_fill_the_width() {
        for title in ["Act 1", "Act 3 of 5 · a fifth backend while clients run"] {
            assert_eq!(heading(title).chars().count(), COLUMNS, "{title}");
        }
    }

    #[test]
    fn wrapping_keeps_words_and_width() {
        let text = "kube-proxy picks a random backend for each connection, once, and keeps to it";
        for columns in [11, 12, 20, 33, 78] {
            let lines = wrap(text, columns);
            assert!(lines.iter().all(|line| line.chars().count() <= columns), "{lines:?}");
            assert_eq!(lines.join(" "), text);
        }
        assert_eq!(wrap("incomprehensibilities of", 5), ["incomprehensibilities", "of"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
