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
mod starts;
mod table;
mod train;
mod words;

use crate::error::{Error, Result};
use crate::shard::Id;
use merge::{Merges, Workspace};
use split::Classes;
use starts::Starts;
use std::collections::HashMap;
use table::{Table, packed};
use words::SHORT;

pub use characters::{CharacterWords, Prefix, Spaces};
pub use count::WordCounts;
pub use train::Trainer;

const MAX_LONG: usize = 256; // bytes; longer words do not come again
const BATCH: usize = 3 * starts::BLOCK; // words
const LONG_WORDS: usize = 1 << 15;
const LONG: u128 = u128::MAX; // no word packed, nor the 0 of an empty slot

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

/// A word that was found: packed, LONG when it is, its place in the table, and where it ends.
#[derive(Clone, Copy, Default)]
struct Word {
    packed: u128,
    place: usize,
    end: usize,
}

/// Words that follow each other in a text.
struct Batch {
    ends: [usize; BATCH],
    count: usize,
    start: usize, // of the first word
    words: [Word; BATCH],
    ids: [u8; 16 * BATCH],
}

impl Batch {
    fn new() -> Box<Self> {
        let words = [Word::default(); BATCH];
        Box::new(Self { ends: [0; BATCH], count: 0, start: 0, words, ids: [0; 16 * BATCH] })
    }

    fn end(&self) -> usize {
        if self.count == 0 { self.start } else { self.ends[self.count - 1] }
    }

    fn add(&mut self, end: usize) {
        self.ends[self.count] = end;
        self.count += usize::from(end > self.end());
    }

    /// The ends that are set in `bits`, at these bytes from `base`. Eight at a time, needed or not: a loop that ends by
    /// the number of words is guessed wrong once a block.
    #[inline(always)]
    fn add_bits(&mut self, base: usize, mut bits: u64) {
        let count = bits.count_ones() as usize;
        for ends in self.ends[self.count..self.count + starts::BLOCK].as_chunks_mut::<8>().0 {
            for end in ends {
                *end = base + bits.trailing_zeros() as usize;
                bits &= bits.wrapping_sub(1);
            }
            if bits == 0 {
                break;
            }
        }
        self.count += count;
    }
}

/// Encodes texts; keeps what it has learnt of words from one to the next.
pub struct Encoder<T: Id> {
    bytes: [u32; 256],
    merges: Merges,
    symbols: Symbols,
    prefix: Prefix,
    spaces: Option<Spaces>, // None: GPT-2's words
    classes: &'static Classes,
    table: Table,
    long: HashMap<Box<[u8]>, Box<[u32]>>,
    workspace: Workspace,
    ids: Vec<u32>,
    prefixed: Vec<u8>,
    batch: Option<Box<Batch>>,
    width: std::marker::PhantomData<T>,
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
        Ok(Self {
            bytes: vocabulary.bytes,
            merges: Merges::new(&vocabulary.merges),
            symbols,
            prefix,
            spaces,
            classes: Classes::get(),
            table: Table::new(),
            long: HashMap::new(),
            workspace: Workspace::default(),
            ids: Vec::new(),
            prefixed: Vec::new(),
            batch: None,
            width: std::marker::PhantomData,
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

    /// Words are found some ahead of being looked up.
    fn words(&mut self, text: &[u8], out: &mut Vec<T>) {
        let mut batch = self.batch.take().unwrap_or_else(Batch::new);
        (batch.count, batch.start) = (0, 0);
        if let Some(spaces) = self.spaces {
            while batch.end() < text.len() {
                batch.add(characters::spaced_end(text, batch.end(), spaces.runs));
                if batch.count == BATCH {
                    self.encode_batch(&mut batch, text, out);
                }
            }
        } else {
            let mut starts = Starts::new(text, self.classes);
            for base in (0..text.len()).step_by(starts::BLOCK) {
                let bits = starts.next();
                batch.add_bits(base, if base == 0 { bits & !1 } else { bits }); // where one begins the one before ends
                if batch.count > BATCH - 1 - starts::BLOCK {
                    self.encode_batch(&mut batch, text, out);
                }
            }
            batch.add(text.len());
        }
        self.encode_batch(&mut batch, text, out);
        self.batch = Some(batch);
    }

    /// All places in the table are asked for before the first is looked at: it lies in memory farther away than a word
    /// takes, so what counts is that these reads overlap.
    #[inline(always)]
    fn encode_batch(&mut self, batch: &mut Batch, text: &[u8], out: &mut Vec<T>) {
        let Batch { ends, words, ids, .. } = batch;
        let words = &mut words[..batch.count];
        let mut start = batch.start;
        for (word, &end) in words.iter_mut().zip(ends.iter()) {
            let packed = if end - start <= SHORT { words::pack(text, start, end) } else { LONG };
            *word = Word { packed, place: Table::place_of(packed), end };
            self.table.prefetch(word.place);
            start = end;
        }
        let (mut size, mut start) = (0, batch.start);
        for word in words.iter() {
            if let Some(&found) = self.table.get(word.place, word.packed) {
                ids[size..size + 16].copy_from_slice(&found.to_le_bytes()); // all: a fixed number is faster to copy
                size += (found >> (u128::BITS - 8 * size_of::<T>() as u32)) as usize * size_of::<T>();
            } else {
                T::from_le(&ids[..size], out);
                size = 0;
                self.learn(*word, &text[start..word.end], out);
            }
            start = word.end;
        }
        T::from_le(&ids[..size], out);
        (batch.start, batch.count) = (start, 0);
    }

    #[cold]
    fn learn(&mut self, word: Word, bytes: &[u8], out: &mut Vec<T>) {
        if !self.long.is_empty() && self.recall(bytes, out) {
            return;
        }
        self.merge(bytes, out);
        if word.packed == LONG {
            return self.remember(bytes);
        }
        match packed::<T>(&self.ids) {
            Some(ids) => self.table.put(word.place, word.packed, ids),
            None => self.remember(bytes),
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
