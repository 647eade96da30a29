//! A token shard: one parquet file with one column `tokens`, FixedSizeList<uint16 or uint32>[seq_len], no nulls.
//!
//! zstd over BYTE_STREAM_SPLIT: as small as dictionary coding and 1.5 times as fast to write, because nearly every
//! high byte of an id is a short run. No statistics and no timestamps: the bytes are a function of the rows, and
//! of the parquet and zstd versions in Cargo.lock.
//!
//! Pages are ours (page.rs), which takes half the time; the footer is the parquet crate's. Not written through arrow: its
//! crates would triple the first build (50 s against 160 s on two cores) for one column of integers. What they would add
//! to the file, the arrow schema by which readers know a fixed-size list from a list, is 176 constant bytes.

mod page;
mod read;
mod thrift;

pub use read::{read_shard, read_shard_into};

use crate::error::{Error, Result};
use base64::Engine;
use bytes::Bytes;
use page::Pages;
use parquet::basic::{Compression, Encoding, IntType, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A token id as stored: u16 for vocabularies up to 65,536, else u32. Parquet's own type is int32 for both.
pub trait Id: Copy + Default + Ord + Send + Sync + 'static {
    const BITS: i8;
    /// The largest id.
    const MAX: u64;
    /// 16 bytes of ids.
    type Few: AsRef<[Self]> + AsMut<[Self]> + Copy + Default;
    fn few_to_bits(few: Self::Few) -> u128;
    /// Appends ids from their little-endian bytes.
    fn from_le(bytes: &[u8], out: &mut Vec<Self>);
    fn to_u64(self) -> u64;
    /// Puts ids together from their bytes, which lie as BYTE_STREAM_SPLIT has them: all first bytes, all second, to the
    /// fourth; `streams` is four times as long as `out`. Returns the largest id, None when one does not fit.
    fn join(streams: &[u8], out: &mut [Self]) -> Option<u64>;
    /// The opposite. `streams` holds zeros.
    fn split(ids: &[Self], streams: &mut [u8]);
    /// Of an id that is known to fit.
    fn from_u32(value: u32) -> Self;
}

impl Id for u16 {
    const BITS: i8 = 16;
    const MAX: u64 = u16::MAX as u64;
    type Few = [u16; 8];
    fn few_to_bits(few: [u16; 8]) -> u128 {
        few.iter().rev().fold(0, |bits, &id| bits << 16 | u128::from(id))
    }
    fn from_le(bytes: &[u8], out: &mut Vec<u16>) {
        out.extend(bytes.as_chunks().0.iter().map(|&id| u16::from_le_bytes(id)));
    }
    fn to_u64(self) -> u64 {
        self.into()
    }
    fn join(streams: &[u8], out: &mut [Self]) -> Option<u64> {
        let (first, rest) = streams.split_at(out.len());
        let (second, high) = rest.split_at(out.len());
        let mut largest = 0;
        for ((id, first), second) in out.iter_mut().zip(first).zip(second) {
            *id = u16::from_le_bytes([*first, *second]);
            largest = largest.max(*id);
        }
        let high = high.iter().fold(0, |all, byte| all | byte); // no early end: whole vectors at a time
        (high == 0).then_some(largest.into())
    }
    fn split(ids: &[u16], streams: &mut [u8]) {
        let (first, second) = streams.split_at_mut(ids.len());
        for ((id, first), second) in ids.iter().zip(first).zip(second) {
            [*first, *second] = id.to_le_bytes();
        }
    }
    #[inline]
    fn from_u32(value: u32) -> Self {
        value as Self
    }
}

impl Id for u32 {
    const BITS: i8 = 32;
    const MAX: u64 = u32::MAX as u64;
    type Few = [u32; 4];
    fn few_to_bits(few: [u32; 4]) -> u128 {
        few.iter().rev().fold(0, |bits, &id| bits << 32 | u128::from(id))
    }
    fn from_le(bytes: &[u8], out: &mut Vec<u32>) {
        out.extend(bytes.as_chunks().0.iter().map(|&id| u32::from_le_bytes(id)));
    }
    fn to_u64(self) -> u64 {
        self.into()
    }
    fn join(streams: &[u8], out: &mut [Self]) -> Option<u64> {
        let (low, high) = streams.split_at(2 * out.len());
        let ((first, second), (third, fourth)) = (low.split_at(out.len()), high.split_at(out.len()));
        let mut largest = 0;
        for ((((id, first), second), third), fourth) in out.iter_mut().zip(first).zip(second).zip(third).zip(fourth) {
            *id = u32::from_le_bytes([*first, *second, *third, *fourth]);
            largest = largest.max(*id);
        }
        Some(largest.into())
    }
    fn split(ids: &[u32], streams: &mut [u8]) {
        for (place, stream) in streams.chunks_exact_mut(ids.len()).enumerate() {
            stream.iter_mut().zip(ids).for_each(|(byte, id)| *byte = id.to_le_bytes()[place]);
        }
    }
    #[inline]
    fn from_u32(value: u32) -> Self {
        value
    }
}

/// Arrow's IPC schema message of `tokens: fixed_size_list<element: uint16 not null>[n] not null`, n and 16 open.
#[rustfmt::skip]
const ARROW_SCHEMA: [u8; 176] =
    *b"\xff\xff\xff\xff\xa8\0\0\0\x10\0\0\0\0\0\x0a\0\x0c\0\x06\0\x05\0\x08\0\x0a\0\0\0\0\x01\x04\0\x0c\0\0\0\x08\0\
\x08\0\0\0\x04\0\x08\0\0\0\x04\0\0\0\x01\0\0\0\x04\0\0\0\xd0\xff\xff\xff\0\0\0\x10\x14\0\0\0\x1c\0\0\0\x04\0\
\0\0\x01\0\0\0\x28\0\0\0\x06\0\0\0tokens\0\0\xc2\xff\xff\xff\0\0\0\0\x10\0\x14\0\x08\0\0\0\x07\0\x0c\0\0\0\
\x10\0\x10\0\0\0\0\0\0\x02\x10\0\0\0\x20\0\0\0\x04\0\0\0\0\0\0\0\x07\0\0\0element\0\0\0\x06\0\x08\0\x04\0\
\x06\0\0\0\x10\0\0\0";
const LIST_SIZE_AT: usize = 104;
const BIT_WIDTH_AT: usize = 172;

fn arrow_schema(seq_len: usize, bits: i8) -> String {
    let mut message = ARROW_SCHEMA;
    message[LIST_SIZE_AT..LIST_SIZE_AT + 4].copy_from_slice(&(seq_len as u32).to_le_bytes());
    message[BIT_WIDTH_AT] = bits as u8;
    base64::engine::general_purpose::STANDARD.encode(message)
}

fn parquet_schema(bits: i8) -> parquet::errors::Result<TypePtr> {
    let integer = LogicalType::Integer(IntType { bit_width: bits, is_signed: false });
    let element = Type::primitive_type_builder("element", Physical::INT32)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(integer))
        .build()?;
    let list = Type::group_type_builder("list")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![Arc::new(element)])
        .build()?;
    let tokens = Type::group_type_builder("tokens")
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(LogicalType::List))
        .with_fields(vec![Arc::new(list)])
        .build()?;
    Ok(Arc::new(Type::group_type_builder("schema").with_fields(vec![Arc::new(tokens)]).build()?))
}

/// What a manifest keeps of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardInfo {
    pub name: String,
    pub rows: u64,
    pub bytes: u64,
    pub sha256: String,
}

pub fn to_hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn io_error(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_path_buf(), source }
}

/// Hashes what passes through, so that a shard is never read back to learn its hash.
pub(crate) struct Hashing {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(data)?;
        self.hash.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Opens a file under a temporary name beside its own.
pub(crate) fn created(path: &Path) -> Result<(PathBuf, Hashing)> {
    // Not the process id, which two nodes on one file system may share.
    let unique = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!("{name}.tmp-{unique:016x}"));
    let file = File::create(&temporary).map_err(io_error(&temporary))?;
    Ok((temporary, Hashing { file: BufWriter::new(file), hash: Sha256::new(), bytes: 0 }))
}

/// Syncs what was written and gives it its name.
pub(crate) fn finished(mut sink: Hashing, temporary: &Path, path: &Path, rows: u64) -> Result<ShardInfo> {
    sink.flush().map_err(io_error(temporary))?;
    sink.file.get_ref().sync_all().map_err(io_error(temporary))?;
    std::fs::rename(temporary, path).map_err(io_error(path))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(ShardInfo { name, rows, bytes: sink.bytes, sha256: to_hex(&sink.hash.finalize()) })
}

/// Writes one shard to a temporary name and, when all rows are in, syncs and renames it.
pub struct ShardWriter<T: Id> {
    path: PathBuf,
    temporary: PathBuf,
    seq_len: usize,
    writer: Option<SerializedFileWriter<Hashing>>,
    rows: u64,
    pages: Pages,
    id: std::marker::PhantomData<T>,
}

impl<T: Id> ShardWriter<T> {
    pub fn create(path: PathBuf, seq_len: usize) -> Result<Self> {
        let (temporary, sink) = created(&path)?;
        let writer = Self::open(sink, seq_len).map_err(|error| bad(&path, error))?;
        let (id, pages) = (std::marker::PhantomData, Pages::new().map_err(io_error(&temporary))?);
        Ok(Self { path, temporary, seq_len, writer: Some(writer), rows: 0, pages, id })
    }

    fn open(sink: Hashing, seq_len: usize) -> parquet::errors::Result<SerializedFileWriter<Hashing>> {
        let arrow = KeyValue::new("ARROW:schema".into(), arrow_schema(seq_len, T::BITS));
        let properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_created_by("suite shard format 2".into())
            .set_key_value_metadata(Some(vec![arrow]))
            .set_dictionary_enabled(false)
            .set_encoding(Encoding::BYTE_STREAM_SPLIT)
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        SerializedFileWriter::new(sink, parquet_schema(T::BITS)?, Arc::new(properties))
    }

    /// Writes whole rows, `[rows * seq_len]` ids, as one row group.
    pub fn write_group(&mut self, ids: &[T]) -> Result<()> {
        assert!(ids.len().is_multiple_of(self.seq_len), "a row group holds whole rows");
        let Some(writer) = &mut self.writer else { unreachable!("finish() takes the writer and self with it") };
        let (pages, unpacked) = self.pages.of(ids, self.seq_len).map_err(io_error(&self.temporary))?;
        let rows = (ids.len() / self.seq_len) as u64;
        let write = || {
            let metadata = ColumnChunkMetaData::builder(writer.schema_descr().column(0))
                .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
                .set_encodings(vec![Encoding::RLE, Encoding::BYTE_STREAM_SPLIT])
                .set_total_compressed_size(pages.len() as i64)
                .set_total_uncompressed_size(unpacked as i64)
                .set_num_values(ids.len() as i64)
                .set_data_page_offset(0)
                .build()?;
            let closed = ColumnCloseResult {
                bytes_written: pages.len() as u64,
                rows_written: rows,
                metadata,
                bloom_filter: None,
                column_index: None,
                offset_index: None,
            };
            let mut group = writer.next_row_group()?;
            group.append_column(&Bytes::from(pages), closed)?;
            group.close()
        };
        write().map_err(|error| bad(&self.path, error))?;
        self.rows += rows;
        Ok(())
    }

    pub fn finish(mut self) -> Result<ShardInfo> {
        let Some(writer) = self.writer.take() else { unreachable!("finish() takes self") };
        let sink = writer.into_inner().map_err(|error| bad(&self.path, error))?;
        finished(sink, &self.temporary, &self.path, self.rows)
    }
}

impl<T: Id> Drop for ShardWriter<T> {
    fn drop(&mut self) {
        if self.temporary.exists() {
            let _ = std::fs::remove_file(&self.temporary); // only an unfinished shard is still there
        }
    }
}

pub(crate) fn bad(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::NotAShard { path: path.to_path_buf(), why: why.to_string() }
}
