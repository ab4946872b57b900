//! Seeded changes of inputs: the same seed and number give the same input on every machine.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom as _};

/// Longest input in bytes.
const BYTES_MAX: usize = 4 << 10;
/// Most changes of one input.
const CHANGES_MAX: u32 = 8;
/// Numbers at which parsers turn round.
const NUMBERS: [u32; 8] = [0, 1, 0x7f, 0xff, 0xffff, 0x00ff_ffff, 0x7fff_ffff, u32::MAX];

/// The input with this number: one of `kept`, changed in a few places.
pub fn input(seed: u64, number: u64, kept: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut bytes = kept.choose(&mut random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(1..=CHANGES_MAX) {
        change(&mut bytes, &mut random, kept, words);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, random: &mut StdRng, kept: &[Vec<u8>], words: &[&str]) {
    let (from, to) = range(bytes.len(), random);
    match random.random_range(0..9) {
        0 if from < bytes.len() => bytes[from] ^= 1 << random.random_range(0..8),
        1 if from < bytes.len() => bytes[from] = random.random(),
        2 => bytes.insert(from, random.random()),
        3 => drop(bytes.drain(from..to)),
        4 => {
            let copy = bytes[from..to].to_vec();
            let (at, _) = range(bytes.len(), random);
            bytes.splice(at..at, copy);
        }
        5 => bytes.truncate(from),
        6 => {
            let number = NUMBERS.choose(random).copied().unwrap_or_default().to_be_bytes();
            let width = random.random_range(1..=4);
            for (to, byte) in bytes[from..].iter_mut().zip(&number[4 - width..]) {
                *to = *byte;
            }
        }
        7 => {
            let word = words.choose(random).copied().unwrap_or_default();
            let end = if random.random() { to } else { from };
            bytes.splice(from..end, word.bytes());
        }
        _ => {
            let other = kept.choose(random).map_or(&[][..], Vec::as_slice);
            let (first, last) = range(other.len(), random);
            bytes.splice(from..to, other[first..last].iter().copied());
        }
    }
}

/// A part of so many bytes; short ones are more frequent.
fn range(length: usize, random: &mut StdRng) -> (usize, usize) {
    let from = random.random_range(0..=length);
    let longest = if random.random() { 8 } else { length };
    (from, (from + random.random_range(0..=longest)).min(length))
}
