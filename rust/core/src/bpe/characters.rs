//! Words of characters and their numbers, for vocabularies in which a space is a visible character.
//!
//! A word is a space, or a run of them, and what follows up to the next space or line end: so sentencepiece divides its
//! lines. No token will reach across the end of a word.

use std::collections::{BTreeMap, HashMap};

/// When a text gets a space before it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    Never,
    Always,
    UnlessThere,
}

/// How a vocabulary sees spaces.
#[derive(Clone, Copy)]
pub struct Spaces {
    pub visible: char, // what it has for a space; the same character in a text is a space as well
    pub prefix: Prefix,
    pub runs: bool, // a run of spaces begins a word; otherwise each of them does
}

/// Distinct words, each with its number; memory grows with the number of distinct ones.
#[derive(Default)]
pub struct CharacterWords(HashMap<Box<str>, u64>);

impl CharacterWords {
    /// Counts a word that somebody else has divided from its text.
    pub fn add(&mut self, word: &str, count: u64) {
        if let Some(found) = self.0.get_mut(word) {
            *found += count;
        } else if !word.is_empty() {
            self.0.insert(word.into(), count);
        }
    }

    /// Counts the words of a text, in which a space is " ".
    pub fn add_text(&mut self, text: &str, spaces: Spaces) {
        if text.contains(spaces.visible) {
            return self.add_text(&text.replace(spaces.visible, " "), spaces);
        }
        let prefixed = match spaces.prefix {
            Prefix::Never => false,
            Prefix::Always => !text.is_empty(),
            Prefix::UnlessThere => !text.is_empty() && !text.starts_with(' '),
        };
        let mut start = 0;
        if prefixed {
            let joins = !text.starts_with('\n') && (spaces.runs || !text.starts_with(' '));
            start = if joins { word_end(text.as_bytes(), 0, spaces.runs) } else { 0 };
            self.add(&format!(" {}", &text[..start]), 1);
        }
        while start < text.len() {
            let end = word_end(text.as_bytes(), start, spaces.runs);
            self.add(&text[start..end], 1);
            start = end;
        }
    }

    /// How often each character occurs.
    pub fn characters(&self) -> BTreeMap<char, u64> {
        let mut found = BTreeMap::new();
        for (word, count) in &self.0 {
            for character in word.chars() {
                *found.entry(character).or_default() += count;
            }
        }
        found
    }

    /// Every word and its count once, in no particular order. Leaves nothing behind.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = (Box<str>, u64)> + use<> {
        std::mem::take(&mut self.0).into_iter()
    }
}

/// The end of the word that begins at `start`. A line end is a word of its own.
fn word_end(text: &[u8], start: usize, runs: bool) -> usize {
    if text[start] == b'\n' {
        return start + 1;
    }
    let mut at = start + usize::from(text[start] == b' ');
    while runs && text.get(at) == Some(&b' ') {
        at += 1;
    }
    while text.get(at).is_some_and(|&byte| byte != b' ' && byte != b'\n') {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str, prefix: Prefix, runs: bool) -> Vec<(String, u64)> {
        let mut words = CharacterWords::default();
        words.add_text(text, Spaces { visible: '\u{2581}', prefix, runs });
        let mut found: Vec<_> = words.drain().map(|(word, count)| (word.into_string(), count)).collect();
        found.sort();
        found
    }

    #[test]
    fn a_word_is_spaces_and_what_follows_them() {
        let pairs = |words: &[(&str, u64)]| words.iter().map(|&(word, count)| (word.to_string(), count)).collect();
        let expected: Vec<_> = pairs(&[("\n", 2), (" ", 1), ("  b\u{e9}", 1), (" a", 2), ("c", 1)]);
        assert_eq!(counted("a  b\u{e9} a\n\nc ", Prefix::Always, true), expected);
        assert_eq!(counted("a\u{2581} b\u{e9} a\n\nc ", Prefix::UnlessThere, true), expected);
        let expected: Vec<_> = pairs(&[("\n", 2), (" ", 2), (" a", 2), (" b\u{e9}", 1), ("c", 1)]);
        assert_eq!(counted("a  b\u{e9} a\n\nc ", Prefix::Always, false), expected);
        assert_eq!(counted(" a", Prefix::Always, true), pairs(&[("  a", 1)]));
        assert_eq!(counted(" a", Prefix::Always, false), pairs(&[(" ", 1), (" a", 1)]));
        assert_eq!(counted(" a", Prefix::UnlessThere, true), pairs(&[(" a", 1)]));
        assert_eq!(counted("a", Prefix::Never, true), pairs(&[("a", 1)]));
        assert_eq!(counted("\na", Prefix::Always, true), pairs(&[("\n", 1), (" ", 1), ("a", 1)]));
        assert_eq!(counted("", Prefix::Always, true), pairs(&[]));
    }
}
