//! Columns joined to documents.

use crate::bpe::{Texts, int64};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use suite_core::join;

type Buffers<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// join_texts(between, [(data, starts, stops)]) -> (bytes of the texts, bytes of int64 edges)
#[pyfunction]
fn join_texts<'py>(
    py: Python<'py>,
    between: Vec<Vec<u8>>,
    columns: Vec<Buffers<'py>>,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let columns: Vec<Texts> =
        columns.iter().map(|(data, starts, stops)| Texts::of(py, data, starts, stops)).collect::<PyResult<_>>()?;
    let joined = py.detach(|| {
        let columns: Vec<Vec<&[u8]>> = columns.iter().map(|texts| texts.documents().collect()).collect();
        join::joined(&between, &columns)
    });
    let (text, edges) = joined.ok_or_else(|| PyValueError::new_err("columns of different lengths"))?;
    Ok((PyBytes::new(py, &text), int64(py, &edges)))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(join_texts, module)?)?;
    Ok(())
}
