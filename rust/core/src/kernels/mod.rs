//! CPU kernels that torch lacks: Mamba's selective scan, its causal convolution with SiLU, attention of small heads, and a
//! small model's output layer with its cross-entropy.
//!
//! float32, channels last. Legend: B batch, T time, D channels, N states, K taps. Arrays with B and T may be strided
//! (`View`), so that the two halves of a projection need no copy. A row may hold several documents (`Documents`).
//!
//! The work is cut into parts of one batch element and `GROUP` channels, whatever the number of threads; sums over
//! parts are taken afterwards, in order. So bits depend neither on the number of threads nor, through `Lanes`, on the
//! instructions that the machine has.

// Loops over lanes, halves and registers go by number: the same lane of several arrays.
#![allow(clippy::needless_range_loop)]

mod attention;
mod attention_grad;
mod conv;
mod cross_entropy;
mod documents;
mod lanes;
mod scan;
mod scan_grad;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tile_avx512;

pub use attention::{Attention, AttentionGrads};
pub use conv::{Conv, ConvGrads};
pub use cross_entropy::{CrossEntropy, CrossEntropyGrads};
pub use documents::Documents;
pub use lanes::{LANES, Lanes};
pub use scan::{CHUNK, Scan, ScanGrads, num_states};

use crate::error::{Error, Result};
use std::sync::{Mutex, PoisonError};

/// Channels per part: four vectors share one sum over channels in the gradients of B and C.
pub const GROUP: usize = 64;

/// The instructions a kernel is compiled for. All give the same bits; a test holds them to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Path {
    /// What this machine can run, the fastest last.
    pub fn available() -> Vec<Self> {
        let mut paths = vec![Self::Baseline];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            paths.push(Self::Avx2);
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                paths.push(Self::Avx512);
            }
        }
        paths
    }

    pub fn fastest() -> Self {
        Self::available().pop().unwrap_or(Self::Baseline)
    }
}

/// Defines `$name(path, ...)`, which runs the `#[inline(always)]` function `$body` compiled for that path.
macro_rules! compiled_for_every_path {
    (fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? = $body:ident) => {
        // Calling a function with target features is unsafe: on another machine its instructions do not exist.
        #[allow(unsafe_code)]
        pub(super) fn $name(path: $crate::kernels::Path, $($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
                fn avx512($($arg: $type),*) $(-> $out)? {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    $body($($arg),*)
                }
                assert!($crate::kernels::Path::available().contains(&path), "this machine cannot run {path:?}");
                match path {
                    // SAFETY: the line above found these instructions on this machine.
                    $crate::kernels::Path::Avx512 => return unsafe { avx512($($arg),*) },
                    $crate::kernels::Path::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::kernels::Path::Baseline => {}
                }
            }
            $body($($arg),*)
        }
    };
    // `$body::<true>` where there is AVX-512, for which tile.rs has products of its own; else `$body::<false>`.
    (fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? = $body:ident<AVX512>) => {
        #[allow(unsafe_code)]
        pub(super) fn $name(path: $crate::kernels::Path, $($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
                fn avx512($($arg: $type),*) $(-> $out)? {
                    $body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    $body::<false>($($arg),*)
                }
                assert!($crate::kernels::Path::available().contains(&path), "this machine cannot run {path:?}");
                match path {
                    // SAFETY: the line above found these instructions on this machine.
                    $crate::kernels::Path::Avx512 => return unsafe { avx512($($arg),*) },
                    $crate::kernels::Path::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::kernels::Path::Baseline => {}
                }
            }
            $body::<false>($($arg),*)
        }
    };
}
use compiled_for_every_path;

/// A read-only [B, T, W] array whose rows of W values are contiguous; batches and steps lie strides of values apart.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: &'a [f32],
    shape: [usize; 3],
    strides: [usize; 2],
}

impl<'a> View<'a> {
    pub fn new(data: &'a [f32], shape: [usize; 3], strides: [usize; 2]) -> Result<Self> {
        let needed = extent(shape, strides)
            .ok_or_else(|| Error::Shape(format!("shape {shape:?} with strides {strides:?} is too large")))?;
        if needed > data.len() {
            let len = data.len();
            return Err(Error::Shape(format!(
                "shape {shape:?}, strides {strides:?}: needs {needed} values, has {len}"
            )));
        }
        Ok(Self { data, shape, strides })
    }

    pub fn contiguous(data: &'a [f32], shape: [usize; 3]) -> Result<Self> {
        Self::new(data, shape, [shape[1].saturating_mul(shape[2]), shape[2]])
    }

    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    #[inline(always)]
    fn row(&self, b: usize, t: usize) -> &'a [f32] {
        &self.data[b * self.strides[0] + t * self.strides[1]..][..self.shape[2]]
    }
}

/// How many values a strided [B, T, W] array spans; None if that is beyond usize.
pub fn extent(shape: [usize; 3], strides: [usize; 2]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let batches = (shape[0] - 1).checked_mul(strides[0])?;
    let steps = (shape[1] - 1).checked_mul(strides[1])?;
    batches.checked_add(steps)?.checked_add(shape[2])
}

fn expect_shape(name: &str, found: [usize; 3], expected: [usize; 3]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape(format!("{name}: expected shape {expected:?}, found {found:?}")))
}

fn expect_len(name: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape(format!("{name}: expected {expected} values, found {found}")))
}

/// One part's share of an output: a piece of at most `GROUP` channels for each of its rows.
type Pieces<'a> = Vec<&'a mut [f32]>;

/// Cuts [B, R, D] into a share for every part, batch element by batch element, group by group.
fn cut(data: &mut [f32], [batch, rows, channels]: [usize; 3]) -> Vec<Pieces<'_>> {
    let groups = channels.div_ceil(GROUP);
    let mut parts: Vec<_> = (0..batch * groups).map(|_| Vec::with_capacity(rows)).collect();
    for (i, row) in data.chunks_mut(channels.max(1)).enumerate() {
        for (group, piece) in row.chunks_mut(GROUP).enumerate() {
            parts[i / rows * groups + group].push(piece);
        }
    }
    parts
}

/// Runs every task on up to `threads` threads, this one among them; results come in the order of the tasks.
fn run<T: Send, R: Send>(tasks: Vec<T>, threads: usize, work: impl Fn(usize, T) -> R + Sync) -> Vec<R> {
    let threads = threads.min(tasks.len());
    if threads <= 1 {
        return tasks.into_iter().enumerate().map(|(i, task)| work(i, task)).collect();
    }
    let queue = Mutex::new(tasks.into_iter().enumerate());
    let results = Mutex::new(Vec::new());
    let worker = || {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((i, task)) = next else { break };
            let result = work(i, task);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(worker);
        }
        worker();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}
