//! Where tokens spell a text: exact, whatever pieces a tokenizer would cut the text into by itself.
//!
//! Ids become the bytes that they stand for, and the bytes are searched. Nothing is found across the end of a document.

use crate::shard::Id;
use memchr::memmem;

/// Searches a stream of ids, pushed in pieces of any size.
pub struct Finder {
    /// In a box of its own: it holds vectors of 32 bytes, and Python's allocator aligns its objects to 16.
    searcher: Box<memmem::Finder<'static>>,
    spelled: Vec<Vec<u8>>,
    breaks: Vec<u32>,
    /// Bytes in which a match could still begin, and where in them each token begins.
    bytes: Vec<u8>,
    tokens: Vec<(usize, u64)>,
    /// Places in `bytes` where a document ends.
    edges: Vec<usize>,
    position: u64,
}

impl Finder {
    /// `text` is not empty; `spelled` are the bytes of each id; ids in `breaks` end documents.
    pub fn new(text: &[u8], spelled: Vec<Vec<u8>>, breaks: Vec<u32>) -> Self {
        assert!(!text.is_empty(), "an empty text is everywhere");
        let searcher = Box::new(memmem::Finder::new(text).into_owned());
        Self { searcher, spelled, breaks, bytes: Vec::new(), tokens: Vec::new(), edges: Vec::new(), position: 0 }
    }

    /// The first and last token, counted from the beginning of the stream, of each place that these ids complete.
    ///
    /// Places do not overlap. An id that has no bytes is skipped; one that is no id is, too.
    pub fn push<T: Id>(&mut self, ids: &[T]) -> Vec<(u64, u64)> {
        for id in ids {
            let id = id.to_u64();
            if self.breaks.iter().any(|edge| u64::from(*edge) == id) {
                self.edges.push(self.bytes.len());
            } else if let Some(spelled) = self.spelled.get(id as usize).filter(|spelled| !spelled.is_empty()) {
                self.tokens.push((self.bytes.len(), self.position));
                self.bytes.extend_from_slice(spelled);
            }
            self.position += 1;
        }
        self.search()
    }

    /// Ends the document under way.
    pub fn end(&mut self) {
        self.edges.push(self.bytes.len());
    }

    fn token_at(&self, byte: usize) -> u64 {
        self.tokens[self.tokens.partition_point(|(start, _)| *start <= byte) - 1].1
    }

    fn search(&mut self) -> Vec<(u64, u64)> {
        let length = self.searcher.needle().len();
        let (mut found, mut from) = (Vec::new(), 0);
        while let Some(at) = self.searcher.find(&self.bytes[from..]) {
            let (start, stop) = (from + at, from + at + length);
            let crossed = self.edges.partition_point(|edge| *edge <= start);
            if self.edges.get(crossed).is_some_and(|edge| *edge < stop) {
                from = start + 1;
            } else {
                found.push((self.token_at(start), self.token_at(stop - 1)));
                from = stop;
            }
        }
        let keep = (self.bytes.len() + 1).saturating_sub(length).max(from);
        self.bytes.drain(..keep);
        self.tokens.drain(..self.tokens.partition_point(|(start, _)| *start <= keep).saturating_sub(1));
        self.tokens.iter_mut().for_each(|(start, _)| *start = start.saturating_sub(keep));
        self.edges.retain_mut(|edge| {
            let inside = *edge > keep;
            *edge = edge.saturating_sub(keep);
            inside
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &[u8], documents: &[&[u8]], size: usize) -> Vec<(u64, u64)> {
        let spelled = (0..=255u8).map(|byte| vec![byte]).chain([vec![], b"ab".to_vec()]).collect();
        let ids: Vec<u16> =
            documents.iter().flat_map(|document| document.iter().map(|byte| u16::from(*byte)).chain([256])).collect();
        let mut finder = Finder::new(text, spelled, vec![256]);
        ids.chunks(size).flat_map(|piece| finder.push(piece)).collect()
    }

    #[test]
    fn found_in_any_pieces_and_never_across_documents() {
        let documents: [&[u8]; 4] = [b"xabab", b"ab", b"", b"bbaab"];
        for size in 1..20 {
            assert_eq!(places(b"ab", &documents, size), [(1, 2), (3, 4), (6, 7), (13, 14)], "pieces of {size}");
            assert_eq!(places(b"abb", &documents, size), [], "pieces of {size}");
            assert_eq!(places(b"abab", &documents, size), [(1, 4)], "pieces of {size}");
        }
    }
}
