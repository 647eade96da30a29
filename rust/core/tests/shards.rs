//! The shard reader against the parquet crate's, and against broken bytes.
//!
//! A few seconds by default; as long as wanted with `SUITE_FUZZ_SECONDS=3600 cargo test --release --test shards`, which
//! goes on with other mutations each second. Stable Rust has no cargo-fuzz, so these mutations know the format: where
//! the footer is, what a varint looks like, which pieces two shards could exchange.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::Int32Type;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use suite_core::error::Error;
use suite_core::order::mix;
use suite_core::shard::{Id, ShardInfo, ShardWriter, read_shard, read_shard_into};

/// A folder of this process, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("suite-shards-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn written<T: Id>(path: &Path, seq_len: usize, groups: &[Vec<T>]) -> ShardInfo {
    let mut writer = ShardWriter::<T>::create(path.to_path_buf(), seq_len).unwrap();
    for group in groups {
        writer.write_group(group).unwrap();
    }
    writer.finish().unwrap()
}

/// What shards of format 1 are: the same column by the parquet crate's writer, whose pages may end inside a row.
fn written_by_the_crate<T: Id>(path: &Path, seq_len: usize, groups: &[Vec<T>]) {
    let file = std::fs::read(path).unwrap();
    let schema = SerializedFileReader::new(Bytes::from(file)).unwrap();
    let schema = schema.metadata().file_metadata().schema_descr().root_schema_ptr();
    let properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::BYTE_STREAM_SPLIT)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    std::fs::remove_file(path).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for ids in groups {
        let values: Vec<i32> = ids.iter().map(|id| (id.to_u64() as u32).cast_signed()).collect();
        let repetition: Vec<i16> = (0..ids.len()).map(|at| i16::from(!at.is_multiple_of(seq_len))).collect();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let definition = vec![1; ids.len()];
        column.typed::<Int32Type>().write_batch(&values, Some(&definition), Some(&repetition)).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// A new file under the old name: some file systems flush to the disk what is truncated and written again.
fn rewritten(path: &Path, data: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, data).unwrap();
}

/// What the parquet crate reads: the ids, if all rows have `seq_len` of them and every one fits.
fn reference<T: Id>(data: Vec<u8>, seq_len: usize) -> Option<Vec<T>> {
    let read = move || {
        let reader = SerializedFileReader::new(Bytes::from(data)).ok()?;
        let mut ids = Vec::new();
        for index in 0..reader.num_row_groups() {
            let mut column =
                get_typed_column_reader::<Int32Type>(reader.get_row_group(index).ok()?.get_column_reader(0).ok()?);
            loop {
                let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
                let (rows, ..) =
                    column.read_records(64, Some(&mut definition), Some(&mut repetition), &mut values).ok()?;
                if rows == 0 {
                    break;
                }
                let fixed = repetition.iter().enumerate().all(|(i, level)| (*level == 0) == i.is_multiple_of(seq_len));
                if values.len() != rows * seq_len || !fixed {
                    return None;
                }
                ids.extend(values.iter().map(|value| T::from_u32(value.cast_unsigned())));
            }
        }
        Some(ids)
    };
    std::panic::catch_unwind(read).ok()? // the crate may panic on broken bytes; ours may not
}

/// The same numbers for the same seed, in any run.
struct Draws(u64);

impl Draws {
    fn below(&mut self, end: usize) -> usize {
        self.0 = mix(self.0);
        (self.0 % end.max(1) as u64) as usize
    }
}

/// Tokens as text gives them: most ids small, every id possible.
fn ids_of<T: Id>(draws: &mut Draws, count: usize) -> Vec<T> {
    let largest = T::MAX.min(1 << 20) as usize;
    (0..count)
        .map(|_| {
            let bits = draws.below(21);
            T::from_u32(draws.below(largest.min((1 << bits) + 1)) as u32)
        })
        .collect()
}

fn round_trip<T: Id + PartialEq + std::fmt::Debug>(seq_len: usize, rows: &[usize], seed: u64) {
    let folder = Folder::new();
    let path = folder.0.join("train-00000.parquet");
    let groups: Vec<Vec<T>> = rows.iter().map(|rows| ids_of(&mut Draws(seed), rows * seq_len)).collect();
    let all = groups.concat();
    let info = written(&path, seq_len, &groups);
    assert_eq!(info.rows as usize, rows.iter().sum::<usize>());
    assert_eq!(read_shard::<T>(&path, seq_len, Some(&info.sha256)).unwrap(), all);
    assert_eq!(reference::<T>(std::fs::read(&path).unwrap(), seq_len).unwrap(), all);
    let mut out = vec![T::default(); all.len()];
    read_shard_into(&path, seq_len, T::MAX + 1, Some(&info.sha256), &mut out).unwrap();
    assert_eq!(out, all);
    let largest = all.iter().map(|id| id.to_u64()).max().unwrap();
    read_shard_into(&path, seq_len, largest + 1, None, &mut out).unwrap();
    let refused = read_shard_into(&path, seq_len, largest, None, &mut out).unwrap_err().to_string();
    assert!(refused.contains(&format!("token id {largest} is beyond the vocabulary of {largest}")), "{refused}");
    assert!(read_shard::<T>(&path, seq_len + 1, None).is_err());
    written_by_the_crate(&path, seq_len, &groups);
    assert_eq!(read_shard::<T>(&path, seq_len, None).unwrap(), all, "a shard of format 1");
    assert!(read_shard_into(&path, seq_len, T::MAX + 1, None, &mut vec![T::default(); all.len() + seq_len]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_shard_is_read_as_it_was_written(
        seq_len in prop_oneof![1usize..10, 10usize..700],
        rows in proptest::collection::vec(1usize..60, 1..4),
        seed in any::<u64>(),
        wide in any::<bool>(),
    ) {
        if wide { round_trip::<u32>(seq_len, &rows, seed) } else { round_trip::<u16>(seq_len, &rows, seed) }
    }
}

#[test]
fn rows_longer_than_a_page_and_pages_of_many_rows() {
    round_trip::<u16>(1_500_000, &[2], 1); // a page ends inside a row only if the writer lets it
    round_trip::<u32>(3, &[100_000, 7], 2);
}

/// Broken bytes, some in many ways.
fn broken(good: &[u8], other: &[u8], draws: &mut Draws) -> Vec<u8> {
    let mut data = good.to_vec();
    // Half of the breaks hit the footer and page headers, which are few of the bytes and most of the reader.
    let place = |draws: &mut Draws, length: usize| match draws.below(4) {
        0 => length.saturating_sub(1 + draws.below(400.min(length))),
        1 => draws.below(40.min(length)),
        _ => draws.below(length),
    };
    for _ in 0..1 + draws.below(3) {
        let at = place(draws, data.len());
        if data.is_empty() {
            break;
        }
        match draws.below(8) {
            0 | 1 => data[at] ^= 1 << draws.below(8),
            2 => data[at] = [0, 1, 0x7f, 0x80, 0xff, b'P'][draws.below(6)],
            3 => data.truncate(at),
            4 => {
                let end = (at + 1 + draws.below(9)).min(data.len());
                data.drain(at..end);
            }
            5 => {
                let bytes: Vec<u8> = (0..1 + draws.below(9)).map(|_| draws.below(256) as u8).collect();
                data.splice(at..at, bytes);
            }
            6 => {
                let huge = [0xff; 9]; // a varint that claims all there is
                let end = (at + 1 + draws.below(9)).min(data.len());
                data.splice(at..end, huge[..1 + draws.below(9)].iter().copied().chain([draws.below(128) as u8]));
            }
            _ => {
                let from = place(draws, other.len()).min(other.len() - 1);
                let end = (from + 1 + draws.below(200)).min(other.len());
                let until = (at + end - from).min(data.len());
                data.splice(at..until, other[from..end].iter().copied());
            }
        }
    }
    data
}

fn broken_in_many_ways<T: Id + PartialEq + std::fmt::Debug>(seq_len: usize, rows: &[usize], budget: Duration) -> u64 {
    let folder = Folder::new();
    let path = folder.0.join("train-00000.parquet");
    let mut draws = Draws(seq_len as u64);
    let groups: Vec<Vec<T>> = rows.iter().map(|rows| ids_of(&mut draws, rows * seq_len)).collect();
    let swapped: Vec<Vec<T>> = rows.iter().map(|rows| ids_of(&mut draws, rows * seq_len)).collect();
    let other = written(&folder.0.join("train-00001.parquet"), seq_len, &swapped);
    let other = std::fs::read(folder.0.join(other.name)).unwrap();
    let info = written(&path, seq_len, &groups);
    let good = std::fs::read(&path).unwrap();
    let total = groups.concat().len();
    let began = Instant::now();
    let mut tried = 0;
    while tried < 1500 || began.elapsed() < budget {
        tried += 1;
        let data = broken(&good, &other, &mut draws);
        if data == good {
            continue;
        }
        rewritten(&path, &data);
        let mut out = vec![T::default(); total];
        let hashed = read_shard_into(&path, seq_len, T::MAX + 1, Some(&info.sha256), &mut out).unwrap_err();
        assert!(matches!(hashed, Error::WrongHash { .. }), "{hashed}");
        match read_shard_into(&path, seq_len, T::MAX + 1, None, &mut out) {
            Err(error) => assert!(error.to_string().starts_with(&path.display().to_string()), "{error}"),
            // Without the hash compressed bytes may change unseen; never must they be read otherwise than parquet says.
            Ok(()) => {
                if let Some(ids) = reference::<T>(data, seq_len) {
                    assert_eq!(ids, out);
                }
            }
        }
        if let Ok(ids) = read_shard::<T>(&path, seq_len, None) {
            assert!(ids.len().is_multiple_of(seq_len));
        }
    }
    tried
}

#[test]
fn broken_bytes_are_an_error_that_names_the_file() {
    std::panic::set_hook(Box::new(|info| {
        // The reference's panics are its own; ours fail the test with their place.
        if info.location().is_some_and(|at| !at.file().contains("parquet-")) {
            eprintln!("{info}");
        }
    }));
    let seconds = std::env::var("SUITE_FUZZ_SECONDS").ok().and_then(|value| value.parse().ok()).unwrap_or(0.0);
    let budget = Duration::from_secs_f64(seconds / 4.0);
    let tried = broken_in_many_ways::<u16>(5, &[7], budget)
        + broken_in_many_ways::<u16>(64, &[40, 3], budget)
        + broken_in_many_ways::<u32>(16, &[1, 9, 2], budget)
        + broken_in_many_ways::<u32>(2, &[300], budget);
    println!("{tried} broken shards");
}

#[test]
fn every_cut_of_a_shard_is_refused() {
    let folder = Folder::new();
    let path = folder.0.join("train-00000.parquet");
    written::<u16>(&path, 8, &[(0..80).collect()]);
    let good = std::fs::read(&path).unwrap();
    for length in 0..good.len() {
        rewritten(&path, &good[..length]);
        let error = read_shard::<u16>(&path, 8, None).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
}
