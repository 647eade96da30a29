//! Byte-level BPE with GPT-2's words: text to ids, the same ids as the tokenizers library's.
//!
//! Almost every word of a text has been seen before, so what counts is to find a word's end and to look it up. Words
//! of up to 15 bytes are looked up in a table of fixed size; longer ones, and those of many ids, in a map that is emptied
//! when it is full. Memory is bounded whatever the text, and neither table can change an id.

mod classes;
mod merge;
mod split;

use crate::error::{Error, Result};
use crate::shard::Id;
use merge::{Merge, Merges, Workspace};
use split::Classes;
use std::collections::HashMap;

const SHORT: usize = 15; // bytes; the sixteenth holds the length
const SLOTS: usize = 1 << 17;
const MAX_LONG: usize = 256; // bytes; longer words do not come again
const LONG_WORDS: usize = 1 << 15;

/// A word and its ids, the last of which is their number: half a cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Slot<T: Id> {
    word: u128, // 0 when empty: a word has a length
    ids: T::Few,
}

impl<T: Id> Slot<T> {
    /// None when there are more ids than fit.
    fn new(word: u128, found: &[u32]) -> Option<Self> {
        let mut ids = T::Few::default();
        let (count, places) = ids.as_mut().split_last_mut()?;
        *count = T::from_u32(found.len() as u32);
        places.get_mut(..found.len())?.iter_mut().zip(found).for_each(|(place, &id)| *place = T::from_u32(id));
        Some(Self { word, ids })
    }

    #[inline]
    fn append_to(&self, out: &mut Vec<T>) {
        let ids = self.ids.as_ref();
        let end = out.len() + ids[ids.len() - 1].to_u64() as usize;
        out.extend_from_slice(ids); // all, and then back: copying a fixed number is faster than counting
        out.truncate(end);
    }
}

/// A vocabulary: the id of each byte, and of what each pair of ids makes. Pairs come in the order of their ranks.
#[derive(Clone)]
pub struct Vocabulary {
    pub bytes: [u32; 256],
    pub merges: Vec<(u32, u32, u32)>, // left, right, made
    pub add_prefix_space: bool,
}

/// Encodes texts; keeps what it has learnt of words from one to the next.
pub struct Encoder<T: Id> {
    bytes: [u32; 256],
    merges: Merges,
    add_prefix_space: bool,
    classes: &'static Classes,
    slots: Vec<Slot<T>>,
    long: HashMap<Box<[u8]>, Box<[u32]>>,
    workspace: Workspace,
    ids: Vec<u32>,
    prefixed: Vec<u8>,
}

impl<T: Id> Encoder<T> {
    /// Raises an error when an id lies beyond what `T` holds.
    pub fn new(vocabulary: &Vocabulary) -> Result<Self> {
        let largest = vocabulary.bytes.iter().copied().chain(vocabulary.merges.iter().map(|merge| merge.2)).max();
        if let Some(id) = largest.map(u64::from).filter(|&id| id > T::MAX) {
            return Err(Error::IdBeyondVocabulary { id, vocab_size: T::MAX + 1 });
        }
        let mut merges = Merges::default();
        for (&(left, right, id), rank) in vocabulary.merges.iter().zip(0..) {
            merges.insert(left, right, Merge { rank, id });
        }
        Ok(Self {
            bytes: vocabulary.bytes,
            merges,
            add_prefix_space: vocabulary.add_prefix_space,
            classes: Classes::get(),
            slots: vec![Slot::default(); SLOTS],
            long: HashMap::new(),
            workspace: Workspace::default(),
            ids: Vec::new(),
            prefixed: Vec::new(),
        })
    }

    /// Appends a text's ids.
    pub fn encode(&mut self, text: &str, out: &mut Vec<T>) {
        if self.add_prefix_space && !text.is_empty() && !text.starts_with(' ') {
            let mut prefixed = std::mem::take(&mut self.prefixed);
            prefixed.clear();
            prefixed.push(b' ');
            prefixed.extend_from_slice(text.as_bytes());
            self.words(&prefixed, out);
            self.prefixed = prefixed;
        } else {
            self.words(text.as_bytes(), out);
        }
    }

    fn words(&mut self, text: &[u8], out: &mut Vec<T>) {
        let mut start = 0;
        while start < text.len() {
            if let Some(window) = window_at(text, start) {
                // The usual word: letters of ASCII, perhaps behind a space, and no other letter behind them.
                let spaces = usize::from(window as u8 == b' ');
                let letters = leading_letters(window >> (8 * spaces));
                let length = spaces + letters;
                if letters > 0 && length <= SHORT && text[start + length] < 0x80 {
                    let word = packed(window, length);
                    self.short(word, &text[start..start + length], out);
                    start += length;
                    continue;
                }
            }
            let end = self.classes.word_end(text, start);
            if end - start <= SHORT {
                let window = window_at(text, start).unwrap_or_else(|| {
                    let mut padded = [0; 16];
                    padded[..end - start].copy_from_slice(&text[start..end]);
                    u128::from_le_bytes(padded)
                });
                self.short(packed(window, end - start), &text[start..end], out);
            } else {
                self.long(&text[start..end], out);
            }
            start = end;
        }
    }

    #[inline(always)]
    fn short(&mut self, word: u128, bytes: &[u8], out: &mut Vec<T>) {
        let at = slot_of(word);
        if self.slots[at].word == word {
            self.slots[at].append_to(out);
        } else if self.slots[at ^ 1].word == word {
            self.slots[at ^ 1].append_to(out);
        } else {
            self.learn(word, at, bytes, out);
        }
    }

    #[cold]
    fn learn(&mut self, word: u128, at: usize, bytes: &[u8], out: &mut Vec<T>) {
        if !self.long.is_empty() && self.recall(bytes, out) {
            return;
        }
        self.merge(bytes, out);
        if let Some(slot) = Slot::new(word, &self.ids) {
            // The newer of the two words of a pair of slots stays, so that the common ones always come back.
            self.slots[at ^ 1] = self.slots[at];
            self.slots[at] = slot;
        } else {
            self.remember(bytes);
        }
    }

    fn long(&mut self, word: &[u8], out: &mut Vec<T>) {
        if !self.recall(word, out) {
            self.merge(word, out);
            self.remember(word);
        }
    }

    fn recall(&self, word: &[u8], out: &mut Vec<T>) -> bool {
        let found = self.long.get(word);
        out.extend(found.iter().flat_map(|ids| ids.iter()).map(|&id| T::from_u32(id)));
        found.is_some()
    }

    fn remember(&mut self, word: &[u8]) {
        if word.len() <= MAX_LONG {
            if self.long.len() == LONG_WORDS {
                self.long.clear();
            }
            self.long.insert(word.into(), self.ids.as_slice().into());
        }
    }

    fn merge(&mut self, word: &[u8], out: &mut Vec<T>) {
        self.ids.clear();
        self.workspace.merge(word.iter().map(|&byte| self.bytes[byte as usize]), &self.merges, &mut self.ids);
        out.extend(self.ids.iter().map(|&id| T::from_u32(id)));
    }
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
    window & ((1 << (8 * length)) - 1) | (length as u128) << 120
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

#[inline]
fn slot_of(word: u128) -> usize {
    let (low, high) = (word as u64, (word >> 64) as u64);
    let wide = u128::from(low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(high ^ 0xc2b2_ae3d_27d4_eb4f);
    ((wide >> 64) as u64 ^ wide as u64) as usize % SLOTS
}
