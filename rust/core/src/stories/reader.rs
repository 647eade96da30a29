//! Finds the one derivation of a text, and with it the probability of every span.

use super::grammar::story;
use super::{Kind, Table, Teller};
use crate::error::{Error, Result};

/// Bytes `start .. end` of a story, which cost `nats` = -ln p given all before them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
    pub kind: Kind,
    pub nats: f64,
}

/// The spans of a story, which tile it. A name's syllables are one span, as is any run of one kind.
///
/// Fails with `NotAStory` for a text that the grammar cannot have written.
pub fn spans(text: &str) -> Result<Vec<Span>> {
    let mut reader = Reader::new(text);
    story(&mut reader)?;
    reader.finish()
}

pub(super) struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    spans: Vec<Span>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), at: 0, spans: Vec::with_capacity(128) }
    }

    pub(super) fn finish(self) -> Result<Vec<Span>> {
        if self.at < self.text.len() {
            return Err(self.refuse("the end of the story".into()));
        }
        Ok(self.spans)
    }

    fn refuse(&self, expected: String) -> Error {
        let rest = &self.text[self.at..];
        let found = String::from_utf8_lossy(&rest[..rest.len().min(16)]);
        Error::NotAStory { at: self.at, why: format!("expected {expected}, found {found:?}") }
    }

    fn starts_with(&self, text: &str) -> bool {
        self.text[self.at..].starts_with(text.as_bytes())
    }

    fn take(&mut self, kind: Kind, num_bytes: usize, nats: f64) {
        if num_bytes == 0 {
            return;
        }
        let (start, end) = (self.at, self.at + num_bytes);
        match self.spans.last_mut() {
            Some(last) if last.kind == kind => {
                last.end = end;
                last.nats += nats;
            }
            _ => self.spans.push(Span { start, end, kind, nats }),
        }
        self.at = end;
    }

    fn read(&mut self, kind: Kind, text: &str) -> Result<()> {
        if !self.starts_with(text) {
            return Err(self.refuse(format!("{text:?} ({})", kind.name())));
        }
        self.take(kind, text.len(), 0.0);
        Ok(())
    }
}

impl Teller for Reader<'_> {
    type Stop = Error;

    fn choose(&mut self, kind: Kind, options: Table, taken: &[usize]) -> Result<usize> {
        let fits = |index: &usize| !taken.contains(index) && self.starts_with(options[*index]);
        let Some(index) = (0..options.len()).find(fits) else {
            let free: Vec<_> = (0..options.len()).filter(|i| !taken.contains(i)).map(|i| options[i]).collect();
            return Err(self.refuse(format!("one of {free:?} ({})", kind.name())));
        };
        self.take(kind, options[index].len(), ((options.len() - taken.len()) as f64).ln());
        Ok(index)
    }

    fn branch(&mut self, kind: Kind, options: Table, taken: &[usize]) -> Result<usize> {
        self.choose(kind, options, taken)
    }

    fn recall(&mut self, kind: Kind, table: Table, index: usize) -> Result<()> {
        self.read(kind, table[index])
    }

    fn text(&mut self, text: &'static str) -> Result<()> {
        self.read(Kind::Text, text)
    }
}
