//! Word counts and the merges made from them.

use crate::bpe::Texts;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use suite_core::bpe::{Trainer, WordCounts};

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
        Ok(Self(py.detach(|| Trainer::new(words.drain(), &bytes, vocab_size))))
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

    /// merges() -> [(left, right)]; the first made the id behind the largest of a byte, and so on
    fn merges(&self) -> Vec<(u32, u32)> {
        self.0.merges().to_vec()
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyWordCounts>()?;
    module.add_class::<PyTrainer>()?;
    Ok(())
}
