//! Plans, shards and the order of rows.

use crate::bpe::Held;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::path::PathBuf;
use suite_core::distinct::Distinct;
use suite_core::error::Error;
use suite_core::find::Finder;
use suite_core::index::IndexWriter;
use suite_core::pack::{Layout, Packer};
use suite_core::shard::{Id, ShardInfo, read_shard};

pub fn to_py(error: Error) -> PyErr {
    match error {
        Error::Io { .. } => PyOSError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

type Shard = (String, u64, u64, String);

fn shard(info: ShardInfo) -> Shard {
    (info.name, info.rows, info.bytes, info.sha256)
}

/// plan(counts, seq_len, overlap, rows_per_shard) -> (rows, dropped tokens, [(first_row, rows, start, stop)])
#[pyfunction]
#[allow(clippy::type_complexity)]
fn plan(
    counts: Vec<u64>,
    seq_len: usize,
    overlap: usize,
    rows_per_shard: u64,
) -> PyResult<(u64, u64, Vec<(u64, u64, u64, u64)>)> {
    let layout = Layout::new(seq_len, overlap, rows_per_shard).map_err(to_py)?;
    let tokens = counts.iter().sum();
    let spans = layout.plan(&counts).into_iter().map(|s| (s.first_row, s.rows, s.start, s.stop)).collect();
    Ok((layout.num_rows(tokens), layout.dropped(tokens), spans))
}

/// order_rows(seed, num_rows, start, count) -> bytes of u64: the rows at these positions of the endless order
#[pyfunction]
fn order_rows<'py>(
    py: Python<'py>,
    seed: u64,
    num_rows: u64,
    start: u64,
    count: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    check_num_rows(num_rows)?;
    let rows = py.detach(|| suite_core::order::rows(seed, num_rows, start, count));
    let bytes: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
    Ok(PyBytes::new(py, &bytes))
}

/// order_positions(seed, num_rows, epoch, rows) -> bytes of u64: where in this epoch each of these rows comes
#[pyfunction]
fn order_positions<'py>(
    py: Python<'py>,
    seed: u64,
    num_rows: u64,
    epoch: u64,
    rows: &Bound<'_, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    check_num_rows(num_rows)?;
    let rows = PyBuffer::<u64>::get(rows)?.to_vec(py)?;
    if let Some(row) = rows.iter().find(|row| **row >= num_rows) {
        return Err(PyValueError::new_err(format!("row {row} of {num_rows} rows")));
    }
    let order = suite_core::order::Order::new(seed, epoch, num_rows);
    let bytes: Vec<u8> = py.detach(|| rows.iter().flat_map(|row| order.position_of(*row).to_le_bytes()).collect());
    Ok(PyBytes::new(py, &bytes))
}

fn check_num_rows(num_rows: u64) -> PyResult<()> {
    if num_rows == 0 || num_rows > 1 << 62 {
        return Err(PyValueError::new_err(format!("num_rows is {num_rows}; an order needs 1 to 2**62 rows")));
    }
    Ok(())
}

enum Packers {
    Narrow(Packer<u16>),
    Wide(Packer<u32>),
}

/// Cuts a stream of token ids, pushed in pieces of any size, into shards.
#[pyclass(name = "Packer", unsendable)]
struct PyPacker(Option<Packers>);

fn ids<T: Id + pyo3::buffer::Element>(py: Python<'_>, buffer: &Bound<'_, PyAny>) -> PyResult<Vec<T>> {
    PyBuffer::<T>::get(buffer)?.to_vec(py)
}

const FINISHED: &str = "this packer is finished";

#[pymethods]
impl PyPacker {
    #[new]
    #[pyo3(signature = (directory, prefix, *, bos, vocab_size, seq_len, overlap, rows_per_shard, first_shard=0))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        directory: PathBuf,
        prefix: String,
        bos: u32,
        vocab_size: u64,
        seq_len: usize,
        overlap: usize,
        rows_per_shard: u64,
        first_shard: u64,
    ) -> PyResult<Self> {
        let layout = Layout::new(seq_len, overlap, rows_per_shard).map_err(to_py)?;
        let packer = match u16::try_from(bos) {
            Ok(bos) if vocab_size <= 1 << 16 => {
                Packers::Narrow(Packer::new(layout, bos, vocab_size, directory, prefix, first_shard).map_err(to_py)?)
            }
            _ => Packers::Wide(Packer::new(layout, bos, vocab_size, directory, prefix, first_shard).map_err(to_py)?),
        };
        Ok(Self(Some(packer)))
    }

    /// Pushes the next ids: a buffer of uint16 (vocabularies up to 65,536) or uint32.
    fn push(&mut self, py: Python<'_>, buffer: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.0.as_mut().ok_or_else(|| PyValueError::new_err(FINISHED))? {
            Packers::Narrow(packer) => {
                let ids = Held::<u16>::get(buffer)?;
                py.detach(|| packer.push(ids.as_slice())).map_err(to_py)
            }
            Packers::Wide(packer) => {
                let ids = Held::<u32>::get(buffer)?;
                py.detach(|| packer.push(ids.as_slice())).map_err(to_py)
            }
        }
    }

    /// written() -> [(name, rows, bytes, sha256)]: the shards finished since the last call
    fn written(&mut self) -> PyResult<Vec<Shard>> {
        let done = match self.0.as_mut().ok_or_else(|| PyValueError::new_err(FINISHED))? {
            Packers::Narrow(packer) => packer.written(),
            Packers::Wide(packer) => packer.written(),
        };
        Ok(done.into_iter().map(shard).collect())
    }

    /// Ends the stream -> ([(name, rows, bytes, sha256)], tokens pushed)
    fn finish(&mut self, py: Python<'_>) -> PyResult<(Vec<Shard>, u64)> {
        let (shards, tokens) = match self.0.take().ok_or_else(|| PyValueError::new_err(FINISHED))? {
            Packers::Narrow(packer) => py.detach(|| packer.finish()),
            Packers::Wide(packer) => py.detach(|| packer.finish()),
        }
        .map_err(to_py)?;
        Ok((shards.into_iter().map(shard).collect(), tokens))
    }
}

/// Writes the index of a split's documents.
#[pyclass(name = "IndexWriter", unsendable)]
struct PyIndexWriter(Option<IndexWriter>);

#[pymethods]
impl PyIndexWriter {
    #[new]
    fn new(path: PathBuf) -> PyResult<Self> {
        Ok(Self(Some(IndexWriter::create(path).map_err(to_py)?)))
    }

    /// Pushes the next documents' lengths in tokens: a buffer of uint32.
    fn push(&mut self, py: Python<'_>, lengths: &Bound<'_, PyAny>) -> PyResult<()> {
        let lengths = ids::<u32>(py, lengths)?;
        let writer = self.0.as_mut().ok_or_else(|| PyValueError::new_err("this index is finished"))?;
        py.detach(|| writer.push(&lengths)).map_err(to_py)
    }

    /// finish() -> (name, documents, bytes, sha256)
    fn finish(&mut self, py: Python<'_>) -> PyResult<Shard> {
        let writer = self.0.take().ok_or_else(|| PyValueError::new_err("this index is finished"))?;
        py.detach(|| writer.finish()).map(shard).map_err(to_py)
    }
}

/// Remembers documents by 16 bytes of their hashes.
#[pyclass(name = "Distinct")]
#[derive(Default)]
struct PyDistinct(Distinct);

#[pymethods]
impl PyDistinct {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// firsts(digests) -> bytes of 1 where a document is the first with its text, 0 where it is not
    fn firsts<'py>(&mut self, py: Python<'py>, digests: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let (digests, []) = digests.as_chunks::<16>() else {
            return Err(PyValueError::new_err("a digest has 16 bytes"));
        };
        let firsts = py.detach(|| self.0.firsts(digests));
        Ok(PyBytes::new(py, &firsts))
    }
}

/// Searches a stream of ids for a text.
#[pyclass(name = "Finder")]
struct PyFinder {
    finder: Finder,
    wide: bool,
}

#[pymethods]
impl PyFinder {
    #[new]
    fn new(text: &[u8], spelled: Vec<Vec<u8>>, breaks: Vec<u32>, wide: bool) -> PyResult<Self> {
        if text.is_empty() {
            return Err(PyValueError::new_err("an empty text is everywhere"));
        }
        Ok(Self { finder: Finder::new(text, spelled, breaks), wide })
    }

    /// push(ids) -> [(first token, last token)] of the places that these ids complete
    fn push(&mut self, py: Python<'_>, buffer: &Bound<'_, PyAny>) -> PyResult<Vec<(u64, u64)>> {
        if self.wide {
            let ids = ids::<u32>(py, buffer)?;
            Ok(py.detach(|| self.finder.push(&ids)))
        } else {
            let ids = ids::<u16>(py, buffer)?;
            Ok(py.detach(|| self.finder.push(&ids)))
        }
    }

    /// end(): ends the document under way
    fn end(&mut self) {
        self.finder.end();
    }
}

/// read_shard(path, seq_len, wide, sha256) -> bytes of uint16, or uint32 when wide: all rows, checked and decoded
#[pyfunction]
#[pyo3(name = "read_shard")]
fn py_read_shard<'py>(
    py: Python<'py>,
    path: PathBuf,
    seq_len: usize,
    wide: bool,
    sha256: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    let bytes: Vec<u8> = py
        .detach(|| {
            if wide {
                read_shard::<u32>(&path, seq_len, sha256)
                    .map(|ids| ids.iter().flat_map(|id| id.to_le_bytes()).collect())
            } else {
                read_shard::<u16>(&path, seq_len, sha256)
                    .map(|ids| ids.iter().flat_map(|id| id.to_le_bytes()).collect())
            }
        })
        .map_err(to_py)?;
    Ok(PyBytes::new(py, &bytes))
}

// Python's allocator aligns objects to 16 bytes: a vector type inside one would be read at odd places.
const _: () = assert!(align_of::<(PyPacker, PyIndexWriter, PyDistinct, PyFinder)>() <= 16);

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyPacker>()?;
    module.add_class::<PyIndexWriter>()?;
    module.add_class::<PyDistinct>()?;
    module.add_class::<PyFinder>()?;
    module.add_function(wrap_pyfunction!(plan, module)?)?;
    module.add_function(wrap_pyfunction!(order_rows, module)?)?;
    module.add_function(wrap_pyfunction!(order_positions, module)?)?;
    module.add_function(wrap_pyfunction!(py_read_shard, module)?)?;
    Ok(())
}
