//! Byte-level BPE with GPT-2's words: text to ids, the same ids as the tokenizers library's.
//!
//! Almost every word of a text has been seen before, so what counts is to find a word's end and to look it up. Words
//! of up to 15 bytes are looked up in a table of fixed size; longer ones, and those of many ids, in a map that is emptied
//! when it is full. Memory is bounded whatever the text, and neither table can change an id.

mod characters;
mod classes;
mod count;
mod merge;
mod split;
mod train;
mod words;

use crate::error::{Error, Result};
use crate::shard::Id;
use merge::{Merge, Merges, Workspace};
use split::Classes;
use std::collections::HashMap;
use words::{SLOTS, slot_of};

pub use characters::{CharacterWords, Prefix, Spaces};
pub use count::WordCounts;
pub use train::Trainer;

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
            let (end, packed) = words::next(text, start, self.classes);
            if packed != 0 {
                self.short(packed, &text[start..end], out);
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
