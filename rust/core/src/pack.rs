//! The plan of rows: token counts in, spans of the token stream out. Integers only, u64 throughout.
//!
//! The token stream is every document's ids followed by `<eos>`. Row k is `<bos>` and then
//! `stream[k*stride .. k*stride + seq_len-1]`, with `stride = seq_len - 1 - overlap`. A tail that does not fill a
//! row is dropped and counted. Nothing here knows how the work was split, so the rows cannot depend on it.

use crate::error::{Error, Result};
use crate::shard::{Id, ShardInfo, ShardWriter};
use std::path::PathBuf;

/// The shape of rows and of shards. All lengths are in tokens, `rows_per_shard` and `rows_per_group` in rows.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub seq_len: usize,
    pub overlap: usize,
    pub rows_per_shard: u64,
}

/// One shard's part: rows `first_row .. first_row + rows`, cut from `stream[start .. stop]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub first_row: u64,
    pub rows: u64,
    pub start: u64,
    pub stop: u64,
}

impl Layout {
    pub fn new(seq_len: usize, overlap: usize, rows_per_shard: u64) -> Result<Self> {
        if seq_len < 2 {
            return Err(Error::Layout(format!(
                "seq_len is {seq_len}; a row needs <bos> and at least one token, so 2 or more"
            )));
        }
        if overlap >= seq_len - 1 {
            return Err(Error::Layout(format!(
                "overlap is {overlap}; rows of seq_len {seq_len} carry {} tokens after <bos>, so it must be less than that",
                seq_len - 1
            )));
        }
        if rows_per_shard == 0 {
            return Err(Error::Layout("rows_per_shard is 0; it must be 1 or more".into()));
        }
        Ok(Self { seq_len, overlap, rows_per_shard })
    }

    /// Tokens of the stream in one row.
    pub fn content(&self) -> usize {
        self.seq_len - 1
    }

    /// Distance in the stream from one row's start to the next.
    pub fn stride(&self) -> usize {
        self.content() - self.overlap
    }

    /// Whole rows in a stream of `tokens`.
    pub fn num_rows(&self, tokens: u64) -> u64 {
        let content = self.content() as u64;
        if tokens < content { 0 } else { (tokens - content) / self.stride() as u64 + 1 }
    }

    /// Tokens at the end of the stream that are in no row.
    pub fn dropped(&self, tokens: u64) -> u64 {
        match self.num_rows(tokens) {
            0 => tokens,
            rows => tokens - self.stop(rows - 1),
        }
    }

    fn start(&self, row: u64) -> u64 {
        row * self.stride() as u64
    }

    fn stop(&self, row: u64) -> u64 {
        self.start(row) + self.content() as u64
    }

    /// Which rows and which span of the stream each shard holds, from the token counts of the blocks.
    pub fn plan(&self, counts: &[u64]) -> Vec<Span> {
        let rows = self.num_rows(counts.iter().sum());
        (0..rows.div_ceil(self.rows_per_shard))
            .map(|shard| {
                let first_row = shard * self.rows_per_shard;
                let rows = self.rows_per_shard.min(rows - first_row);
                Span { first_row, rows, start: self.start(first_row), stop: self.stop(first_row + rows - 1) }
            })
            .collect()
    }
}

/// Cuts a stream, given in pieces of any size, into shards: the same bytes whatever the pieces.
///
/// Holds less than one row of carried tokens and one row group of rows.
pub struct Packer<T: Id> {
    layout: Layout,
    bos: T,
    vocab_size: u64,
    directory: PathBuf,
    prefix: String,
    next_shard: u64,
    carry: Vec<T>,
    rows: Vec<T>,
    writer: Option<ShardWriter<T>>,
    rows_in_shard: u64,
    tokens: u64,
    done: Vec<ShardInfo>,
}

/// Rows in a parquet row group: the unit that is held in memory, compressed and read back.
pub const ROWS_PER_GROUP: usize = 4096;

impl<T: Id> Packer<T> {
    /// Shards are written to `directory/{prefix}-{number:05}.parquet`, numbered from `first_shard`.
    pub fn new(
        layout: Layout,
        bos: T,
        vocab_size: u64,
        directory: PathBuf,
        prefix: String,
        first_shard: u64,
    ) -> Result<Self> {
        if bos.to_u64() >= vocab_size {
            return Err(Error::IdBeyondVocabulary { id: bos.to_u64(), vocab_size });
        }
        Ok(Self {
            layout,
            bos,
            vocab_size,
            directory,
            prefix,
            next_shard: first_shard,
            carry: Vec::new(),
            rows: Vec::new(),
            writer: None,
            rows_in_shard: 0,
            tokens: 0,
            done: Vec::new(),
        })
    }

    /// The next tokens of the stream.
    pub fn push(&mut self, ids: &[T]) -> Result<()> {
        let largest = ids.iter().fold(T::default(), |largest, &id| largest.max(id)).to_u64();
        if largest >= self.vocab_size {
            return Err(Error::IdBeyondVocabulary { id: largest, vocab_size: self.vocab_size });
        }
        self.tokens += ids.len() as u64;
        let (content, stride) = (self.layout.content(), self.layout.stride());
        let carried = self.carry.len();
        let mut start = 0; // of a row, in what is carried and these ids behind it
        while start + content <= carried + ids.len() {
            self.rows.push(self.bos);
            if start < carried {
                self.rows.extend_from_slice(&self.carry[start..carried.min(start + content)]);
                self.rows.extend_from_slice(&ids[..(start + content).saturating_sub(carried)]);
            } else {
                self.rows.extend_from_slice(&ids[start - carried..][..content]);
            }
            start += stride;
            self.rows_in_shard += 1;
            if self.rows_in_shard == self.layout.rows_per_shard {
                self.close_shard()?;
            } else if self.rows.len() == ROWS_PER_GROUP * self.layout.seq_len {
                self.write_group()?;
            }
        }
        self.carry.drain(..start.min(carried));
        self.carry.extend_from_slice(&ids[start.saturating_sub(carried)..]);
        Ok(())
    }

    /// The shards finished since the last call.
    pub fn written(&mut self) -> Vec<ShardInfo> {
        std::mem::take(&mut self.done)
    }

    /// Ends the stream: writes what is whole, drops the tail. Returns the shards since `written`, and the tokens pushed.
    pub fn finish(mut self) -> Result<(Vec<ShardInfo>, u64)> {
        if self.rows_in_shard > 0 {
            self.close_shard()?;
        }
        Ok((self.done, self.tokens))
    }

    fn write_group(&mut self) -> Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let path = self.directory.join(format!("{}-{:05}.parquet", self.prefix, self.next_shard));
                self.writer.insert(ShardWriter::create(path, self.layout.seq_len)?)
            }
        };
        writer.write_group(&self.rows)?;
        self.rows.clear();
        Ok(())
    }

    fn close_shard(&mut self) -> Result<()> {
        if !self.rows.is_empty() {
            self.write_group()?;
        }
        if let Some(writer) = self.writer.take() {
            self.done.push(writer.finish()?);
        }
        self.next_shard += 1;
        self.rows_in_shard = 0;
        Ok(())
    }
}
