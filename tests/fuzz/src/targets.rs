//! What each target checks, and how numbers are taken from its bytes.

pub mod adoption;
pub mod dns;
pub mod http2;
pub mod kubernetes;
pub mod texts;

/// Numbers from bytes; zeros once there are no more.
pub(crate) struct Numbers<'b>(pub(crate) &'b [u8]);

impl Numbers<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn word(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }
}

/// A message for people: one that says something, and nothing that a terminal would obey.
pub(crate) fn check_message(text: &str) {
    assert!(!text.trim().is_empty(), "a message says nothing");
    assert!(!text.chars().any(char::is_control), "a message has control characters: {text:?}");
}
