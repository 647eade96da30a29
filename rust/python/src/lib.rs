//! `suite._core`: converts arguments, releases the GIL, maps errors; computes nothing.

mod bpe;
mod data;
mod kernels;
mod shards;
mod stories;
mod texts;
mod train;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    bpe::register(module)?;
    data::register(module)?;
    kernels::register(module)?;
    shards::register(module)?;
    stories::register(module)?;
    texts::register(module)?;
    train::register(module)?;
    Ok(())
}
