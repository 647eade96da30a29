//! What Suite computes outside of torch: rows and shards of tokens, the order of rows, stories, CPU kernels.

pub mod bpe;
pub mod distinct;
pub mod error;
pub mod find;
pub mod hash;
pub mod index;
pub mod jsonl;
pub mod kernels;
pub mod order;
pub mod pack;
pub mod shard;
pub mod stories;
