//! The index of a split's documents: one parquet file with one column `tokens`, uint32, a row per document.
//!
//! A row is the document's part of the token stream, `<eos>` included, so the running sum is where each begins. Stored
//! apart from the shards, because a document may lie in two of them. One to one and a half bytes a document.

use crate::error::Result;
use crate::shard::{Hashing, ShardInfo, bad, created, finished};
use parquet::basic::{Compression, Encoding, IntType, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::Int32Type;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use std::path::PathBuf;
use std::sync::Arc;

/// Documents in a row group, whatever the pieces in which they come: the bytes depend on the lengths alone.
pub const DOCUMENTS_PER_GROUP: usize = 1 << 20;

fn schema() -> parquet::errors::Result<TypePtr> {
    let tokens = Type::primitive_type_builder("tokens", Physical::INT32)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(LogicalType::Integer(IntType { bit_width: 32, is_signed: false })))
        .build()?;
    Ok(Arc::new(Type::group_type_builder("schema").with_fields(vec![Arc::new(tokens)]).build()?))
}

/// Writes the index to a temporary name and, when all documents are in, syncs and renames it.
pub struct IndexWriter {
    path: PathBuf,
    temporary: PathBuf,
    writer: Option<SerializedFileWriter<Hashing>>,
    group: Vec<i32>,
    documents: u64,
}

impl IndexWriter {
    pub fn create(path: PathBuf) -> Result<Self> {
        let (temporary, sink) = created(&path)?;
        let properties = || -> parquet::errors::Result<WriterProperties> {
            Ok(WriterProperties::builder()
                .set_writer_version(WriterVersion::PARQUET_1_0)
                .set_created_by("suite index format 1".into())
                .set_dictionary_enabled(false)
                .set_encoding(Encoding::BYTE_STREAM_SPLIT)
                .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
                .set_statistics_enabled(EnabledStatistics::None)
                .build())
        };
        let open = || SerializedFileWriter::new(sink, schema()?, Arc::new(properties()?));
        let writer = open().map_err(|error| bad(&path, error))?;
        Ok(Self { path, temporary, writer: Some(writer), group: Vec::new(), documents: 0 })
    }

    /// The next documents' lengths in tokens.
    pub fn push(&mut self, mut lengths: &[u32]) -> Result<()> {
        self.documents += lengths.len() as u64;
        while !lengths.is_empty() {
            let (now, later) = lengths.split_at(lengths.len().min(DOCUMENTS_PER_GROUP - self.group.len()));
            self.group.extend(now.iter().map(|length| length.cast_signed()));
            lengths = later;
            if self.group.len() == DOCUMENTS_PER_GROUP {
                self.write_group()?;
            }
        }
        Ok(())
    }

    fn write_group(&mut self) -> Result<()> {
        let Some(writer) = &mut self.writer else { unreachable!("finish() takes the writer and self with it") };
        let mut write = || {
            let mut group = writer.next_row_group()?;
            if let Some(mut column) = group.next_column()? {
                column.typed::<Int32Type>().write_batch(&self.group, None, None)?;
                column.close()?;
            }
            group.close()
        };
        write().map_err(|error| bad(&self.path, error))?;
        self.group.clear();
        Ok(())
    }

    pub fn finish(mut self) -> Result<ShardInfo> {
        if !self.group.is_empty() {
            self.write_group()?;
        }
        let Some(writer) = self.writer.take() else { unreachable!("finish() takes self") };
        let sink = writer.into_inner().map_err(|error| bad(&self.path, error))?;
        finished(sink, &self.temporary, &self.path, self.documents)
    }
}

impl Drop for IndexWriter {
    fn drop(&mut self) {
        if self.temporary.exists() {
            let _ = std::fs::remove_file(&self.temporary); // only an unfinished index is still there
        }
    }
}
