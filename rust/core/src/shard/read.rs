//! Reads shards: only the one layout that `ShardWriter` writes, straight into the caller's memory.
//!
//! A general reader takes parquet's values one by one beside two level vectors of 16 bits; here a page's levels are
//! compared with the one pattern they can have, run by run, and its ids are put together from their byte streams. What
//! is left is zstd and SHA-256. tests/shards.rs holds the parquet crate's reader beside it, and breaks bytes.
//!
//! No bytes whatever make it panic, read past an end or set aside more memory than a few times the file and the rows
//! that the caller expects: all indexing is checked, and what a header claims is compared with what there is before it
//! is believed.

use super::thrift::{Value, read_struct, varint};
use super::{Error, Id, Result, bad, io_error, to_hex};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

type Claim<T> = std::result::Result<T, String>;

const MAGIC: &[u8] = b"PAR1";
/// A group of rows takes about 150 bytes of the footer, and a shard has a few thousand groups at most.
const MAX_FOOTER: usize = 1 << 24;
/// A page's header takes about 30 bytes.
const MAX_HEADER: usize = 1 << 10;

// Numbers of parquet's format (parquet.thrift).
const INT32: i64 = 1;
const REQUIRED: i64 = 0;
const REPEATED: i64 = 2;
const LIST: i64 = 3;
const UINT_16: i64 = 12;
const UINT_32: i64 = 13;
const ZSTD: i64 = 6;
const DATA_PAGE: i64 = 0;
const RLE: i64 = 3;
const BYTE_STREAM_SPLIT: i64 = 9;

/// Reads a shard of `out.len() / seq_len` rows into `out`. With `sha256`, the file's bytes are checked before they are
/// decoded; `vocab_size` bounds the ids. After an error `out` holds anything.
pub fn read_shard_into<T: Id>(
    path: &Path,
    seq_len: usize,
    vocab_size: u64,
    sha256: Option<&str>,
    out: &mut [T],
) -> Result<()> {
    let data = checked_bytes(path, sha256)?;
    let shard = Shard::open::<T>(&data, seq_len).map_err(|why| bad(path, why))?;
    let rows = out.len() / seq_len;
    if shard.rows != rows {
        return Err(bad(path, format!("it has {} rows, the manifest says {rows}", shard.rows)));
    }
    let mut left = out;
    let largest = shard.decode(|values, count| {
        let (now, later) = std::mem::take(&mut left).split_at_mut(count);
        left = later;
        T::join(values, now)
    });
    match largest.map_err(|why| bad(path, why))? {
        Some(id) if id >= vocab_size => {
            Err(bad(path, format!("token id {id} is beyond the vocabulary of {vocab_size}")))
        }
        _ => Ok(()),
    }
}

/// Reads a whole shard, `[rows * seq_len]` ids. With `sha256`, the file's bytes are checked before they are decoded.
pub fn read_shard<T: Id>(path: &Path, seq_len: usize, sha256: Option<&str>) -> Result<Vec<T>> {
    let data = checked_bytes(path, sha256)?;
    let mut ids = Vec::new(); // grows by what pages hold, not by what the footer claims
    let shard = Shard::open::<T>(&data, seq_len).map_err(|why| bad(path, why))?;
    let decoded = shard.decode(|values, count| {
        let before = ids.len();
        ids.resize(before + count, T::default());
        T::join(values, &mut ids[before..])
    });
    decoded.map(|_| ids).map_err(|why| bad(path, why))
}

fn checked_bytes(path: &Path, sha256: Option<&str>) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut data)).map_err(io_error(path))?;
    if let Some(expected) = sha256 {
        let found = to_hex(&Sha256::digest(&data));
        if found != expected {
            return Err(Error::WrongHash { path: path.to_path_buf(), expected: expected.into(), found });
        }
    }
    Ok(data)
}

/// A file whose footer is that of a shard. Its pages are still to be believed.
struct Shard<'a> {
    /// Per row group: rows, and the bytes of its pages.
    groups: Vec<(usize, &'a [u8])>,
    rows: usize,
    seq_len: usize,
}

impl<'a> Shard<'a> {
    fn open<T: Id>(data: &'a [u8], seq_len: usize) -> Claim<Self> {
        if seq_len == 0 {
            return Err("rows of no tokens".into());
        }
        let footer = footer(data)?;
        let (meta, _) = read_struct(footer).ok_or("its footer is damaged")?;
        if !is_our_schema::<T>(&meta) {
            return Err(format!("its column is not `tokens`, a list of uint{}", T::BITS));
        }
        let body = &data[..data.len() - footer.len() - 8];
        let mut groups = Vec::new();
        let (mut rows, mut from) = (0usize, MAGIC.len());
        for group in meta.list(4).ok_or("its footer has no row groups")? {
            let (num_rows, pages);
            (num_rows, pages, from) = chunk(group, body, from, seq_len)?;
            rows = rows.checked_add(num_rows).ok_or("its row groups claim too many rows")?;
            groups.push((num_rows, pages));
        }
        if meta.int(3) != i64::try_from(rows).ok() {
            return Err("its row groups do not add up to its rows".into());
        }
        Ok(Self { groups, rows, seq_len })
    }

    /// Hands over each page's values, four byte streams, and how many they are: `rows * seq_len` in all. Returns the
    /// largest of what `join` returns, the largest id of a page or None when an id does not fit; None for no pages.
    fn decode(&self, mut join: impl FnMut(&[u8], usize) -> Option<u64>) -> Claim<Option<u64>> {
        let mut largest = None;
        let mut unpacker = zstd::bulk::Decompressor::new().map_err(|error| error.to_string())?;
        let mut page = Vec::new();
        for &(rows, pages) in &self.groups {
            let mut pages = pages;
            let (mut at, tokens) = (0, rows * self.seq_len);
            while at < tokens {
                let header = read_struct(&pages[..pages.len().min(MAX_HEADER)]);
                let (header, taken) = header.ok_or("the header of a page is damaged")?;
                let header = PageHeader::of(&header)?;
                let packed = pages.get(taken..taken.saturating_add(header.packed)).ok_or("a page is cut short")?;
                pages = &pages[taken + header.packed..];
                // Four bytes a value, and two kinds of levels, which never take more than a byte a value.
                let possible = 4 * header.values..6 * header.values + 64;
                if header.values > tokens - at || !possible.contains(&header.unpacked) {
                    return Err("a page claims more than its row group has".into());
                }
                page.clear();
                page.try_reserve_exact(header.unpacked).map_err(|error| error.to_string())?;
                unpacker.decompress_to_buffer(packed, &mut page).map_err(|error| error.to_string())?;
                if page.len() != header.unpacked {
                    return Err(format!("a page has {} bytes, its header says {}", page.len(), header.unpacked));
                }
                let values = values_of(&page, at, header.values, self.seq_len)?;
                largest = largest.max(Some(join(values, header.values).ok_or("an id does not fit its type")?));
                at += header.values;
            }
            if !pages.is_empty() {
                return Err("a row group has more pages than rows".into());
            }
        }
        Ok(largest)
    }
}

fn footer(data: &[u8]) -> Claim<&[u8]> {
    let refused = || "it is no parquet file, or was cut short".to_string();
    let rest = data.strip_prefix(MAGIC).and_then(|rest| rest.strip_suffix(MAGIC)).ok_or_else(refused)?;
    let (rest, length) = rest.split_last_chunk::<4>().ok_or_else(refused)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > rest.len().min(MAX_FOOTER) {
        return Err("its footer claims more bytes than there are".into());
    }
    Ok(&rest[rest.len() - length..])
}

fn is_our_schema<T: Id>(meta: &Value) -> bool {
    let kind = if T::BITS == 16 { UINT_16 } else { UINT_32 };
    // physical type, repetition, name, number of children, converted type
    let expected = [
        (None, None, b"schema".as_slice(), Some(1), None),
        (None, Some(REQUIRED), b"tokens", Some(1), Some(LIST)),
        (None, Some(REPEATED), b"list", Some(1), None),
        (Some(INT32), Some(REQUIRED), b"element", None, Some(kind)),
    ];
    let found = meta.list(2).unwrap_or_default();
    found.len() == expected.len()
        && found.iter().zip(expected).all(|(element, (physical, repetition, name, children, converted))| {
            element.int(1) == physical
                && element.int(3) == repetition
                && element.bytes(4) == Some(name)
                && element.int(5) == children
                && element.int(6) == converted
        })
}

/// The rows of a row group, the bytes of its pages, which lie behind `from`, and where they end.
fn chunk<'a>(group: &Value, body: &'a [u8], from: usize, seq_len: usize) -> Claim<(usize, &'a [u8], usize)> {
    let [column] = group.list(1).unwrap_or_default() else { return Err("a row group has not one column".into()) };
    let meta = column.field(3).ok_or("a row group does not say where its pages are")?;
    let claim = |value: Option<i64>| value.and_then(|value| usize::try_from(value).ok());
    let (rows, values) = (claim(group.int(3)), claim(meta.int(5)));
    let (start, length) = (claim(meta.int(9)), claim(meta.int(7)));
    let (Some(rows), Some(values), Some(start), Some(length)) = (rows, values, start, length) else {
        return Err("a row group's numbers are damaged".into());
    };
    if meta.int(1) != Some(INT32) || meta.int(4) != Some(ZSTD) || meta.field(11).is_some() {
        return Err("its pages are not zstd over plain integers".into());
    }
    if rows.checked_mul(seq_len) != Some(values) {
        return Err(format!("its rows do not all have {seq_len} tokens"));
    }
    let stop = start.saturating_add(length);
    let pages = body.get(start..stop).filter(|_| start >= from);
    Ok((rows, pages.ok_or("a row group does not lie behind the one before it, inside the file")?, stop))
}

struct PageHeader {
    packed: usize,
    unpacked: usize,
    values: usize,
}

impl PageHeader {
    fn of(header: &Value) -> Claim<Self> {
        let data = header.field(5).filter(|_| header.int(1) == Some(DATA_PAGE)).ok_or("a page is not of data")?;
        if (data.int(2), data.int(3), data.int(4)) != (Some(BYTE_STREAM_SPLIT), Some(RLE), Some(RLE)) {
            return Err("a page is not in BYTE_STREAM_SPLIT".into());
        }
        let claim = |value: Option<i64>| value.and_then(|value| usize::try_from(value).ok());
        match (claim(header.int(3)), claim(header.int(2)), claim(data.int(1))) {
            (Some(packed), Some(unpacked), Some(values)) if values > 0 && values <= 1 << 31 => {
                Ok(Self { packed, unpacked, values })
            }
            _ => Err("the header of a page is damaged".into()),
        }
    }
}

/// The values, four streams of bytes, of a page of `count` tokens that begins at token `at` of its row group: behind its
/// levels, which must be those of whole rows without nulls.
fn values_of(page: &[u8], at: usize, count: usize, seq_len: usize) -> Claim<&[u8]> {
    let (repetition, rest) = levels(page)?;
    let (definition, values) = levels(rest)?;
    // 0 begins a row, 1 goes on with it.
    let fixed = runs(repetition, count, |start, length, level| {
        let in_row = (at + start) % seq_len;
        if level { in_row != 0 && length <= seq_len - in_row } else { in_row == 0 && (length == 1 || seq_len == 1) }
    });
    let all = runs(definition, count, |_, _, level| level);
    match (fixed, all) {
        (Some(true), Some(true)) if values.len() == 4 * count => Ok(values),
        (Some(false), _) => Err(format!("its rows do not all have {seq_len} tokens")),
        (_, Some(false)) => Err("a token is null".into()),
        _ => Err("a page's levels or values are cut short".into()),
    }
}

/// The levels at the front of a page, behind their length, and what follows them.
fn levels(page: &[u8]) -> Claim<(&[u8], &[u8])> {
    let cut = || "a page's levels are cut short".to_string();
    let (length, rest) = page.split_first_chunk::<4>().ok_or_else(cut)?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(cut)
}

/// Runs of 1-bit levels in parquet's hybrid of run lengths and packed bits: `expected(first, length, level)` for each.
/// Some(false) as soon as one is not as expected; None when they are damaged, too few or too many.
fn runs(mut data: &[u8], count: usize, expected: impl Fn(usize, usize, bool) -> bool) -> Option<bool> {
    let mut done = 0;
    while done < count {
        let header = varint(&mut data)?;
        let length = usize::try_from(header >> 1).ok()?;
        if header & 1 == 0 {
            let (level, rest) = data.split_first()?;
            data = rest;
            if length == 0 || length > count - done || *level > 1 {
                return None;
            }
            if !expected(done, length, *level == 1) {
                return Some(false);
            }
            done += length;
        } else {
            let (bits, rest) = data.split_at_checked(length)?;
            data = rest;
            for byte in bits {
                for bit in 0..(count - done).min(8) {
                    if !expected(done + bit, 1, byte >> bit & 1 == 1) {
                        return Some(false);
                    }
                }
                done += (count - done).min(8);
            }
            if length == 0 {
                return None;
            }
        }
    }
    data.is_empty().then_some(true)
}

#[cfg(test)]
mod tests;
