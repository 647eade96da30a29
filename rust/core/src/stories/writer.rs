//! Draws a story and writes it.

use super::grammar::story;
use super::{Kind, Table, Teller, skip_taken};
use crate::order::mix;
use std::convert::Infallible;

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15; // SplitMix64's step

/// Story `index` is a function of (seed, split, index) alone, so any range can be written in any pieces, anywhere.
#[derive(Clone, Copy, Debug)]
pub struct Stories {
    key: u64,
}

impl Stories {
    /// `split` may be any name. Streams of different splits start at unrelated places of a period of 2^64.
    pub fn new(seed: u64, split: &str) -> Self {
        let fnv1a = split
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Self { key: mix(mix(seed) ^ mix(fnv1a)) }
    }

    /// Appends story `index` to `out`.
    pub fn write(&self, index: u64, out: &mut String) {
        let Ok(()) = story(&mut self.writer(index, out));
    }

    pub(super) fn writer<'a>(&self, index: u64, out: &'a mut String) -> Writer<'a> {
        Writer { state: mix(self.key ^ mix(index)), out }
    }
}

pub(super) struct Writer<'a> {
    state: u64,
    out: &'a mut String,
}

impl Writer<'_> {
    /// Uniform on 0..n by the high half of a product: no option is off by more than n / 2^64, and n is below 2^5.
    fn draw(&mut self, n: usize) -> usize {
        let bits = mix(self.state);
        self.state = self.state.wrapping_add(GAMMA);
        ((u128::from(bits) * n as u128) >> 64) as usize
    }
}

impl Teller for Writer<'_> {
    type Stop = Infallible;

    fn choose(&mut self, _: Kind, options: Table, taken: &[usize]) -> Result<usize, Infallible> {
        let index = skip_taken(self.draw(options.len() - taken.len()), taken);
        self.out.push_str(options[index]);
        Ok(index)
    }

    fn branch(&mut self, kind: Kind, options: Table, taken: &[usize]) -> Result<usize, Infallible> {
        self.choose(kind, options, taken)
    }

    fn recall(&mut self, _: Kind, table: Table, index: usize) -> Result<(), Infallible> {
        self.out.push_str(table[index]);
        Ok(())
    }

    fn text(&mut self, text: &'static str) -> Result<(), Infallible> {
        self.out.push_str(text);
        Ok(())
    }
}
