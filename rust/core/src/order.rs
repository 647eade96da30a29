//! The order of rows: for every (seed, epoch) a bijection on 0..num_rows, any position in O(1) and without memory.
//!
//! A balanced Feistel network over the smallest even number of bits that holds `num_rows`, walked until it lands
//! inside (Black and Rogaway 2002): under four steps on average. The domain is at least 8 bits, so that small data
//! sets are shuffled by a network with room to mix. The way back, from a row to its position, costs the same.

const ROUNDS: usize = 8;
const MIN_BITS: u32 = 8;

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection on u64 with full avalanche.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One epoch's permutation.
#[derive(Clone, Debug)]
pub struct Order {
    num_rows: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Order {
    /// `num_rows` must be at least 1 and at most 2^62.
    pub fn new(seed: u64, epoch: u64, num_rows: u64) -> Self {
        assert!((1..=1 << 62).contains(&num_rows), "an order needs 1 to 2^62 rows");
        let bits = (u64::BITS - (num_rows - 1).leading_zeros()).max(MIN_BITS);
        let mut state = mix(mix(seed) ^ epoch);
        let keys = std::array::from_fn(|_| {
            state = mix(state);
            state
        });
        Self { num_rows, half_bits: bits.div_ceil(2), keys }
    }

    fn permute(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }

    fn unpermute(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys.iter().rev() {
            (left, right) = (right ^ (mix(left ^ key) & mask), left);
        }
        left << self.half_bits | right
    }

    /// The row at `position` of this epoch; `position < num_rows`.
    pub fn row(&self, position: u64) -> u64 {
        debug_assert!(position < self.num_rows);
        let mut value = self.permute(position);
        while value >= self.num_rows {
            value = self.permute(value);
        }
        value
    }

    /// Where in this epoch `row` comes: the inverse of `row`. The walk goes back along the same cycle.
    pub fn position_of(&self, row: u64) -> u64 {
        debug_assert!(row < self.num_rows);
        let mut value = self.unpermute(row);
        while value >= self.num_rows {
            value = self.unpermute(value);
        }
        value
    }
}

/// Rows at positions `start .. start + count` of an endless stream of epochs: no row is dropped at an epoch's end.
pub fn rows(seed: u64, num_rows: u64, start: u64, count: usize) -> Vec<u64> {
    let mut epoch = start / num_rows;
    let mut order = Order::new(seed, epoch, num_rows);
    (start..start + count as u64)
        .map(|position| {
            if position / num_rows != epoch {
                epoch = position / num_rows;
                order = Order::new(seed, epoch, num_rows);
            }
            order.row(position % num_rows)
        })
        .collect()
}
