//! Word counts and the merges made from them.

use crate::bpe::Texts;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::collections::{BTreeMap, HashMap};
use suite_core::bpe::{CharacterWords, Prefix, Spaces, Trainer, WordCounts};

const SLICE_BYTES: usize = 16 << 20; // a tenth of a second: how long Ctrl-C may wait

/// Counts GPT-2's words; none reaches across the end of a document.
#[pyclass(name = "WordCounts", unsendable)]
#[derive(Default)]
struct PyWordCounts(WordCounts);

#[pymethods]
impl PyWordCounts {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// add(data, starts, stops): counts the words of these documents
    fn add(
        &mut self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        starts: &Bound<'_, PyAny>,
        stops: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let texts = Texts::of(py, data, starts, stops)?;
        if let Some(number) = py.detach(|| texts.not_utf8()) {
            return Err(PyValueError::new_err(format!("document {number} is not UTF-8")));
        }
        let counts = &mut self.0;
        let mut documents = texts.documents();
        let (mut document, mut at) = (documents.next(), 0);
        while document.is_some() {
            py.detach(|| {
                let mut left = SLICE_BYTES;
                while left > 0
                    && let Some(text) = document
                {
                    let end = counts.add(text, at, at + left.min(text.len() - at));
                    left = left.saturating_sub(end - at);
                    at = end;
                    if at == text.len() {
                        (document, at) = (documents.next(), 0);
                    }
                }
            });
            py.check_signals()?;
        }
        Ok(())
    }
}

/// Counts words of characters, where a space is a visible character.
#[pyclass(name = "CharacterWords", unsendable)]
#[derive(Default)]
struct PyCharacterWords(CharacterWords);

#[pymethods]
impl PyCharacterWords {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// add(word, count): a word that the caller has divided from its text
    fn add(&mut self, word: &str, count: u64) {
        self.0.add(word, count);
    }

    /// add_texts(data, starts, stops, *, visible, prefix, runs): the words of these documents; a space is " " in them
    #[pyo3(signature = (data, starts, stops, *, visible, prefix, runs))]
    #[allow(clippy::too_many_arguments)]
    fn add_texts(
        &mut self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        starts: &Bound<'_, PyAny>,
        stops: &Bound<'_, PyAny>,
        visible: char,
        prefix: &str,
        runs: bool,
    ) -> PyResult<()> {
        let prefix = match prefix {
            "never" => Prefix::Never,
            "always" => Prefix::Always,
            "unless there" => Prefix::UnlessThere,
            _ => return Err(PyValueError::new_err("prefix is one of never, always, unless there")),
        };
        let (texts, spaces) = (Texts::of(py, data, starts, stops)?, Spaces { visible, prefix, runs });
        let mut unchecked = 0;
        for (number, document) in texts.documents().enumerate() {
            let text = std::str::from_utf8(document)
                .map_err(|_| PyValueError::new_err(format!("document {number} is not UTF-8")))?;
            let words = &mut self.0;
            py.detach(|| words.add_text(text, spaces));
            unchecked += text.len();
            if unchecked > SLICE_BYTES {
                py.check_signals()?;
                unchecked = 0;
            }
        }
        Ok(())
    }

    /// characters() -> {character: how often it occurs}
    fn characters(&self, py: Python<'_>) -> BTreeMap<char, u64> {
        let words = &self.0;
        py.detach(|| words.characters())
    }
}

/// Merges pairs as the tokenizers library's trainer does.
#[pyclass(name = "Trainer", unsendable)]
struct PyTrainer(Trainer);

#[pymethods]
impl PyTrainer {
    /// Trainer(words, bytes, vocab_size): takes the words, of which none are left; the id of each byte
    #[new]
    fn new(py: Python<'_>, words: &mut PyWordCounts, bytes: Vec<u32>, vocab_size: usize) -> PyResult<Self> {
        let bytes: [u32; 256] = bytes.try_into().map_err(|_| PyValueError::new_err("256 ids of bytes are needed"))?;
        let words = &mut words.0;
        Ok(Self(py.detach(|| Trainer::of_bytes(words.drain(), &bytes, vocab_size))))
    }

    /// Trainer.of_characters(words, ids, reserved, first_id, vocab_size): takes the words; the ids of characters
    #[staticmethod]
    fn of_characters(
        py: Python<'_>,
        words: &mut PyCharacterWords,
        ids: HashMap<char, u32>,
        reserved: Vec<String>,
        first_id: u32,
        vocab_size: usize,
    ) -> Self {
        let words = &mut words.0;
        Self(py.detach(|| Trainer::of_characters(words.drain(), &ids, &reserved, first_id, vocab_size)))
    }

    /// merge(most) -> how many merges it made; fewer than `most` when there are no more to make
    fn merge(&mut self, py: Python<'_>, most: usize) -> PyResult<usize> {
        let trainer = &mut self.0;
        for made in 0..most {
            if !py.detach(|| trainer.merge()) {
                return Ok(made);
            }
            py.check_signals()?;
        }
        Ok(most)
    }

    /// merges() -> [(left, right)]; the first made the first new id, and so on
    fn merges(&self) -> Vec<(u32, u32)> {
        self.0.merges().to_vec()
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyWordCounts>()?;
    module.add_class::<PyCharacterWords>()?;
    module.add_class::<PyTrainer>()?;
    Ok(())
}
