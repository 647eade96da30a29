//! Attention over numpy arrays of float32 [B, T, heads E].

use super::{Argument, Array, invalid, outputs};
use crate::data::to_py;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use suite_core::kernels::{Attention, AttentionGrads, Path};

fn inputs(arrays: [Argument<'_, '_>; 3]) -> PyResult<Vec<Array>> {
    ["q", "k", "v"].into_iter().zip(arrays).map(|(name, array)| Array::get(name, array, 3)).collect()
}

/// int64 [B, T]
fn starts(argument: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<i64>>> {
    let Some(argument) = argument else { return Ok(None) };
    let buffer = PyBuffer::<i64>::get(argument).map_err(|error| invalid("starts", &error.to_string()))?;
    Ok(Some(buffer.to_vec(argument.py())?))
}

fn attention<'a>(inputs: &'a [Array], heads: [usize; 2], starts: Option<&'a [i64]>) -> PyResult<Attention<'a>> {
    Attention::new(inputs[0].view()?, inputs[1].view()?, inputs[2].view()?, heads, starts).map_err(to_py)
}

/// causal_attention((q, k, v), (heads, kv_heads), starts, out, kept, threads)
#[pyfunction]
pub fn causal_attention<'py>(
    py: Python<'py>,
    arrays: [Bound<'py, PyAny>; 3],
    heads: [usize; 2],
    starts: Option<Bound<'py, PyAny>>,
    out: Argument<'_, 'py>,
    kept: Argument<'_, 'py>,
    threads: usize,
) -> PyResult<()> {
    let inputs = inputs(arrays.each_ref())?;
    let starts = self::starts(starts.as_ref())?;
    let mut arrays = [Array::get("out", out, 3)?, Array::get("kept", kept, 1)?];
    let attention = attention(&inputs, heads, starts.as_deref())?;
    let [out, kept] = outputs(&inputs, &mut arrays)?;
    py.detach(|| attention.forward(out, kept, threads, Path::fastest())).map_err(to_py)
}

/// causal_attention_backward((q, k, v), (heads, kv_heads), starts, (out_grad, out, kept), grads, threads): gradients of
/// q, k and v to write to
#[pyfunction]
pub fn causal_attention_backward<'py>(
    py: Python<'py>,
    arrays: [Bound<'py, PyAny>; 3],
    heads: [usize; 2],
    starts: Option<Bound<'py, PyAny>>,
    forward: [Bound<'py, PyAny>; 3],
    grads: [Bound<'py, PyAny>; 3],
    threads: usize,
) -> PyResult<()> {
    let mut inputs = inputs(arrays.each_ref())?;
    let starts = self::starts(starts.as_ref())?;
    inputs.push(Array::get("gradient of out", &forward[0], 3)?);
    inputs.push(Array::get("out", &forward[1], 3)?);
    inputs.push(Array::get("kept", &forward[2], 1)?);
    let mut arrays = [
        Array::get("gradient of q", &grads[0], 3)?,
        Array::get("gradient of k", &grads[1], 3)?,
        Array::get("gradient of v", &grads[2], 3)?,
    ];
    let attention = attention(&inputs, heads, starts.as_deref())?;
    let [q, k, v] = outputs(&inputs, &mut arrays)?;
    let (out_grad, out, kept) = (inputs[3].view()?, inputs[4].view()?, inputs[5].contiguous()?);
    let grads = AttentionGrads { q, k, v };
    py.detach(|| attention.backward(out_grad, out, kept, grads, threads, Path::fastest())).map_err(to_py)
}
