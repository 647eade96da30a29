//! CPU kernels that torch lacks.
