//! BPE from word counts, of bytes or of characters: the commonest pair of neighbours becomes a token, and again, and again.
//!
//! Of equally common pairs the one with the lower ids is merged first, as in the tokenizers library's trainer; with
//! that the merges are a function of the counts, whatever the order of the words, and the library's are the same ones.
//!
//! No two pairs make the same token (as bytes or characters, whichever the words are of). A token came to be without a merge across its ends. Until then each step did the
//! same inside of them wherever these bytes stood, because a merge looks at nothing but two neighbours, and goes from
//! left to right: what might take a token's first part away lies across its left end. So the same bytes between
//! uncrossed ends became this token everywhere in the same step. It follows that a pair arises in one step only,
//! that in which the later of its two tokens is made, and that its count can only fall after that. Therefore the queue
//! may hold outdated counts, which are corrected when they reach the top, and pairs below the least count are dropped.
//!
//! The library counts in 32 bits: a pair that occurs 2^31 times overflows there, and does not here.

use crate::bpe::merge::PairHasher;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasherDefault;

const MIN_COUNT: i64 = 2;

type Pair = (u32, u32);

/// The words of more than one id, as ids that merges shorten in place.
struct Words {
    ids: Vec<u32>,
    starts: Vec<usize>,
    lengths: Vec<usize>,
    counts: Vec<i64>,
}

/// A pair's number of occurrences, and the words it has been in.
struct Occurrences {
    pair: Pair,
    count: i64,
    words: Vec<u32>,
}

#[derive(Default)]
struct Pairs {
    places: HashMap<u64, u32, BuildHasherDefault<PairHasher>>,
    all: Vec<Occurrences>,
    num_queued: usize,                            // those behind arose in the step under way
    queue: BinaryHeap<(i64, Reverse<Pair>, u32)>, // count, pair, place
}

/// Makes merges one at a time, until the vocabulary is full or no pair occurs twice.
pub struct Trainer {
    words: Words,
    pairs: Pairs,
    merges: Vec<Pair>,
    first_id: u32,
    vocab_size: usize,
}

impl Trainer {
    /// From words with their counts. `bytes` are the ids of the 256 bytes; new ones follow the largest.
    pub fn of_bytes(counted: impl Iterator<Item = (Box<[u8]>, u64)>, bytes: &[u32; 256], vocab_size: usize) -> Self {
        let mut trainer = Self::empty(bytes.iter().max().map_or(0, |&largest| largest + 1), vocab_size);
        for (word, count) in counted {
            trainer.add(word.iter().map(|&byte| bytes[byte as usize]), count);
        }
        trainer.pairs.enqueue();
        trainer
    }

    /// The same of characters. Nothing is merged with a character that has no id, nor with a reserved string or a part
    /// of it, nor across them: so no new token is one of the `reserved`.
    pub fn of_characters(
        counted: impl Iterator<Item = (Box<str>, u64)>,
        ids: &HashMap<char, u32>,
        reserved: &[String],
        first_id: u32,
        vocab_size: usize,
    ) -> Self {
        let mut trainer = Self::empty(first_id, vocab_size);
        for (word, count) in counted {
            for part in without(&word, reserved) {
                for part in part.split(|character| !ids.contains_key(&character)) {
                    trainer.add(part.chars().map(|character| ids[&character]), count);
                }
            }
        }
        trainer.pairs.enqueue();
        trainer
    }

    fn empty(first_id: u32, vocab_size: usize) -> Self {
        let words = Words { ids: Vec::new(), starts: Vec::new(), lengths: Vec::new(), counts: Vec::new() };
        Self { words, pairs: Pairs::default(), merges: Vec::new(), first_id, vocab_size }
    }

    fn add(&mut self, ids: impl Iterator<Item = u32>, count: u64) {
        let (start, count) = (self.words.ids.len(), count as i64);
        self.words.ids.extend(ids);
        let length = self.words.ids.len() - start;
        if length < 2 {
            return self.words.ids.truncate(start);
        }
        let number = u32::try_from(self.words.counts.len()).expect("fewer than 2^32 distinct words");
        self.words.starts.push(start);
        self.words.lengths.push(length);
        self.words.counts.push(count);
        for pair in self.words.ids[start..].windows(2) {
            self.pairs.add((pair[0], pair[1]), count, number);
        }
    }

    /// Merges one pair. False when there is none left to merge, or the vocabulary is full.
    pub fn merge(&mut self) -> bool {
        let made = self.first_id as usize + self.merges.len();
        if made >= self.vocab_size {
            return false;
        }
        let Some((pair, words)) = self.pairs.commonest() else {
            return false;
        };
        self.merges.push(pair);
        for word in words {
            self.words.merge(word, pair, made as u32, &mut self.pairs);
        }
        self.pairs.enqueue();
        true
    }

    /// The pairs merged so far; the first made the first new id, and so on.
    pub fn merges(&self) -> &[Pair] {
        &self.merges
    }
}

/// What is left of a word between the reserved strings in it.
fn without<'a>(word: &'a str, reserved: &[String]) -> Vec<&'a str> {
    let mut parts = vec![word];
    if !reserved.iter().filter_map(|string| string.chars().next()).any(|first| word.contains(first)) {
        return parts;
    }
    for string in reserved.iter().filter(|string| !string.is_empty()) {
        if parts.iter().any(|part| part.contains(string.as_str())) {
            parts = parts.iter().flat_map(|part| part.split(string.as_str())).collect();
        }
    }
    parts
}

impl Pairs {
    fn at(&mut self, pair: Pair) -> &mut Occurrences {
        let next = self.all.len();
        let place = *self.places.entry(u64::from(pair.0) << 32 | u64::from(pair.1)).or_insert(next as u32) as usize;
        if place == next {
            self.all.push(Occurrences { pair, count: 0, words: Vec::new() });
        }
        &mut self.all[place]
    }

    fn add(&mut self, pair: Pair, count: i64, word: u32) {
        let found = self.at(pair);
        found.count += count;
        if found.words.last() != Some(&word) {
            found.words.push(word);
        }
    }

    fn take(&mut self, pair: Pair, count: i64) {
        self.at(pair).count -= count;
    }

    /// Puts the pairs that arose in a step into the queue.
    fn enqueue(&mut self) {
        for (place, found) in self.all.iter_mut().enumerate().skip(self.num_queued) {
            if found.count >= MIN_COUNT {
                self.queue.push((found.count, Reverse(found.pair), place as u32));
            } else {
                found.words = Vec::new();
            }
        }
        self.num_queued = self.all.len();
    }

    /// The commonest pair, with the words that may hold it.
    fn commonest(&mut self) -> Option<(Pair, Vec<u32>)> {
        while let Some((count, Reverse(pair), place)) = self.queue.pop() {
            let found = &mut self.all[place as usize];
            if found.count == count {
                return Some((pair, std::mem::take(&mut found.words)));
            }
            if found.count >= MIN_COUNT {
                self.queue.push((found.count, Reverse(pair), place));
            } else {
                found.words = Vec::new();
            }
        }
        None
    }
}

impl Words {
    /// Merges a pair wherever it is in a word, from left to right, and counts what that makes and takes away.
    fn merge(&mut self, word: u32, pair: Pair, made: u32, pairs: &mut Pairs) {
        let number = word as usize;
        let (start, count) = (self.starts[number], self.counts[number]);
        let ids = &mut self.ids[start..start + self.lengths[number]];
        let (mut read, mut write) = (0, 0);
        while read < ids.len() {
            if ids[read] != pair.0 || ids.get(read + 1) != Some(&pair.1) {
                ids[write] = ids[read];
                (read, write) = (read + 1, write + 1);
                continue;
            }
            if write > 0 {
                pairs.take((ids[write - 1], pair.0), count);
                pairs.add((ids[write - 1], made), count, word);
            }
            if let Some(&behind) = ids.get(read + 2) {
                pairs.take((pair.1, behind), count);
                pairs.add((made, behind), count, word);
            }
            ids[write] = made;
            (read, write) = (read + 2, write + 1);
        }
        self.lengths[number] = write;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn bytes() -> [u32; 256] {
        std::array::from_fn(|byte| byte as u32)
    }

    fn merges(words: &BTreeMap<Vec<u8>, u64>, vocab_size: usize) -> Vec<Pair> {
        let counted = words.iter().map(|(word, &count)| (word.as_slice().into(), count));
        let mut trainer = Trainer::of_bytes(counted, &bytes(), vocab_size);
        while trainer.merge() {}
        trainer.merges().to_vec()
    }

    /// Counts all pairs anew for every merge.
    fn reference(words: &BTreeMap<Vec<u8>, u64>, vocab_size: usize) -> Vec<Pair> {
        let mut split: Vec<(Vec<u32>, u64)> =
            words.iter().map(|(word, &count)| (word.iter().map(|&byte| u32::from(byte)).collect(), count)).collect();
        let mut merges = Vec::new();
        for made in 256..vocab_size as u32 {
            let mut counts: BTreeMap<Pair, u64> = BTreeMap::new();
            for (ids, count) in &split {
                for pair in ids.windows(2) {
                    *counts.entry((pair[0], pair[1])).or_default() += count;
                }
            }
            let Some((&pair, _)) =
                counts.iter().filter(|item| *item.1 >= 2).max_by_key(|item| (item.1, Reverse(item.0)))
            else {
                break;
            };
            merges.push(pair);
            for (ids, _) in &mut split {
                let mut at = 0;
                while at + 1 < ids.len() {
                    if (ids[at], ids[at + 1]) == pair {
                        ids.splice(at..at + 2, [made]);
                    }
                    at += 1;
                }
            }
        }
        merges
    }

    proptest! {
        #[test]
        fn merges_are_those_of_counting_anew_and_make_no_token_twice(
            words in prop::collection::btree_map(prop::collection::vec(b'a'..=b'c', 1..20), 1_u64..9, 0..30),
            vocab_size in 200_usize..400,
        ) {
            let made = merges(&words, vocab_size);
            prop_assert_eq!(&made, &reference(&words, vocab_size));
            let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
            for (left, right) in made {
                tokens.push([tokens[left as usize].as_slice(), &tokens[right as usize]].concat());
            }
            prop_assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), tokens.len());
        }
    }

    #[test]
    fn a_character_without_an_id_ends_a_word() {
        let words: [(Box<str>, u64); 2] = [("abéab".into(), 1), ("béa".into(), 5)];
        let ids = HashMap::from([('a', 10), ('b', 11)]);
        let mut trainer = Trainer::of_characters(words.into_iter(), &ids, &[], 12, 100);
        while trainer.merge() {}
        assert_eq!(trainer.merges(), [(10, 11)]);
    }

    #[test]
    fn no_token_is_a_reserved_string() {
        let words: [(Box<str>, u64); 1] = [("<s>ss".into(), 9)];
        let ids = HashMap::from([('<', 10), ('s', 11), ('>', 12)]);
        let mut trainer = Trainer::of_characters(words.into_iter(), &ids, &["<s>".into()], 13, 100);
        while trainer.merge() {}
        assert_eq!(trainer.merges(), [(11, 11)]);
    }

    #[test]
    fn counts_beyond_32_bits_are_right() {
        let words = BTreeMap::from([(b"ab".to_vec(), 1 << 40), (b"cd".to_vec(), (1 << 40) + 1)]);
        assert_eq!(merges(&words, 300), [(b'c'.into(), b'd'.into()), (b'a'.into(), b'b'.into())]);
    }
}
