//! Text to ids.

use crate::data::to_py;
use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::collections::HashMap;
use suite_core::bpe::{Encoder, Kind, Spaces, Vocabulary};
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

/// Numbers of Python's, held and not copied: a text may be a good part of what memory holds.
pub struct Held<T>(PyBuffer<T>);

pub type Bytes = Held<u8>;

impl<T: Element> Held<T> {
    pub fn get(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyBuffer::<T>::get(object)?;
        if !buffer.is_c_contiguous() || !(buffer.buf_ptr() as usize).is_multiple_of(size_of::<T>()) {
            return Err(PyValueError::new_err("the numbers do not lie one behind the other"));
        }
        Ok(Self(buffer))
    }

    #[allow(unsafe_code)]
    pub fn as_slice(&self) -> &[T] {
        if self.0.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: the buffer, held by self, is contiguous, aligned and so long, and its owner neither moves nor frees it
        // while it is held. Nobody may write to it meanwhile, though the GIL is released: what holds texts or ids is
        // written once, before it is passed on (python/suite/data/texts.py).
        unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast::<T>(), self.0.item_count()) }
    }
}

/// Documents in one buffer: their bytes, and where each begins and ends.
pub struct Texts {
    data: Bytes,
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
            data: Bytes::get(data)?,
            starts: PyBuffer::<i64>::get(starts)?.to_vec(py)?,
            stops: PyBuffer::<i64>::get(stops)?.to_vec(py)?,
        };
        let len = texts.data.as_slice().len();
        let inside = |(&start, &stop)| 0 <= start && start <= stop && stop as usize <= len;
        if texts.starts.len() != texts.stops.len() || !texts.starts.iter().zip(&texts.stops).all(inside) {
            return Err(PyValueError::new_err("a document lies outside its buffer"));
        }
        Ok(texts)
    }

    pub fn documents(&self) -> impl Iterator<Item = &[u8]> {
        let data = self.data.as_slice();
        self.starts.iter().zip(&self.stops).map(|(&start, &stop)| &data[start as usize..stop as usize])
    }

    pub fn not_utf8(&self) -> Option<usize> {
        self.documents().position(|document| std::str::from_utf8(document).is_err())
    }
}

/// The ids, and how many each document has.
fn stream<T: Id>(encoder: &mut Encoder<T>, texts: &Texts, eos: u32) -> PyResult<(Vec<T>, Vec<u32>)> {
    let mut ids = Vec::with_capacity(texts.data.as_slice().len() / 3 + texts.starts.len());
    let mut lengths = Vec::with_capacity(texts.starts.len());
    for (number, document) in texts.documents().enumerate() {
        let text = std::str::from_utf8(document)
            .map_err(|error| PyValueError::new_err(format!("document {number} is not UTF-8: {error}")))?;
        let before = ids.len();
        encoder.encode(text, &mut ids);
        ids.push(T::from_u32(eos));
        lengths.push((ids.len() - before) as u32);
    }
    Ok((ids, lengths))
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
fn jsonl_texts<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    field: &str,
) -> PyResult<Option<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>> {
    let data = Bytes::get(data)?;
    let found = py.detach(|| suite_core::jsonl::texts(data.as_slice(), field));
    Ok(found.map(|(texts, edges)| (PyBytes::new(py, &texts), int64(py, &edges))))
}

/// csv_header(data, separator, last) -> (names, bytes taken); None while the header is not all there, or nothing is
#[pyfunction]
#[allow(clippy::type_complexity)]
fn csv_header<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    separator: u8,
    last: bool,
) -> PyResult<Option<(Vec<Bound<'py, PyBytes>>, usize)>> {
    let found = suite_core::csv::header(Bytes::get(data)?.as_slice(), separator, last);
    let found = found.map_err(PyValueError::new_err)?;
    Ok(found.map(|(names, taken)| (names.iter().map(|name| PyBytes::new(py, name)).collect(), taken)))
}

/// csv_texts(data, separator, column, columns, last) -> (bytes of the texts, bytes of int64 edges, bytes taken,
/// what is wrong with the row that follows)
#[pyfunction]
#[allow(clippy::type_complexity)]
fn csv_texts<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    separator: u8,
    column: usize,
    columns: usize,
    last: bool,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>, usize, Option<String>)> {
    let data = Bytes::get(data)?;
    let found = py.detach(|| suite_core::csv::texts(data.as_slice(), separator, column, columns, last));
    Ok((PyBytes::new(py, &found.texts), int64(py, &found.edges), found.taken, found.problem))
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
        Self::of(bytes, merges, Kind::ByteLevel { add_prefix_space }, eos, wide)
    }

    /// Encoder.of_characters(bytes, characters, merges, *, visible, prefix, runs, eos, wide): of words that spaces begin
    #[staticmethod]
    #[pyo3(signature = (bytes, characters, merges, *, visible, prefix, runs, eos, wide))]
    #[allow(clippy::too_many_arguments)]
    fn of_characters(
        bytes: Vec<u32>,
        characters: HashMap<char, u32>,
        merges: Vec<(u32, u32, u32)>,
        visible: char,
        prefix: &str,
        runs: bool,
        eos: u32,
        wide: bool,
    ) -> PyResult<Self> {
        let spaces = Spaces { visible, prefix: crate::train::prefix_of(prefix)?, runs };
        Self::of(bytes, merges, Kind::Characters { ids: characters, spaces }, eos, wide)
    }

    /// stream(data, starts, stops) -> (bytes of uint16, or uint32 when wide: each document's ids and then <eos>; bytes of
    /// uint32: how many each document has)
    fn stream<'py>(
        &mut self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        starts: &Bound<'py, PyAny>,
        stops: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let (texts, eos) = (Texts::of(py, data, starts, stops)?, self.eos);
        match &mut self.encoder {
            Encoders::Narrow(encoder) => {
                let (ids, lengths) = py.detach(|| stream(encoder, &texts, eos))?;
                Ok((bytes_of(py, &ids, u16::to_le_bytes)?, bytes_of(py, &lengths, u32::to_le_bytes)?))
            }
            Encoders::Wide(encoder) => {
                let (ids, lengths) = py.detach(|| stream(encoder, &texts, eos))?;
                Ok((bytes_of(py, &ids, u32::to_le_bytes)?, bytes_of(py, &lengths, u32::to_le_bytes)?))
            }
        }
    }
}

fn bytes_of<'py, T: Copy, const N: usize>(
    py: Python<'py>,
    values: &[T],
    bytes: fn(T) -> [u8; N],
) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, values.len() * N, |out| {
        out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(place, &value)| *place = bytes(value));
        Ok(())
    })
}

impl PyEncoder {
    fn of(bytes: Vec<u32>, merges: Vec<(u32, u32, u32)>, kind: Kind, eos: u32, wide: bool) -> PyResult<Self> {
        let bytes: [u32; 256] = bytes.try_into().map_err(|_| PyValueError::new_err("256 ids of bytes are needed"))?;
        let vocabulary = Vocabulary { bytes, merges, kind };
        let encoder = if wide {
            Encoders::Wide(Encoder::new(&vocabulary).map_err(to_py)?)
        } else {
            Encoders::Narrow(Encoder::new(&vocabulary).map_err(to_py)?)
        };
        Ok(Self { encoder, eos })
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyEncoder>()?;
    module.add_function(wrap_pyfunction!(not_utf8, module)?)?;
    module.add_function(wrap_pyfunction!(text_hashes, module)?)?;
    module.add_function(wrap_pyfunction!(jsonl_texts, module)?)?;
    module.add_function(wrap_pyfunction!(csv_header, module)?)?;
    module.add_function(wrap_pyfunction!(csv_texts, module)?)?;
    Ok(())
}
