//! A row group as its pages' bytes: levels, byte streams, zstd.
//!
//! The parquet crate would compute levels that are known beforehand value by value, make 32-bit integers of ids only to
//! split them again, and have zstd search for repetition where there is little. The footer is still the crate's.

use super::Id;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// Tokens in a page, in whole rows: a megabyte before compression.
const PAGE_TOKENS: usize = 1 << 18;

/// Tokens of a row group by whose low bytes it is decided how to compress it.
const SAMPLE_TOKENS: usize = 1 << 16;

/// Makes pages; keeps its buffers and zstd's tables from one to the next.
pub struct Pages {
    quick: Compressor<'static>,
    thorough: Compressor<'static>,
    levels: Vec<u8>,
    levels_of: (usize, usize), // tokens and seq_len
    page: Vec<u8>,
    packed: Vec<u8>,
}

impl Pages {
    /// Ids of prose repeat too seldom to be searched for it at length: the smallest table of places and matches of 7 bytes
    /// or more take half the time of level 1, and give 1 % less. Where text repeats itself, as in stories, level 1 gives
    /// a third less: then it is taken.
    pub fn new() -> std::io::Result<Self> {
        let (mut quick, thorough) = (Compressor::new(1)?, Compressor::new(1)?);
        quick.set_parameter(CParameter::HashLog(6))?;
        quick.set_parameter(CParameter::MinMatch(7))?;
        let (levels, page, packed) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { quick, thorough, levels, levels_of: (0, 0), page, packed })
    }

    /// The pages of whole rows, with their headers, and how many bytes that would be without compression.
    pub fn of<T: Id>(&mut self, ids: &[T], seq_len: usize) -> std::io::Result<(Vec<u8>, usize)> {
        let (mut out, mut unpacked, mut repeats) = (Vec::with_capacity(ids.len() * 2), 0, None);
        for ids in ids.chunks((PAGE_TOKENS / seq_len).max(1) * seq_len) {
            if self.levels_of != (ids.len(), seq_len) {
                self.levels = levels(ids.len(), seq_len);
                self.levels_of = (ids.len(), seq_len);
            }
            let front = self.levels.len();
            self.page.clear();
            self.page.extend_from_slice(&self.levels);
            self.page.resize(front + 4 * ids.len(), 0);
            T::split(ids, &mut self.page[front..]);
            self.packed.clear();
            self.packed.reserve(zstd::zstd_safe::compress_bound(self.page.len()));
            if repeats.is_none() {
                let lows = &self.page[front..front + ids.len().min(SAMPLE_TOKENS)];
                let quick = self.quick.compress_to_buffer(lows, &mut self.packed)?;
                let thorough = self.thorough.compress_to_buffer(lows, &mut self.packed)?;
                repeats = Some(20 * thorough < 19 * quick);
            }
            let compressor = if repeats == Some(true) { &mut self.thorough } else { &mut self.quick };
            compressor.compress_to_buffer(&self.page, &mut self.packed)?;
            let before = out.len();
            header(self.page.len(), self.packed.len(), ids.len(), &mut out);
            unpacked += out.len() - before + self.page.len();
            out.extend_from_slice(&self.packed);
        }
        Ok((out, unpacked))
    }
}

/// A data page's header in Thrift's compact protocol (PageHeader of parquet.thrift).
fn header(unpacked: usize, packed: usize, tokens: usize, out: &mut Vec<u8>) {
    const I32: u8 = 0x15; // the next field
    const STRUCT_TWO_ON: u8 = 0x2c;
    const BYTE_STREAM_SPLIT: usize = 9;
    const RLE: usize = 3;
    let mut field = |value: usize| {
        out.push(I32);
        varint(2 * value, out); // zigzag of what is not negative
    };
    field(0); // a data page
    field(unpacked);
    field(packed);
    out.push(STRUCT_TWO_ON);
    let mut field = |value: usize| {
        out.push(I32);
        varint(2 * value, out);
    };
    field(tokens);
    field(BYTE_STREAM_SPLIT);
    field(RLE);
    field(RLE);
    out.extend_from_slice(&[0, 0]); // the ends of both structs
}

/// Repetition and definition levels, each behind its length: a row is a 0 and then 1s, and every token is there.
fn levels(tokens: usize, seq_len: usize) -> Vec<u8> {
    let run = |length: usize, level: u8, out: &mut Vec<u8>| {
        varint(2 * length, out);
        out.push(level);
    };
    let (mut repetition, mut definition) = (Vec::new(), Vec::new());
    if seq_len == 1 {
        run(tokens, 0, &mut repetition);
    } else {
        for _ in 0..tokens / seq_len {
            run(1, 0, &mut repetition);
            run(seq_len - 1, 1, &mut repetition);
        }
    }
    run(tokens, 1, &mut definition);
    let with_length = |part: &Vec<u8>| [&(part.len() as u32).to_le_bytes(), part.as_slice()].concat();
    [with_length(&repetition), with_length(&definition)].concat()
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
