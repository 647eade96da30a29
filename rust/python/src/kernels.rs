//! CPU kernels over buffers of float32: numpy arrays, or torch tensors through `.numpy()`. Results are written into
//! arrays of the caller's. The GIL is released while a kernel runs.

mod attention;
mod cross_entropy;

use crate::data::to_py;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::ops::Range;
use suite_core::kernels::{CHUNK, Conv, ConvGrads, Documents, Path, Scan, ScanGrads, View, extent};

/// A named argument, held until the kernel is done.
struct Array {
    name: &'static str,
    buffer: PyBuffer<f32>,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Array {
    fn get(name: &'static str, object: &Bound<'_, PyAny>, dims: usize) -> PyResult<Self> {
        let buffer = PyBuffer::<f32>::get(object).map_err(|error| invalid(name, &error.to_string()))?;
        let shape = buffer.shape().to_vec();
        if shape.len() != dims {
            return Err(invalid(name, &format!("expected {dims} dimensions, found {}", shape.len())));
        }
        let strides: Option<Vec<usize>> =
            buffer.strides().iter().map(|bytes| usize::try_from(*bytes).ok().map(|bytes| bytes / 4)).collect();
        let strides = strides.ok_or_else(|| invalid(name, "a stride is negative"))?;
        if shape[dims - 1] > 1 && strides[dims - 1] != 1 {
            return Err(invalid(name, "its last dimension must be contiguous"));
        }
        Ok(Self { name, buffer, shape, strides })
    }

    /// The shape and strides of [B, T, W]; fewer dimensions are taken as the last ones.
    fn layout(&self) -> ([usize; 3], [usize; 2]) {
        match (&self.shape[..], &self.strides[..]) {
            ([b, t, w], [b_stride, t_stride, _]) => ([*b, *t, *w], [*b_stride, *t_stride]),
            ([t, w], [t_stride, _]) => ([1, *t, *w], [0, *t_stride]),
            _ => ([1, 1, self.shape.iter().product()], [0, 0]),
        }
    }

    /// The addresses that the array spans.
    fn span(&self) -> PyResult<Range<usize>> {
        let (shape, strides) = self.layout();
        let bytes = extent(shape, strides).and_then(|len| len.checked_mul(4));
        let start = self.buffer.buf_ptr() as usize;
        let end = bytes.and_then(|bytes| start.checked_add(bytes)).ok_or_else(|| invalid(self.name, "too large"))?;
        if !start.is_multiple_of(4) {
            return Err(invalid(self.name, "not aligned to 4 bytes"));
        }
        Ok(start..end)
    }

    /// Everything between the first value and the last, gaps included.
    #[allow(unsafe_code)]
    fn data(&self) -> PyResult<&[f32]> {
        let span = self.span()?;
        if span.is_empty() {
            return Ok(&[]);
        }
        // SAFETY: the buffer, held by self, covers its shape and strides; `outputs` sees to it that no kernel writes
        // there. As in numpy and torch, other threads of the caller must not write to an argument meanwhile.
        Ok(unsafe { std::slice::from_raw_parts(span.start as *const f32, span.len() / 4) })
    }

    fn view(&self) -> PyResult<View<'_>> {
        let (shape, strides) = self.layout();
        View::new(self.data()?, shape, strides).map_err(to_py)
    }

    fn contiguous(&self) -> PyResult<&[f32]> {
        self.expect_contiguous()?;
        self.data()
    }

    fn expect_contiguous(&self) -> PyResult<()> {
        if self.buffer.is_c_contiguous() { Ok(()) } else { Err(invalid(self.name, "must be contiguous")) }
    }
}

/// Where documents begin, from an array of int64 [B, T]; None: every row is one.
fn documents(starts: Option<Argument<'_, '_>>) -> PyResult<Option<Documents>> {
    let Some(starts) = starts else { return Ok(None) };
    let buffer = PyBuffer::<i64>::get(starts).map_err(|error| invalid("starts", &error.to_string()))?;
    let &[batch, time] = buffer.shape() else {
        return Err(invalid("starts", &format!("expected 2 dimensions, found {}", buffer.shape().len())));
    };
    Documents::new(&buffer.to_vec(starts.py())?, [batch, time]).map(Some).map_err(to_py)
}

fn invalid(name: &str, why: &str) -> PyErr {
    PyValueError::new_err(format!("{name}: {why}"))
}

/// The arrays to write to, each contiguous, writable and apart from every other array.
#[allow(unsafe_code)]
fn outputs<'a, const COUNT: usize>(
    inputs: &[Array],
    arrays: &'a mut [Array; COUNT],
) -> PyResult<[&'a mut [f32]; COUNT]> {
    for (i, array) in arrays.iter().enumerate() {
        array.expect_contiguous()?;
        if array.buffer.readonly() {
            return Err(invalid(array.name, "must be writable"));
        }
        let span = array.span()?;
        for other in inputs.iter().chain(&arrays[..i]) {
            let taken = other.span()?;
            if !span.is_empty() && !taken.is_empty() && span.start < taken.end && taken.start < span.end {
                return Err(invalid(array.name, &format!("shares memory with {}", other.name)));
            }
        }
    }
    let mut slices = arrays.each_ref().map(|_| &mut [][..]);
    for (slice, array) in slices.iter_mut().zip(&*arrays) {
        let span = array.span()?;
        if !span.is_empty() {
            // SAFETY: contiguous, writable, and disjoint from every other argument, as just checked.
            *slice = unsafe { std::slice::from_raw_parts_mut(span.start as *mut f32, span.len() / 4) };
        }
    }
    Ok(slices)
}

type Argument<'a, 'py> = &'a Bound<'py, PyAny>;

fn scan_inputs(arguments: [Argument<'_, '_>; 8]) -> PyResult<Vec<Array>> {
    let dims = [("u", 3), ("delta", 3), ("A", 2), ("B", 3), ("C", 3), ("D", 1), ("z", 3), ("delta_bias", 1)];
    dims.into_iter().zip(arguments).map(|((name, dims), argument)| Array::get(name, argument, dims)).collect()
}

fn scan<'a>(inputs: &'a [Array], documents: Option<&'a Documents>) -> PyResult<Scan<'a>> {
    let (channels, states) = (inputs[0].shape[2], inputs[3].shape[2]);
    if inputs[2].shape != [channels, states] {
        return Err(invalid("A", &format!("expected shape {:?}, found {:?}", [channels, states], inputs[2].shape)));
    }
    let scan = Scan::new(
        inputs[0].view()?,
        inputs[1].view()?,
        inputs[2].contiguous()?,
        inputs[3].view()?,
        inputs[4].view()?,
        inputs[5].contiguous()?,
        inputs[6].view()?,
        inputs[7].contiguous()?,
    );
    scan.and_then(|scan| documents.map_or(Ok(scan), |documents| scan.within(documents))).map_err(to_py)
}

/// selective_scan(inputs, out, states, threads, starts): inputs are (u, delta, A, B, C, D, z, delta_bias)
#[pyfunction]
#[pyo3(signature = (inputs, out, states, threads, starts=None))]
#[allow(clippy::too_many_arguments)]
fn selective_scan<'py>(
    py: Python<'py>,
    inputs: [Bound<'py, PyAny>; 8],
    out: Argument<'_, 'py>,
    states: Argument<'_, 'py>,
    threads: usize,
    starts: Option<Argument<'_, 'py>>,
) -> PyResult<()> {
    let inputs = scan_inputs(inputs.each_ref())?;
    let mut arrays = [Array::get("out", out, 3)?, Array::get("states", states, 4)?];
    let documents = documents(starts)?;
    let scan = scan(&inputs, documents.as_ref())?;
    let [out, states] = outputs(&inputs, &mut arrays)?;
    py.detach(|| scan.forward(out, states, threads, Path::fastest())).map_err(to_py)
}

/// selective_scan_advance(inputs, state, out, threads): from `state` [B, N, D], which is overwritten by the last
#[pyfunction]
fn selective_scan_advance<'py>(
    py: Python<'py>,
    inputs: [Bound<'py, PyAny>; 8],
    state: Argument<'_, 'py>,
    out: Argument<'_, 'py>,
    threads: usize,
) -> PyResult<()> {
    let inputs = scan_inputs(inputs.each_ref())?;
    let mut arrays = [Array::get("state", state, 3)?, Array::get("out", out, 3)?];
    let scan = scan(&inputs, None)?;
    let [state, out] = outputs(&inputs, &mut arrays)?;
    py.detach(|| scan.advance(state, out, threads, Path::fastest())).map_err(to_py)
}

/// selective_scan_backward(inputs, states, out_grad, grads, threads, starts): a gradient to write to for every input
#[pyfunction]
#[pyo3(signature = (inputs, states, out_grad, grads, threads, starts=None))]
#[allow(clippy::too_many_arguments)]
fn selective_scan_backward<'py>(
    py: Python<'py>,
    inputs: [Bound<'py, PyAny>; 8],
    states: Argument<'_, 'py>,
    out_grad: Argument<'_, 'py>,
    grads: [Bound<'py, PyAny>; 8],
    threads: usize,
    starts: Option<Argument<'_, 'py>>,
) -> PyResult<()> {
    let mut inputs = scan_inputs(inputs.each_ref())?;
    inputs.push(Array::get("states", states, 4)?);
    inputs.push(Array::get("gradient of out", out_grad, 3)?);
    let mut arrays = [
        Array::get("gradient of u", &grads[0], 3)?,
        Array::get("gradient of delta", &grads[1], 3)?,
        Array::get("gradient of A", &grads[2], 2)?,
        Array::get("gradient of B", &grads[3], 3)?,
        Array::get("gradient of C", &grads[4], 3)?,
        Array::get("gradient of D", &grads[5], 1)?,
        Array::get("gradient of z", &grads[6], 3)?,
        Array::get("gradient of delta_bias", &grads[7], 1)?,
    ];
    let documents = documents(starts)?;
    let scan = scan(&inputs, documents.as_ref())?;
    let [u, delta, a, b, c, d, z, delta_bias] = outputs(&inputs, &mut arrays)?;
    let grads = ScanGrads { u, delta, a, b, c, d, z, delta_bias };
    let (states, out_grad) = (inputs[8].contiguous()?, inputs[9].view()?);
    py.detach(|| scan.backward(out_grad, states, grads, threads, Path::fastest())).map_err(to_py)
}

fn conv_inputs(x: Argument<'_, '_>, weight: Argument<'_, '_>, bias: Argument<'_, '_>) -> PyResult<Vec<Array>> {
    Ok(vec![Array::get("x", x, 3)?, Array::get("weight", weight, 2)?, Array::get("bias", bias, 1)?])
}

fn conv<'a>(inputs: &'a [Array], documents: Option<&'a Documents>) -> PyResult<Conv<'a>> {
    let taps = inputs[1].shape[1];
    let conv = Conv::new(inputs[0].view()?, inputs[1].contiguous()?, inputs[2].contiguous()?, taps);
    conv.and_then(|conv| documents.map_or(Ok(conv), |documents| conv.within(documents))).map_err(to_py)
}

/// conv_silu(x, weight, bias, out, threads, starts)
#[pyfunction]
#[pyo3(signature = (x, weight, bias, out, threads, starts=None))]
#[allow(clippy::too_many_arguments)]
fn conv_silu<'py>(
    py: Python<'py>,
    x: Argument<'_, 'py>,
    weight: Argument<'_, 'py>,
    bias: Argument<'_, 'py>,
    out: Argument<'_, 'py>,
    threads: usize,
    starts: Option<Argument<'_, 'py>>,
) -> PyResult<()> {
    let inputs = conv_inputs(x, weight, bias)?;
    let mut arrays = [Array::get("out", out, 3)?];
    let documents = documents(starts)?;
    let conv = conv(&inputs, documents.as_ref())?;
    let [out] = outputs(&inputs, &mut arrays)?;
    py.detach(|| conv.forward(out, threads, Path::fastest())).map_err(to_py)
}

/// conv_silu_backward(x, weight, bias, out_grad, grads, threads, starts): gradients of x, weight and bias to write to
#[pyfunction]
#[pyo3(signature = (x, weight, bias, out_grad, grads, threads, starts=None))]
#[allow(clippy::too_many_arguments)]
fn conv_silu_backward<'py>(
    py: Python<'py>,
    x: Argument<'_, 'py>,
    weight: Argument<'_, 'py>,
    bias: Argument<'_, 'py>,
    out_grad: Argument<'_, 'py>,
    grads: [Bound<'py, PyAny>; 3],
    threads: usize,
    starts: Option<Argument<'_, 'py>>,
) -> PyResult<()> {
    let mut inputs = conv_inputs(x, weight, bias)?;
    inputs.push(Array::get("gradient of out", out_grad, 3)?);
    let [x, weight, bias] = grads.each_ref();
    let mut arrays = [
        Array::get("gradient of x", x, 3)?,
        Array::get("gradient of weight", weight, 2)?,
        Array::get("gradient of bias", bias, 1)?,
    ];
    let documents = documents(starts)?;
    let conv = conv(&inputs, documents.as_ref())?;
    let [x, weight, bias] = outputs(&inputs, &mut arrays)?;
    let out_grad = inputs[3].view()?;
    py.detach(|| conv.backward(out_grad, ConvGrads { x, weight, bias }, threads, Path::fastest())).map_err(to_py)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("SCAN_CHUNK", CHUNK)?;
    module.add_function(wrap_pyfunction!(attention::causal_attention, module)?)?;
    module.add_function(wrap_pyfunction!(attention::causal_attention_backward, module)?)?;
    module.add_function(wrap_pyfunction!(cross_entropy::linear_cross_entropy, module)?)?;
    module.add_function(wrap_pyfunction!(selective_scan, module)?)?;
    module.add_function(wrap_pyfunction!(selective_scan_advance, module)?)?;
    module.add_function(wrap_pyfunction!(selective_scan_backward, module)?)?;
    module.add_function(wrap_pyfunction!(conv_silu, module)?)?;
    module.add_function(wrap_pyfunction!(conv_silu_backward, module)?)?;
    Ok(())
}
