//! A text word by word, the short ones packed into a number.
//!
//! Up to 15 bytes and their number fit into a u128, which is compared and hashed at once; nearly all words are that
//! short.

use crate::bpe::split::Classes;

pub const SHORT: usize = 15; // bytes; the sixteenth holds the length
pub const SLOTS: usize = 1 << 19;

/// The first so many bytes.
const FIRST: [u128; 16] = {
    let mut masks = [0; 16];
    let mut length = 1;
    while length < 16 {
        masks[length] = masks[length - 1] << 8 | 0xff;
        length += 1;
    }
    masks
};

/// The end of the word that begins at `start`, and the word packed, or 0 when it is long. The text is valid UTF-8.
#[inline(always)]
pub fn next(text: &[u8], start: usize, classes: &Classes) -> (usize, u128) {
    let window = window_at(text, start);
    if let Some(window) = window {
        // The usual word: letters of ASCII, perhaps behind a space, and no other letter behind them.
        let spaces = usize::from(window as u8 == b' ');
        let letters = leading_letters(window >> (8 * spaces));
        let length = spaces + letters;
        if letters > 0 && length <= SHORT && text[start + length] < 0x80 {
            return (start + length, packed(window, length));
        }
    }
    let end = classes.word_end(text, start);
    if end - start > SHORT {
        return (end, 0);
    }
    (end, window.map_or_else(|| pack(text, start, end), |window| packed(window, end - start)))
}

/// The word of at most `SHORT` bytes between `start` and `end`.
#[inline(always)]
pub fn pack(text: &[u8], start: usize, end: usize) -> u128 {
    let window = window_at(text, start).unwrap_or_else(|| {
        let mut padded = [0; 16];
        padded[..end - start].copy_from_slice(&text[start..end]);
        u128::from_le_bytes(padded)
    });
    packed(window, end - start)
}

/// The bytes of a packed word, in the front of the array, and their number.
pub fn unpacked(word: u128) -> ([u8; 16], usize) {
    (word.to_le_bytes(), (word >> 120) as usize)
}

/// 16 bytes of the text, the first one lowest. None near the end.
#[inline]
fn window_at(text: &[u8], start: usize) -> Option<u128> {
    let window = text.get(start..start + 16)?;
    Some(u128::from_le_bytes(window.try_into().expect("16 bytes")))
}

/// Up to 15 bytes and, above them, their number: equal for equal words only.
#[inline]
fn packed(window: u128, length: usize) -> u128 {
    window & FIRST[length % 16] | (length as u128) << 120
}

/// How many of the bytes, from the lowest, are ASCII letters; all 16 at once, no byte carries into the next.
#[inline]
fn leading_letters(window: u128) -> usize {
    const ONES: u128 = u128::MAX / 0xff;
    let small = (window | (0x20 * ONES)) & (0x7f * ONES);
    let from_a = small + (0x80 - 0x61) * ONES;
    let behind_z = small + (0x80 - 0x7b) * ONES;
    let letters = from_a & !behind_z & !window & (0x80 * ONES);
    (letters ^ (0x80 * ONES)).trailing_zeros() as usize / 8
}

/// Where a table of `SLOTS` has the word; its second choice is the neighbour, `^ 1`.
#[inline]
pub fn slot_of(word: u128) -> usize {
    let (low, high) = (word as u64, (word >> 64) as u64);
    let wide = u128::from(low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(high ^ 0xc2b2_ae3d_27d4_eb4f);
    ((wide >> 64) as u64 ^ wide as u64) as usize % SLOTS
}
