//! Bars of block elements, as `top` and the demo draw them.

/// What fills a cell in part.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// A bar that fills `share` of so many cells, to an eighth of one.
pub fn bar(share: f64, cells: u16) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number from 0 to 8 times the cells of a bar"
    )]
    let eighths = (share.clamp(0.0, 1.0) * f64::from(cells) * 8.0).round() as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// Whether a character is part of a bar.
pub fn is_bar(character: char) -> bool {
    ('▉'..='▏').contains(&character) || character == '█'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        let cases = [
            (0.0, ""),
            (0.25, "█"),
            (0.625, "██▌"),
            (0.03125, "▏"),
            (1.0, "████"),
            (7.0, "████"),
            (f64::NAN, ""),
        ];
        for (share, expected) in cases {
            let bar = bar(share, 4);
            assert_eq!(bar, expected, "{share}");
            assert!(bar.chars().all(is_bar));
        }
    }
}
