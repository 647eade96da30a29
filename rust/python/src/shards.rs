//! Shards, read into memory that the caller maps. The GIL is released meanwhile, so that threads read several at once.

use crate::data::to_py;
use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::path::{Path, PathBuf};
use suite_core::shard::{Id, read_shard_into};

/// read_shard_into(path, seq_len, vocab_size, sha256, out): all rows of a shard, checked and decoded, into `out`
#[pyfunction]
#[pyo3(name = "read_shard_into")]
fn py_read_shard_into(
    py: Python<'_>,
    path: PathBuf,
    seq_len: usize,
    vocab_size: u64,
    sha256: Option<&str>,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    if vocab_size > 1 << 16 {
        read::<u32>(py, &path, seq_len, vocab_size, sha256, out)
    } else {
        read::<u16>(py, &path, seq_len, vocab_size, sha256, out)
    }
}

#[allow(unsafe_code)]
fn read<T: Id + Element>(
    py: Python<'_>,
    path: &Path,
    seq_len: usize,
    vocab_size: u64,
    sha256: Option<&str>,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let buffer = PyBuffer::<T>::get(out)?;
    let aligned = (buffer.buf_ptr() as usize).is_multiple_of(size_of::<T>());
    if buffer.readonly() || !buffer.is_c_contiguous() || !aligned {
        return Err(PyValueError::new_err("out: must be writable, contiguous and aligned"));
    }
    let count = buffer.item_count();
    if seq_len == 0 || !count.is_multiple_of(seq_len) {
        return Err(PyValueError::new_err(format!("out: {count} ids are not whole rows of {seq_len}")));
    }
    let ids: &mut [T] = if count == 0 {
        &mut []
    } else {
        // SAFETY: writable, contiguous, aligned and of `count` items, as just checked, and held by `buffer` until the
        // end. As in numpy, other threads of the caller must not touch `out` meanwhile.
        unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast(), count) }
    };
    py.detach(|| read_shard_into(path, seq_len, vocab_size, sha256, ids)).map_err(to_py)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(py_read_shard_into, module)?)
}
