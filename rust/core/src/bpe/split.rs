//! GPT-2's division of a text into words, the way the tokenizers library does it with a regular expression:
//!
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
//!
//! Every byte of the text is in exactly one word.

use crate::bpe::classes::{LETTERS, NUMBERS, SPACES};
use std::sync::OnceLock;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    Other,
    Letter,
    Number,
    Space,
}

const PAGE: usize = 256;

/// The class of every code point: pages of 256, of which equal ones are kept once.
pub struct Classes {
    ascii: [Class; 128],
    page_of: Vec<u8>,
    pages: Vec<[Class; PAGE]>,
}

impl Classes {
    pub fn get() -> &'static Self {
        static CLASSES: OnceLock<Classes> = OnceLock::new();
        CLASSES.get_or_init(Self::build)
    }

    fn build() -> Self {
        let mut all = vec![Class::Other; 0x11_0000];
        for (ranges, class) in [
            (LETTERS.as_slice(), Class::Letter),
            (NUMBERS.as_slice(), Class::Number),
            (SPACES.as_slice(), Class::Space),
        ] {
            for &(first, last) in ranges {
                all[first as usize..=last as usize].fill(class);
            }
        }
        let mut pages: Vec<[Class; PAGE]> = Vec::new();
        let page_of = all
            .chunks_exact(PAGE)
            .map(|chunk| {
                let at = pages.iter().position(|page| page == chunk).unwrap_or_else(|| {
                    let mut page = [Class::Other; PAGE];
                    page.copy_from_slice(chunk);
                    pages.push(page);
                    pages.len() - 1
                });
                u8::try_from(at).expect("Unicode has fewer than 256 kinds of pages")
            })
            .collect();
        let mut ascii = [Class::Other; 128];
        ascii.copy_from_slice(&all[..128]);
        Self { ascii, page_of, pages }
    }

    #[inline]
    pub fn of(&self, code_point: u32) -> Class {
        self.pages[self.page_of[(code_point as usize) / PAGE] as usize][code_point as usize % PAGE]
    }

    /// Class and length in bytes of the character that begins at `at`. The text is valid UTF-8, and `at` inside it.
    #[inline(always)]
    pub fn at(&self, text: &[u8], at: usize) -> (Class, usize) {
        let first = text[at];
        if first < 0x80 {
            return (self.ascii[first as usize], 1);
        }
        let tail = |offset: usize| u32::from(text[at + offset] & 0x3f);
        match first {
            0xc0..0xe0 => (self.of(u32::from(first & 0x1f) << 6 | tail(1)), 2),
            0xe0..0xf0 => (self.of(u32::from(first & 0x0f) << 12 | tail(1) << 6 | tail(2)), 3),
            _ => (self.of(u32::from(first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3)), 4),
        }
    }

    /// The end of the run of characters of one class that begins at `at`.
    #[inline]
    fn run(&self, text: &[u8], mut at: usize, class: Class) -> usize {
        while at < text.len() {
            let (found, length) = self.at(text, at);
            if found != class {
                break;
            }
            at += length;
        }
        at
    }

    /// The end of the word that begins at `start`, which lies inside the text.
    #[inline]
    pub fn word_end(&self, text: &[u8], start: usize) -> usize {
        let (mut class, mut length) = self.at(text, start);
        let mut at = start;
        if text[start] == b'\'' {
            if let Some(end) = contraction(text, start) {
                return end;
            }
        } else if text[start] == b' ' && start + 1 < text.len() {
            // " ?": the space belongs to the word behind it, unless that is a space as well.
            let next = self.at(text, start + 1);
            if next.0 != Class::Space {
                (class, length) = next;
                at += 1;
            }
        }
        let end = self.run(text, at + length, class);
        if class != Class::Space || end == text.len() {
            return end;
        }
        // "\s+(?!\S)" leaves the last space to the word behind, but "\s+" takes one that is alone.
        let last = (at..end).rev().find(|&byte| text[byte] & 0xc0 != 0x80).unwrap_or(at);
        if last > at { last } else { end }
    }
}

/// The end of the contraction that begins at an apostrophe, if it is one.
pub fn contraction(text: &[u8], start: usize) -> Option<usize> {
    match (text.get(start + 1)?, text.get(start + 2)) {
        (b's' | b't' | b'm' | b'd', _) => Some(start + 2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(start + 3),
        _ => None,
    }
}
