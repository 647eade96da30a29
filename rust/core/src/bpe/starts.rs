//! Where GPT-2's words begin, 64 bytes of a text at a time: a bit a byte, and a few operations on 64 of them.
//!
//! `Classes::word_end` finds one word after another, with a branch at each that the text decides; here the only branches
//! are for what is rare in most texts, characters beyond ASCII and apostrophes. The same words: a word begins where
//! the class changes, but not behind a space, which the word behind it takes; and the last of several spaces begins one.

use crate::bpe::split::{Class, Classes, contraction};

pub const BLOCK: usize = 64;

/// A bit for each byte of a block, the lowest for the first. Of bytes beyond ASCII it is only known that they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bytes {
    letters: u64,
    numbers: u64,
    white: u64,
    spaces: u64,
    apostrophes: u64,
    beyond: u64,
    leads: u64, // the first byte of a character beyond ASCII
}

impl Bytes {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn of(block: &[u8; BLOCK]) -> Self {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 has SSE2.
        return unsafe { Self::by_vectors(block) };
        #[cfg(not(target_arch = "x86_64"))]
        Self::one_by_one(block)
    }

    #[cfg(any(not(target_arch = "x86_64"), test))]
    fn one_by_one(block: &[u8; BLOCK]) -> Self {
        let bits = |test: fn(u8) -> bool| {
            block.iter().zip(0..).fold(0, |bits, (&byte, place)| bits | u64::from(test(byte)) << place)
        };
        Self {
            letters: bits(|byte| byte.is_ascii_alphabetic()),
            numbers: bits(|byte| byte.is_ascii_digit()),
            white: bits(|byte| matches!(byte, b'\t'..=b'\r' | b' ')),
            spaces: bits(|byte| byte == b' '),
            apostrophes: bits(|byte| byte == b'\''),
            beyond: bits(|byte| byte >= 0x80),
            leads: bits(|byte| byte >= 0xc0),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "sse2")]
    #[inline]
    fn by_vectors(block: &[u8; BLOCK]) -> Self {
        use std::arch::x86_64::*;
        let mut all = Self { letters: 0, numbers: 0, white: 0, spaces: 0, apostrophes: 0, beyond: 0, leads: 0 };
        let (parts, _) = block.as_chunks::<16>();
        for (part, shift) in parts.iter().zip((0..).step_by(16)) {
            let (low, high) = (u128::from_le_bytes(*part) as u64, (u128::from_le_bytes(*part) >> 64) as u64);
            let bytes = _mm_set_epi64x(high.cast_signed(), low.cast_signed());
            let bits = |mask| u64::from(_mm_movemask_epi8(mask).cast_unsigned()) << shift;
            // Unsigned `first <= byte <= first + span`.
            let within = |bytes, first: u8, span: u8| {
                let above = _mm_sub_epi8(bytes, _mm_set1_epi8(first.cast_signed()));
                _mm_cmpeq_epi8(_mm_min_epu8(above, _mm_set1_epi8(span.cast_signed())), above)
            };
            let is = |byte: u8| _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte.cast_signed()));
            let space = is(b' ');
            all.letters |= bits(within(_mm_or_si128(bytes, _mm_set1_epi8(0x20)), b'a', 25));
            all.numbers |= bits(within(bytes, b'0', 9));
            all.white |= bits(_mm_or_si128(within(bytes, b'\t', 4), space));
            all.spaces |= bits(space);
            all.apostrophes |= bits(is(b'\''));
            all.beyond |= bits(bytes);
            all.leads |= bits(bytes) & bits(_mm_slli_epi16::<1>(bytes)); // the two highest bits
        }
        all
    }
}

/// Goes through a text block by block. What one leaves to the next is at most 4 bits of each kind.
pub struct Starts<'a> {
    text: &'a [u8],
    classes: &'a Classes,
    at: usize,
    /// Of the byte before: 1 where it is a letter, a number, white, a space.
    letter: u64,
    number: u64,
    white: u64,
    space: u64,
    /// For the next block: bytes of a character that began before it, and starts that are and are not.
    rest: (u64, u64, u64),
    set: u64,
    clear: u64,
}

impl<'a> Starts<'a> {
    /// The text is valid UTF-8.
    pub fn new(text: &'a [u8], classes: &'a Classes) -> Self {
        Self { text, classes, at: 0, letter: 0, number: 0, white: 0, space: 0, rest: (0, 0, 0), set: 1, clear: 0 }
    }

    /// The starts in the next 64 bytes of the text; call it until the text is at its end.
    #[inline(always)]
    pub fn next(&mut self) -> u64 {
        let base = self.at;
        let left = &self.text[base..];
        let (mut bytes, inside) = if let Some(block) = left.first_chunk::<BLOCK>() {
            (Bytes::of(block), u64::MAX)
        } else {
            let mut padded = [b' '; BLOCK]; // spaces at the end stay one word
            padded[..left.len()].copy_from_slice(left);
            (Bytes::of(&padded), (1 << left.len()) - 1)
        };
        let ascii_white = bytes.white;
        let mut last_white = 0;
        if bytes.beyond != 0 {
            last_white = self.beyond_ascii(&mut bytes, base);
        }
        let Bytes { letters, numbers, white, spaces, apostrophes, .. } = bytes;
        let change = (letters ^ (letters << 1 | self.letter))
            | (numbers ^ (numbers << 1 | self.number))
            | (white ^ (white << 1 | self.white));
        let mut white_behind = white >> 1;
        if ascii_white >> 63 != 0 {
            white_behind |= u64::from(self.is_white_or_end(base + BLOCK)) << 63;
        }
        last_white |= ascii_white & !white_behind;
        let joined = !white & (spaces << 1 | self.space);
        let mut starts = (change & !joined | last_white | self.set) & !self.clear;
        (self.set, self.clear) = (0, 0);
        let quotes = apostrophes & starts;
        if quotes != 0 {
            starts = self.contractions(starts, quotes, base);
        }
        (self.letter, self.number) = (letters >> 63, numbers >> 63);
        (self.white, self.space) = (white >> 63, spaces >> 63);
        self.at = base + BLOCK.min(left.len());
        starts & inside
    }

    /// Adds the characters beyond ASCII to the classes; returns the last ones of white runs among them.
    #[inline(never)]
    fn beyond_ascii(&mut self, bytes: &mut Bytes, base: usize) -> u64 {
        let (letters, numbers, white) = std::mem::take(&mut self.rest);
        (bytes.letters, bytes.numbers, bytes.white) =
            (bytes.letters | letters, bytes.numbers | numbers, bytes.white | white);
        let (mut leads, mut last_white) = (bytes.leads, 0);
        while leads != 0 {
            let place = leads.trailing_zeros();
            leads &= leads - 1;
            let at = base + place as usize;
            let (class, length) = self.classes.at(self.text, at);
            let bits = ((1u128 << length) - 1) << place;
            let (now, later) = match class {
                Class::Other => continue,
                Class::Letter => (&mut bytes.letters, &mut self.rest.0),
                Class::Number => (&mut bytes.numbers, &mut self.rest.1),
                Class::Space => {
                    last_white |= u64::from(!self.is_white_or_end(at + length)) << place;
                    (&mut bytes.white, &mut self.rest.2)
                }
            };
            *now |= bits as u64;
            *later |= (bits >> 64) as u64;
        }
        last_white
    }

    fn is_white_or_end(&self, at: usize) -> bool {
        at >= self.text.len() || self.classes.at(self.text, at).0 == Class::Space
    }

    /// An apostrophe that begins a word may be one with the letters behind it.
    #[inline(never)]
    fn contractions(&mut self, mut starts: u64, mut quotes: u64, base: usize) -> u64 {
        while quotes != 0 {
            let place = quotes.trailing_zeros();
            quotes &= quotes - 1;
            let at = base + place as usize;
            if let Some(end) = contraction(self.text, at) {
                let (clear, set) = (2u128 << place, 1u128 << (end - base));
                starts = starts & !(clear as u64) | set as u64;
                self.clear |= (clear >> 64) as u64;
                self.set |= (set >> 64) as u64;
            }
        }
        starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<usize> {
        let mut found = Vec::new();
        let mut starts = Starts::new(text.as_bytes(), Classes::get());
        while starts.at < text.len() {
            let base = starts.at;
            let bits = starts.next();
            found.extend((0..64).filter(|place| bits >> place & 1 == 1).map(|place| base + place));
        }
        found
    }

    fn words_one_by_one(text: &str) -> Vec<usize> {
        let (mut found, mut at) = (Vec::new(), 0);
        while at < text.len() {
            found.push(at);
            at = Classes::get().word_end(text.as_bytes(), at);
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn words_are_those_found_one_by_one(
            pieces in proptest::collection::vec(prop_oneof![
                4 => proptest::sample::select("ab'sltdmrve  1.\n\té東\u{a0}\u{3000}🙂\u{301}½".chars().collect::<Vec<_>>()),
                1 => any::<char>(),
            ], 0..300),
            run in (any::<char>(), 0usize..140),
        ) {
            let mut text: String = pieces[..pieces.len() / 2].iter().collect();
            text.extend(std::iter::repeat_n(run.0, run.1));
            text.extend(&pieces[pieces.len() / 2..]);
            prop_assert_eq!(words(&text), words_one_by_one(&text));
        }

        #[test]
        fn vectors_see_what_bytes_are(bytes in proptest::collection::vec(any::<u8>(), BLOCK)) {
            let block: &[u8; BLOCK] = bytes.as_slice().try_into().expect("64");
            prop_assert_eq!(Bytes::of(block), Bytes::one_by_one(block));
        }
    }

    #[test]
    fn ascii_has_no_more_than_these_classes() {
        for first in [0, 64] {
            let block = std::array::from_fn(|place| first + place as u8);
            let bytes = Bytes::of(&block);
            for (&byte, place) in block.iter().zip(0..) {
                let class = Classes::get().at(&[byte], 0).0;
                let bit = |bits: u64| bits >> place & 1 == 1;
                assert_eq!(bit(bytes.letters), class == Class::Letter, "{byte}");
                assert_eq!(bit(bytes.numbers), class == Class::Number, "{byte}");
                assert_eq!(bit(bytes.white), class == Class::Space, "{byte}");
            }
        }
    }
}
