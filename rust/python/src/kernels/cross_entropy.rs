//! The output layer with its cross-entropy, over numpy arrays: float32, but for int64 targets.

use super::{Argument, Array, invalid, outputs};
use crate::data::to_py;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use suite_core::kernels::{CrossEntropy, CrossEntropyGrads, Path};

/// linear_cross_entropy(hidden, weight, targets, ignore, grads, threads) -> nats: gradients of hidden and weight to
/// write to, or None
#[pyfunction]
pub fn linear_cross_entropy<'py>(
    py: Python<'py>,
    hidden: Argument<'_, 'py>,
    weight: Argument<'_, 'py>,
    targets: Argument<'_, 'py>,
    ignore: i64,
    grads: Option<[Bound<'py, PyAny>; 2]>,
    threads: usize,
) -> PyResult<f64> {
    let inputs = [Array::get("hidden", hidden, 2)?, Array::get("weight", weight, 2)?];
    let targets = PyBuffer::<i64>::get(targets).map_err(|error| invalid("targets", &error.to_string()))?.to_vec(py)?;
    let size = inputs[1].shape[1];
    if inputs[0].shape != [targets.len(), size] {
        let expected = [targets.len(), size];
        return Err(invalid("hidden", &format!("expected shape {expected:?}, found {:?}", inputs[0].shape)));
    }
    let job = CrossEntropy::new(inputs[0].contiguous()?, inputs[1].contiguous()?, &targets, size, ignore);
    let job = job.map_err(to_py)?;
    let Some(grads) = grads else {
        return py.detach(|| job.nats(None, threads, Path::fastest())).map_err(to_py);
    };
    let mut arrays = [Array::get("gradient of hidden", &grads[0], 2)?, Array::get("gradient of weight", &grads[1], 2)?];
    let [hidden, weight] = outputs(&inputs, &mut arrays)?;
    let grads = CrossEntropyGrads { hidden, weight };
    py.detach(|| job.nats(Some(grads), threads, Path::fastest())).map_err(to_py)
}
