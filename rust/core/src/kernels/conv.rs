//! Depthwise causal convolution over time with SiLU, as in Mamba's block, and its gradients.
//!
//! ```text
//! p[t] = bias + sum_k weight[k] x[t - K + 1 + k]    out = silu(p)
//! ```
//!
//! The backward computes p again: K multiplications are cheaper than memory.

use super::lanes::{Lanes, ZERO};
use super::scan::{CHUNK, Part, add};
use super::{Path, Pieces, View, compiled_for_every_path, cut, expect_len, expect_shape, run};
use crate::error::{Error, Result};

/// Taps are kept in registers.
const MAX_TAPS: usize = 8;

/// The inputs, their shapes checked: x [B, T, D], weight [D, K], bias [D].
#[derive(Clone, Copy)]
pub struct Conv<'a> {
    x: View<'a>,
    weight_dk: &'a [f32],
    bias: &'a [f32],
    taps: usize,
}

/// Where the gradients go, contiguous, in the shapes of the inputs.
pub struct ConvGrads<'a> {
    pub x: &'a mut [f32],
    pub weight: &'a mut [f32],
    pub bias: &'a mut [f32],
}

impl<'a> Conv<'a> {
    pub fn new(x: View<'a>, weight_dk: &'a [f32], bias: &'a [f32], taps: usize) -> Result<Self> {
        let channels = x.shape()[2];
        if channels == 0 || !(1..=MAX_TAPS).contains(&taps) {
            return Err(Error::Shape(format!(
                "a convolution of {channels} channels and {taps} taps: needs at least 1 channel and 1 to {MAX_TAPS} taps"
            )));
        }
        expect_len("weight", weight_dk.len(), channels * taps)?;
        expect_len("bias", bias.len(), channels)?;
        Ok(Self { x, weight_dk, bias, taps })
    }

    /// Writes out [B, T, D].
    pub fn forward(&self, out: &mut [f32], threads: usize, path: Path) -> Result<()> {
        expect_len("out", out.len(), self.x.shape().iter().product())?;
        let tasks = cut(out, self.x.shape());
        run(tasks, threads, |part, out| forward_part(path, self, Part::new(self.x.shape(), part), out));
        Ok(())
    }

    /// Overwrites `grads` given the gradient of out.
    pub fn backward(&self, out_grad: View<'_>, grads: ConvGrads<'_>, threads: usize, path: Path) -> Result<()> {
        expect_shape("gradient of out", out_grad.shape(), self.x.shape())?;
        expect_len("gradient of x", grads.x.len(), self.x.shape().iter().product())?;
        expect_len("gradient of weight", grads.weight.len(), self.weight_dk.len())?;
        expect_len("gradient of bias", grads.bias.len(), self.bias.len())?;
        let tasks = cut(grads.x, self.x.shape());
        let sums = run(tasks, threads, |part, x_grad| {
            backward_part(path, self, Part::new(self.x.shape(), part), &out_grad, x_grad)
        });
        grads.weight.fill(0.0);
        grads.bias.fill(0.0);
        for (part, (weight, bias)) in sums.iter().enumerate() {
            let channel = Part::new(self.x.shape(), part).channel;
            add(&mut grads.weight[channel * self.taps..], weight);
            add(&mut grads.bias[channel..], bias);
        }
        Ok(())
    }

    /// One vector of 16 channels per tap.
    #[inline(always)]
    fn weights(&self, channels: std::ops::Range<usize>) -> [Lanes; MAX_TAPS] {
        let mut weights = [ZERO; MAX_TAPS];
        let rows = &self.weight_dk[channels.start * self.taps..channels.end * self.taps];
        for (lane, row) in rows.chunks_exact(self.taps).enumerate() {
            for (weights, value) in weights.iter_mut().zip(row) {
                weights.0[lane] = *value;
            }
        }
        weights
    }
}

compiled_for_every_path! {
    fn forward_part(conv: &Conv, part: Part, out: Pieces) = forward_body
}

#[inline(always)]
fn forward_body(conv: &Conv, part: Part, mut out: Pieces) {
    for at in part.blocks() {
        let channels = part.channels(&at);
        let weights = conv.weights(channels.clone());
        let bias = Lanes::load(&conv.bias[channels.clone()]);
        // The last steps' inputs, the newest last.
        let mut window = [ZERO; MAX_TAPS];
        for (t, out) in out.iter_mut().enumerate() {
            push(&mut window, Lanes::load(&conv.x.row(part.batch, t)[channels.clone()]));
            let p = convolve(bias, &weights[..conv.taps], &window[MAX_TAPS - conv.taps..]);
            (p * p.sigmoid()).store(&mut out[at.clone()]);
        }
    }
}

#[inline(always)]
fn push(window: &mut [Lanes; MAX_TAPS], newest: Lanes) {
    window.copy_within(1.., 0);
    window[MAX_TAPS - 1] = newest;
}

#[inline(always)]
fn convolve(bias: Lanes, weights: &[Lanes], inputs: &[Lanes]) -> Lanes {
    let mut p = bias;
    for (weight, x) in weights.iter().zip(inputs) {
        p = weight.mul_add(*x, p);
    }
    p
}

compiled_for_every_path! {
    fn backward_part(conv: &Conv, part: Part, out_grad: &View, x_grad: Pieces) -> (Vec<f32>, Vec<f32>) = backward_body
}

/// Returns what this part adds to the gradients of weight [width, K] and bias [width].
#[inline(always)]
fn backward_body(conv: &Conv, part: Part, out_grad: &View, mut x_grad: Pieces) -> (Vec<f32>, Vec<f32>) {
    let (taps, time) = (conv.taps, conv.x.shape()[1]);
    let (mut weight_grad, mut bias_grad) = (vec![0.0; part.width * taps], vec![0.0; part.width]);
    for at in part.blocks() {
        let channels = part.channels(&at);
        let weights = conv.weights(channels.clone());
        let bias = Lanes::load(&conv.bias[channels.clone()]);
        let load = |view: &View, t: usize| Lanes::load(&view.row(part.batch, t)[channels.clone()]);
        let (mut weight_total, mut bias_total) = ([ZERO; MAX_TAPS], ZERO);
        // The gradients of p at this step and those after it, the earliest last: time runs backwards.
        let mut window = [ZERO; MAX_TAPS];
        for start in (0..time).step_by(CHUNK).rev() {
            // A chunk's sum first: a running sum over all steps would lose bits as it grows.
            let (mut weight_sum, mut bias_sum) = ([ZERO; MAX_TAPS], ZERO);
            for t in (start..time.min(start + CHUNK)).rev() {
                let mut inputs = [ZERO; MAX_TAPS];
                for (k, input) in inputs[..taps].iter_mut().enumerate().skip((taps - 1).saturating_sub(t)) {
                    *input = load(&conv.x, t + k + 1 - taps);
                }
                let p = convolve(bias, &weights[..taps], &inputs[..taps]);
                let s = p.sigmoid();
                // (p s(p))' = s + p s (1 - s)
                let slope = (p * s).mul_add(Lanes::splat(1.0) - s, s);
                let p_grad = load(out_grad, t) * slope;
                bias_sum = bias_sum + p_grad;
                for k in 0..taps {
                    weight_sum[k] = p_grad.mul_add(inputs[k], weight_sum[k]);
                }
                push(&mut window, p_grad);
                // x[t] reached p[t] by the last tap, p[t + 1] by the one before it, and so on.
                convolve(ZERO, &weights[..taps], &window[MAX_TAPS - taps..]).store(&mut x_grad[t][at.clone()]);
            }
            for (total, sum) in weight_total.iter_mut().zip(weight_sum) {
                *total = *total + sum;
            }
            bias_total = bias_total + bias_sum;
        }
        bias_total.store(&mut bias_grad[at.clone()]);
        for (lane, channel) in at.enumerate() {
            for k in 0..taps {
                weight_grad[channel * taps + k] = weight_total[k].0[lane];
            }
        }
    }
    (weight_grad, bias_grad)
}
