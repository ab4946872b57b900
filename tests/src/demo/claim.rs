//! What the demo claims: each sentence carries what was measured, and whether it held.

use super::{Outcome, screen::Screen};

/// One claim and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    text: String,
    holds: bool,
}

/// All claims so far.
#[derive(Clone, Debug, Default)]
pub struct Claims(Vec<Claim>);

impl Claims {
    /// Adds a claim, and shows it.
    pub fn check(&mut self, screen: &mut Screen, holds: bool, text: String) {
        screen.verdict(holds, &text);
        self.0.push(Claim { text, holds });
    }

    /// Whether there are any, and all held.
    pub fn hold(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|claim| claim.holds)
    }

    /// Shows all of them together, and says what they come to.
    pub fn conclude(&self, screen: &mut Screen) -> Outcome {
        screen.heading("What was shown");
        for claim in &self.0 {
            screen.verdict(claim.holds, &claim.text);
        }
        let held = self.0.iter().filter(|claim| claim.holds).count();
        screen.say("");
        screen.verdict(self.hold(), &format!("{held} of {} claims held", self.0.len()));
        if self.hold() { Outcome::Proved } else { Outcome::Refuted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_claim_breaks_all_and_none_proves_nothing() {
        let mut screen = Screen::new();
        let mut claims = Claims::default();
        assert!(!claims.hold());
        claims.check(&mut screen, true, "one".into());
        assert!(claims.hold());
        claims.check(&mut screen, false, "two".into());
        claims.check(&mut screen, true, "three".into());
        assert!(!claims.hold());
    }
}
