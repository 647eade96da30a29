//! The ids of one word: the pair with the lowest rank is merged first, the leftmost of equals, until none is left.
//!
//! In the order in which the tokenizers library takes pairs from its queue, down to this: an entry whose pair has
//! changed since is still taken when the new pair makes the same token. Vocabularies in which two pairs make one token
//! exist, so it matters.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// Multiplies and folds: keys here are pairs of ids, which nobody chooses to collide.
#[derive(Default)]
pub struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        let wide = u128::from(self.0 ^ value) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835_u128;
        self.0 = (wide >> 64) as u64 ^ wide as u64;
    }
}

/// What merging a pair makes, and how early it is merged.
#[derive(Clone, Copy)]
pub struct Merge {
    pub rank: u32,
    pub id: u32,
}

#[derive(Default)]
pub struct Merges(HashMap<u64, Merge, BuildHasherDefault<PairHasher>>);

impl Merges {
    pub fn insert(&mut self, left: u32, right: u32, merge: Merge) {
        self.0.insert(u64::from(left) << 32 | u64::from(right), merge);
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> Option<Merge> {
        self.0.get(&(u64::from(left) << 32 | u64::from(right))).copied()
    }
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Symbol {
    id: u32, // NONE once it is part of the symbol before it
    before: u32,
    behind: u32,
}

/// Buffers that one word leaves to the next.
#[derive(Default)]
pub struct Workspace {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<(u32, u32, u32)>>, // rank, position, id
}

impl Workspace {
    /// Appends the ids of the word whose bytes have these ids.
    pub fn merge(&mut self, bytes: impl ExactSizeIterator<Item = u32>, merges: &Merges, out: &mut Vec<u32>) {
        let count = bytes.len() as u32;
        self.symbols.clear();
        self.queue.clear();
        self.symbols.extend(bytes.zip(0..).map(|(id, at)| Symbol {
            id,
            before: if at == 0 { NONE } else { at - 1 },
            behind: if at + 1 == count { NONE } else { at + 1 },
        }));
        for at in 1..count {
            self.propose(at - 1, at, merges);
        }
        while let Some(Reverse((_, at, id))) = self.queue.pop() {
            let left = self.symbols[at as usize];
            if left.id == NONE || left.behind == NONE {
                continue;
            }
            let right = self.symbols[left.behind as usize];
            if merges.get(left.id, right.id).is_none_or(|merge| merge.id != id) {
                continue; // the pair has changed since
            }
            self.symbols[left.behind as usize].id = NONE;
            self.symbols[at as usize] = Symbol { id, before: left.before, behind: right.behind };
            if right.behind != NONE {
                self.symbols[right.behind as usize].before = at;
                self.propose(at, right.behind, merges);
            }
            if left.before != NONE {
                self.propose(left.before, at, merges);
            }
        }
        out.extend(self.symbols.iter().map(|symbol| symbol.id).filter(|&id| id != NONE));
    }

    fn propose(&mut self, left: u32, right: u32, merges: &Merges) {
        if let Some(merge) = merges.get(self.symbols[left as usize].id, self.symbols[right as usize].id) {
            self.queue.push(Reverse((merge.rank, left, merge.id)));
        }
    }
}
