//! What can go wrong, one variant per cause. Messages name the thing, what was expected and what was found.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shape of rows that was asked for cannot exist.
    #[error("{0}")]
    Layout(String),

    /// A token id that the vocabulary does not have reached the packer.
    #[error("token id {id} is beyond the vocabulary of {vocab_size}")]
    IdBeyondVocabulary { id: u64, vocab_size: u64 },

    /// A shard's bytes are not those that its manifest promises.
    #[error("{path}: SHA-256 is {found}, the manifest says {expected}: the file was damaged or replaced; remove it and tokenize again", path = .path.display())]
    WrongHash { path: PathBuf, expected: String, found: String },

    /// A parquet file that is not a token shard of the expected shape.
    #[error("{path}: not a token shard: {why}", path = .path.display())]
    NotAShard { path: PathBuf, why: String },

    /// An array that does not have the shape that a kernel needs.
    #[error("{0}")]
    Shape(String),

    /// The operating system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: std::io::Error },

    /// A text that the story grammar cannot have written.
    #[error("not a story of this grammar: at byte {at}: {why}")]
    NotAStory { at: usize, why: String },
}

pub type Result<T> = std::result::Result<T, Error>;
