//! How often each word occurs, in memory bounded by the number of distinct words.
//!
//! A table of fixed size, which stays in the cache, counts the words that are common just now; a word that leaves it
//! takes its count along into a map. The map's hash has a secret key: nobody can write a text that makes it slow.

use crate::bpe::split::Classes;
use crate::bpe::words::{self, SLOTS, slot_of, unpacked};
use std::collections::HashMap;

#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Slot {
    word: u128, // 0 when empty: a word has a length
    count: u64,
}

/// Words of texts and their numbers.
pub struct WordCounts {
    classes: &'static Classes,
    slots: Vec<Slot>,
    short: HashMap<u128, u64>,
    long: HashMap<Box<[u8]>, u64>,
}

impl Default for WordCounts {
    fn default() -> Self {
        Self {
            classes: Classes::get(),
            slots: vec![Slot::default(); SLOTS],
            short: HashMap::new(),
            long: HashMap::new(),
        }
    }
}

impl WordCounts {
    /// Counts the words that begin in `from..until`; returns where the last of them ends, which is where the next
    /// call goes on. The text is valid UTF-8, and a word begins at `from`.
    pub fn add(&mut self, text: &[u8], from: usize, until: usize) -> usize {
        let mut start = from;
        while start < until.min(text.len()) {
            let (end, packed) = words::next(text, start, self.classes);
            if packed != 0 {
                self.short(packed);
            } else if let Some(count) = self.long.get_mut(&text[start..end]) {
                *count += 1;
            } else {
                self.long.insert(text[start..end].into(), 1);
            }
            start = end;
        }
        start
    }

    #[inline]
    fn short(&mut self, packed: u128) {
        let at = slot_of(packed);
        if self.slots[at].word == packed {
            self.slots[at].count += 1;
        } else if self.slots[at ^ 1].word == packed {
            self.slots[at ^ 1].count += 1;
        } else {
            // The newer of the two words of a pair of slots stays.
            Self::put(&mut self.short, self.slots[at ^ 1]);
            self.slots[at ^ 1] = self.slots[at];
            self.slots[at] = Slot { word: packed, count: 1 };
        }
    }

    /// Every word and its count once, in no particular order. Leaves nothing behind.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = (Box<[u8]>, u64)> + use<> {
        for slot in &mut self.slots {
            Self::put(&mut self.short, std::mem::take(slot));
        }
        let mut all: Vec<(Box<[u8]>, u64)> = Vec::with_capacity(self.short.len() + self.long.len());
        all.extend(std::mem::take(&mut self.short).into_iter().map(|(word, count)| {
            let (bytes, length) = unpacked(word);
            (bytes[..length].into(), count)
        }));
        all.extend(std::mem::take(&mut self.long));
        all.into_iter()
    }

    fn put(short: &mut HashMap<u128, u64>, slot: Slot) {
        if slot.count > 0 {
            *short.entry(slot.word).or_default() += slot.count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn counted(texts: &[&str], step: usize) -> BTreeMap<Vec<u8>, u64> {
        let mut counts = WordCounts::default();
        for text in texts {
            let mut at = 0;
            while at < text.len() {
                at = counts.add(text.as_bytes(), at, at + step);
            }
        }
        let words = counts.drain().map(|(word, count)| (word.into_vec(), count));
        words.collect()
    }

    #[test]
    fn words_of_all_lengths_are_counted_however_the_text_is_cut() {
        let text =
            "a a  an exactly15bytes! sixteen-letters-long \u{e9}t\u{e9} it's ".repeat(3) + "\n" + &"z".repeat(40);
        let whole = counted(&[&text, " a", "a"], usize::MAX / 2);
        assert_eq!(whole[b" a".as_slice()], 3 + 2 + 1);
        assert_eq!(whole[b"z".repeat(40).as_slice()], 1);
        assert_eq!(whole.iter().map(|(word, count)| word.len() as u64 * count).sum::<u64>(), text.len() as u64 + 3);
        for step in [1, 7] {
            assert_eq!(counted(&[&text, " a", "a"], step), whole);
        }
    }

    #[test]
    fn a_word_that_leaves_the_table_and_comes_back_is_one_word() {
        let texts: Vec<String> = (0..300_000).map(|number| format!(" {}", number % 150_000)).collect();
        let whole = counted(&texts.iter().map(String::as_str).collect::<Vec<_>>(), 1 << 20);
        assert_eq!(whole.len(), 150_000);
        assert!(whole.values().all(|&count| count == 2));
    }
}
