//! The story grammar.

use crate::bpe::int64;
use crate::data::to_py;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use suite_core::stories::{self, GRAMMAR_VERSION, Kind, Stories};

/// The texts of stories start .. start + count, one behind the other, and where each begins.
fn written(py: Python<'_>, seed: u64, split: &str, start: u64, count: usize) -> PyResult<(String, Vec<i64>)> {
    let stop = start.checked_add(count as u64).ok_or_else(|| {
        PyValueError::new_err(format!("stories {start} to {start} + {count}: the last possible is 2**64 - 1"))
    })?;
    let stories = Stories::new(seed, split);
    Ok(py.detach(|| {
        let (mut text, mut edges) = (String::new(), vec![0]);
        for index in start..stop {
            stories.write(index, &mut text);
            edges.push(text.len() as i64);
        }
        (text, edges)
    }))
}

/// stories(seed, split, start, count) -> the texts of stories start .. start + count
#[pyfunction]
#[pyo3(name = "stories")]
fn py_stories<'py>(py: Python<'py>, seed: u64, split: &str, start: u64, count: usize) -> PyResult<Bound<'py, PyList>> {
    let (text, edges) = written(py, seed, split, start, count)?;
    PyList::new(py, edges.windows(2).map(|cut| PyString::new(py, &text[cut[0] as usize..cut[1] as usize])))
}

/// story_texts(seed, split, start, count) -> (bytes of the texts, bytes of int64 edges)
#[pyfunction]
fn story_texts<'py>(
    py: Python<'py>,
    seed: u64,
    split: &str,
    start: u64,
    count: usize,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let (text, edges) = written(py, seed, split, start, count)?;
    Ok((PyBytes::new(py, text.as_bytes()), int64(py, &edges)))
}

/// story_spans(text) -> [(start, end, kind, nats)], which tile the text
#[pyfunction]
fn story_spans(py: Python<'_>, text: &str) -> PyResult<Vec<(usize, usize, &'static str, f64)>> {
    let spans = py.detach(|| stories::spans(text)).map_err(to_py)?;
    Ok(spans.into_iter().map(|span| (span.start, span.end, span.kind.name(), span.nats)).collect())
}

/// story_entropy() -> exact expectations per story: nats, mean_characters, max_characters, and both means by kind
#[pyfunction]
fn story_entropy(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let survey = py.detach(stories::survey);
    let by_kind = |values: &[f64]| -> PyResult<Bound<'_, PyDict>> {
        let dict = PyDict::new(py);
        for (kind, value) in Kind::ALL.iter().zip(values) {
            dict.set_item(kind.name(), value)?;
        }
        Ok(dict)
    };
    let dict = PyDict::new(py);
    dict.set_item("nats", survey.total_nats())?;
    dict.set_item("mean_characters", survey.mean_characters())?;
    dict.set_item("max_characters", survey.max_characters)?;
    dict.set_item("nats_by_kind", by_kind(&survey.nats)?)?;
    dict.set_item("characters_by_kind", by_kind(&survey.characters)?)?;
    Ok(dict)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("GRAMMAR_VERSION", GRAMMAR_VERSION)?;
    module.add_function(wrap_pyfunction!(py_stories, module)?)?;
    module.add_function(wrap_pyfunction!(story_texts, module)?)?;
    module.add_function(wrap_pyfunction!(story_spans, module)?)?;
    module.add_function(wrap_pyfunction!(story_entropy, module)?)?;
    Ok(())
}
