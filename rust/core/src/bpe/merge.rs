//! The ids of one word: the pair with the lowest rank is merged first, the leftmost of equals, until none is left.
//!
//! In the order in which the tokenizers library takes pairs from its queue, down to this: an entry whose pair has
//! changed since is still taken when the new pair makes the same token. Vocabularies in which two pairs make one token
//! exist, so it matters.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::Hasher;

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

/// What each pair of ids makes: open addressing, at most half full, and no place is ever given up.
pub struct Merges {
    places: Vec<(u64, Merge)>,
    shift: u32,
    /// Whether two pairs make one token somewhere.
    twice: bool,
}

const EMPTY: u64 = u64::MAX;

impl Merges {
    /// (left, right, made) in the order of their ranks; of a pair that is there twice the later counts.
    pub fn new(pairs: &[(u32, u32, u32)]) -> Self {
        let size = (2 * pairs.len()).next_power_of_two().max(2);
        let mut made: Vec<u32> = pairs.iter().map(|pair| pair.2).collect();
        made.sort_unstable();
        let twice = made.windows(2).any(|two| two[0] == two[1]);
        let nothing = (EMPTY, Merge { rank: NONE, id: 0 });
        let mut merges = Self { places: vec![nothing; size], shift: 64 - size.trailing_zeros(), twice };
        for (&(left, right, id), rank) in pairs.iter().zip(0..) {
            let key = u64::from(left) << 32 | u64::from(right);
            let at = merges.find(key);
            merges.places[at] = (key, Merge { rank, id });
        }
        merges
    }

    /// Where a pair is, or would be.
    #[inline]
    fn find(&self, key: u64) -> usize {
        let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        while self.places[at].0 != key && self.places[at].0 != EMPTY {
            at = (at + 1) % self.places.len();
        }
        at
    }

    /// NONE is the rank of a pair that makes nothing.
    #[inline]
    fn ranked(&self, left: u32, right: u32) -> Merge {
        self.places[self.find(u64::from(left) << 32 | u64::from(right))].1
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> Option<Merge> {
        Some(self.ranked(left, right)).filter(|merge| merge.rank != NONE)
    }
}

const NONE: u32 = u32::MAX;
const FEW: usize = 16;

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
        if bytes.len() <= FEW && !merges.twice {
            merge_few(bytes, merges, out);
        } else {
            self.merge_by_queue(bytes, merges, out);
        }
    }

    fn merge_by_queue(&mut self, bytes: impl ExactSizeIterator<Item = u32>, merges: &Merges, out: &mut Vec<u32>) {
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

/// The same for a short word, where to look through all pairs is faster than to keep a queue of them. Not where two
/// pairs make one token: nothing here remembers what the queue would.
#[inline]
fn merge_few(bytes: impl ExactSizeIterator<Item = u32>, merges: &Merges, out: &mut Vec<u32>) {
    let mut ids = [0; FEW];
    let mut count = 0;
    for (place, id) in ids.iter_mut().zip(bytes) {
        *place = id;
        count += 1;
    }
    let mut pairs = [Merge { rank: NONE, id: 0 }; FEW]; // each id with the one behind it
    for at in 1..count {
        pairs[at - 1] = merges.ranked(ids[at - 1], ids[at]);
    }
    while count > 1 {
        let (mut at, mut best) = (0, NONE);
        for (place, pair) in pairs[..count - 1].iter().enumerate() {
            if pair.rank < best {
                (at, best) = (place, pair.rank);
            }
        }
        if best == NONE {
            break;
        }
        ids[at] = pairs[at].id;
        count -= 1;
        ids.copy_within(at + 2..count + 1, at + 1);
        pairs.copy_within(at + 1..count, at);
        pairs[count - 1].rank = NONE;
        if at + 1 < count {
            pairs[at] = merges.ranked(ids[at], ids[at + 1]);
        }
        if at > 0 {
            pairs[at - 1] = merges.ranked(ids[at - 1], ids[at]);
        }
    }
    out.extend_from_slice(&ids[..count]);
}
