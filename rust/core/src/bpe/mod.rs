//! BPE: text to ids, the same ids as the tokenizers library's. Byte-level with GPT-2's words, or of characters with
//! words that spaces begin (Llama 2).
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
use words::{SHORT, SLOTS, slot_of};

pub use characters::{CharacterWords, Prefix, Spaces};
pub use count::WordCounts;
pub use train::Trainer;

const MAX_LONG: usize = 256; // bytes; longer words do not come again
const BATCH: usize = 32;
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

#[inline(always)]
#[allow(unsafe_code)]
fn prefetch<S>(slot: &S) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing that the program could see.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(slot).cast());
    }
}

/// A vocabulary: the id of each byte, and of what each pair of ids makes. Pairs come in the order of their ranks.
#[derive(Clone)]
pub struct Vocabulary {
    pub bytes: [u32; 256],
    pub merges: Vec<(u32, u32, u32)>, // left, right, made
    pub kind: Kind,
}

/// What words and their first ids are.
#[derive(Clone)]
pub enum Kind {
    /// GPT-2's words, whose bytes have ids.
    ByteLevel { add_prefix_space: bool },
    /// Words that spaces begin, whose characters have ids; one that has none is its bytes. " " is the visible space's.
    Characters { ids: HashMap<char, u32>, spaces: Spaces },
}

/// The ids that a word has before anything is merged.
enum Symbols {
    Bytes,
    Characters { ascii: Box<[Option<u32>; 128]>, others: HashMap<char, u32> },
}

/// Encodes texts; keeps what it has learnt of words from one to the next.
pub struct Encoder<T: Id> {
    bytes: [u32; 256],
    merges: Merges,
    symbols: Symbols,
    prefix: Prefix,
    spaces: Option<Spaces>, // None: GPT-2's words
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
        let (symbols, spaces, prefix) = match &vocabulary.kind {
            Kind::ByteLevel { add_prefix_space } => {
                (Symbols::Bytes, None, if *add_prefix_space { Prefix::UnlessThere } else { Prefix::Never })
            }
            Kind::Characters { ids, spaces } => {
                let ascii = std::array::from_fn(|code| ids.get(&char::from(code as u8)).copied());
                (Symbols::Characters { ascii: Box::new(ascii), others: ids.clone() }, Some(*spaces), spaces.prefix)
            }
        };
        let mut ids: Vec<u32> = vocabulary.merges.iter().map(|merge| merge.2).chain(vocabulary.bytes).collect();
        if let Symbols::Characters { others, .. } = &symbols {
            ids.extend(others.values());
        }
        let largest = ids.into_iter().max();
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
            symbols,
            prefix,
            spaces,
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
        if let Some(spaces) = self.spaces
            && text.contains(spaces.visible)
        {
            return self.encode(&text.replace(spaces.visible, " "), out);
        }
        let prefixed = match self.prefix {
            Prefix::Never => false,
            Prefix::Always => !text.is_empty(),
            Prefix::UnlessThere => !text.is_empty() && !text.starts_with(' '),
        };
        if prefixed {
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
        if let Some(spaces) = self.spaces {
            self.all(text, out, |start| {
                let end = characters::spaced_end(text, start, spaces.runs);
                (end, if end - start <= SHORT { words::pack(text, start, end) } else { 0 })
            });
        } else {
            let classes = self.classes;
            self.all(text, out, |start| words::next(text, start, classes));
        }
    }

    /// Every word of a text; `next` gives the end of the one that begins at a place, and it packed, 0 when it is long.
    ///
    /// Some words ahead are found first, and their slots asked for: the table lies in memory farther away than a word
    /// takes, so what counts is that these reads overlap.
    #[inline(always)]
    fn all(&mut self, text: &[u8], out: &mut Vec<T>, next: impl Fn(usize) -> (usize, u128)) {
        let (mut start, mut end) = (0, 0);
        let mut batch = [(0, 0, 0); BATCH];
        while end < text.len() {
            let mut found = 0;
            while found < BATCH && end < text.len() {
                let (stop, packed) = next(end);
                let at = slot_of(packed);
                batch[found] = (packed, stop, at);
                prefetch(&self.slots[at]);
                (found, end) = (found + 1, stop);
            }
            for &(packed, stop, at) in &batch[..found] {
                if packed != 0 {
                    self.short(packed, at, &text[start..stop], out);
                } else {
                    self.long(&text[start..stop], out);
                }
                start = stop;
            }
        }
    }

    #[inline(always)]
    fn short(&mut self, word: u128, at: usize, bytes: &[u8], out: &mut Vec<T>) {
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
        match &self.symbols {
            Symbols::Bytes => {
                self.workspace.merge(word.iter().map(|&byte| self.bytes[byte as usize]), &self.merges, &mut self.ids);
            }
            Symbols::Characters { ascii, others } => {
                let mut first = Vec::with_capacity(word.len());
                for character in String::from_utf8_lossy(word).chars() {
                    let found = match ascii.get(character as usize) {
                        Some(&found) => found,
                        None => others.get(&character).copied(),
                    };
                    if let Some(id) = found {
                        first.push(id);
                    } else {
                        let mut utf8 = [0; 4];
                        first.extend(character.encode_utf8(&mut utf8).bytes().map(|byte| self.bytes[byte as usize]));
                    }
                }
                self.workspace.merge(first.into_iter(), &self.merges, &mut self.ids);
            }
        }
        out.extend(self.ids.iter().map(|&id| T::from_u32(id)));
    }
}
