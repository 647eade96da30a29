//! Text to ids.

use crate::data::to_py;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use suite_core::bpe::{Encoder, Vocabulary};
use suite_core::shard::Id;

enum Encoders {
    Narrow(Encoder<u16>),
    Wide(Encoder<u32>),
}

/// Encodes texts by byte-level BPE; the same ids as the tokenizers library's, with `<eos>` behind each text.
#[pyclass(name = "Encoder")]
struct PyEncoder {
    encoder: Encoders,
    eos: u32,
}

/// Documents in one buffer: their bytes, and where each begins and ends.
pub struct Texts {
    data: Vec<u8>,
    starts: Vec<i64>,
    stops: Vec<i64>,
}

impl Texts {
    pub fn of(
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        starts: &Bound<'_, PyAny>,
        stops: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let texts = Self {
            data: PyBuffer::<u8>::get(data)?.to_vec(py)?,
            starts: PyBuffer::<i64>::get(starts)?.to_vec(py)?,
            stops: PyBuffer::<i64>::get(stops)?.to_vec(py)?,
        };
        let inside = |(&start, &stop)| 0 <= start && start <= stop && stop as usize <= texts.data.len();
        if texts.starts.len() != texts.stops.len() || !texts.starts.iter().zip(&texts.stops).all(inside) {
            return Err(PyValueError::new_err("a document lies outside its buffer"));
        }
        Ok(texts)
    }

    pub fn documents(&self) -> impl Iterator<Item = &[u8]> {
        self.starts.iter().zip(&self.stops).map(|(&start, &stop)| &self.data[start as usize..stop as usize])
    }

    pub fn not_utf8(&self) -> Option<usize> {
        self.documents().position(|document| std::str::from_utf8(document).is_err())
    }
}

fn stream<T: Id>(encoder: &mut Encoder<T>, texts: &Texts, eos: u32) -> PyResult<Vec<T>> {
    let mut ids = Vec::with_capacity(texts.data.len() / 3 + texts.starts.len());
    for (number, document) in texts.documents().enumerate() {
        let text = std::str::from_utf8(document)
            .map_err(|error| PyValueError::new_err(format!("document {number} is not UTF-8: {error}")))?;
        encoder.encode(text, &mut ids);
        ids.push(T::from_u32(eos));
    }
    Ok(ids)
}

/// not_utf8(data, starts, stops) -> the number of the first document that is not UTF-8, or None
#[pyfunction]
fn not_utf8(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    starts: &Bound<'_, PyAny>,
    stops: &Bound<'_, PyAny>,
) -> PyResult<Option<usize>> {
    let texts = Texts::of(py, data, starts, stops)?;
    Ok(py.detach(|| texts.not_utf8()))
}

/// text_hashes(data, starts, stops) -> bytes: the first 16 of each document's SHA-256
#[pyfunction]
fn text_hashes<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    starts: &Bound<'py, PyAny>,
    stops: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let texts = Texts::of(py, data, starts, stops)?;
    let hashes: Vec<u8> = py.detach(|| texts.documents().flat_map(suite_core::hash::of_text).collect());
    Ok(PyBytes::new(py, &hashes))
}

/// jsonl_texts(data, field) -> (bytes of the texts, bytes of int64 edges), or None where a line needs a closer look
#[pyfunction]
#[allow(clippy::type_complexity)]
fn jsonl_texts<'py>(py: Python<'py>, data: &[u8], field: &str) -> Option<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let (texts, edges) = py.detach(|| suite_core::jsonl::texts(data, field))?;
    Some((PyBytes::new(py, &texts), int64(py, &edges)))
}

pub fn int64<'py>(py: Python<'py>, values: &[i64]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

#[pymethods]
impl PyEncoder {
    /// Encoder(bytes, merges, *, add_prefix_space, eos, wide): the id of each byte; (left, right, made) by rank.
    #[new]
    #[pyo3(signature = (bytes, merges, *, add_prefix_space, eos, wide))]
    fn new(
        bytes: Vec<u32>,
        merges: Vec<(u32, u32, u32)>,
        add_prefix_space: bool,
        eos: u32,
        wide: bool,
    ) -> PyResult<Self> {
        let bytes: [u32; 256] = bytes.try_into().map_err(|_| PyValueError::new_err("256 ids of bytes are needed"))?;
        let vocabulary = Vocabulary { bytes, merges, add_prefix_space };
        let encoder = if wide {
            Encoders::Wide(Encoder::new(&vocabulary).map_err(to_py)?)
        } else {
            Encoders::Narrow(Encoder::new(&vocabulary).map_err(to_py)?)
        };
        Ok(Self { encoder, eos })
    }

    /// stream(data, starts, stops) -> bytes of uint16, or uint32 when wide: each document's ids and then <eos>
    fn stream<'py>(
        &mut self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        starts: &Bound<'py, PyAny>,
        stops: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (texts, eos) = (Texts::of(py, data, starts, stops)?, self.eos);
        match &mut self.encoder {
            Encoders::Narrow(encoder) => {
                let ids = py.detach(|| stream(encoder, &texts, eos))?;
                PyBytes::new_with(py, ids.len() * 2, |out| {
                    out.chunks_exact_mut(2).zip(&ids).for_each(|(place, id)| place.copy_from_slice(&id.to_le_bytes()));
                    Ok(())
                })
            }
            Encoders::Wide(encoder) => {
                let ids = py.detach(|| stream(encoder, &texts, eos))?;
                PyBytes::new_with(py, ids.len() * 4, |out| {
                    out.chunks_exact_mut(4).zip(&ids).for_each(|(place, id)| place.copy_from_slice(&id.to_le_bytes()));
                    Ok(())
                })
            }
        }
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyEncoder>()?;
    module.add_function(wrap_pyfunction!(not_utf8, module)?)?;
    module.add_function(wrap_pyfunction!(text_hashes, module)?)?;
    module.add_function(wrap_pyfunction!(jsonl_texts, module)?)?;
    Ok(())
}
