//! Depthwise causal convolution over time with SiLU, as in Mamba's block, and its gradients.
//!
//! ```text
//! p[t] = bias + sum_k weight[k] x[t - K + 1 + k]    out = silu(p)
//! ```
//!
//! The backward computes p again: K multiplications are cheaper than memory.

use super::documents::{Documents, Piece, cut_steps};
use super::lanes::{Lanes, ZERO};
use super::scan::{CHUNK, Part, add};
use super::{Path, Pieces, View, compiled_for_every_path, cut, expect_len, expect_shape, run};
use crate::error::{Error, Result};
use std::ops::Range;

const MAX_TAPS: usize = 8;

/// The inputs, their shapes checked: x [B, T, D], weight [D, K], bias [D].
#[derive(Clone, Copy)]
pub struct Conv<'a> {
    x: View<'a>,
    weight_dk: &'a [f32],
    bias: &'a [f32],
    taps: usize,
    documents: Option<&'a Documents>,
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
        Ok(Self { x, weight_dk, bias, taps, documents: None })
    }

    /// The same, with zeros before the first step of each document.
    pub fn within(self, documents: &'a Documents) -> Result<Self> {
        let [batch, time, _] = self.x.shape();
        documents.expect_shape(batch, time)?;
        Ok(Self { documents: Some(documents), ..self })
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
    fn weights<const K: usize>(&self, channels: Range<usize>) -> [Lanes; K] {
        let mut weights = [ZERO; K];
        let rows = &self.weight_dk[channels.start * K..channels.end * K];
        for (lane, row) in rows.chunks_exact(K).enumerate() {
            for (weights, value) in weights.iter_mut().zip(row) {
                weights.0[lane] = *value;
            }
        }
        weights
    }

    /// Inputs from K - 1 steps before the piece to its end, zero before its document.
    #[inline(always)]
    fn load<const K: usize>(&self, x: &mut Window, part: Part, channels: &Range<usize>, piece: &Piece) {
        for (i, x) in x[..piece.steps.len() + K - 1].iter_mut().enumerate() {
            *x = match (piece.steps.start + i).checked_sub(K - 1) {
                Some(t) if t >= piece.document => Lanes::load(&self.x.row(part.batch, t)[channels.clone()]),
                _ => ZERO,
            };
        }
    }
}

/// The steps of a chunk, and K - 1 more that they touch.
type Window = [Lanes; CHUNK + MAX_TAPS - 1];

/// Calls `$body::<K>`: with the number of taps known the compiler keeps their weights in registers.
macro_rules! for_taps {
    ($taps:expr, $body:ident($($arg:expr),*)) => {
        match $taps {
            1 => $body::<1>($($arg),*),
            2 => $body::<2>($($arg),*),
            3 => $body::<3>($($arg),*),
            4 => $body::<4>($($arg),*),
            5 => $body::<5>($($arg),*),
            6 => $body::<6>($($arg),*),
            7 => $body::<7>($($arg),*),
            _ => $body::<8>($($arg),*),
        }
    };
}

compiled_for_every_path! {
    fn forward_part(conv: &Conv, part: Part, out: Pieces) = forward_body
}

#[inline(always)]
fn forward_body(conv: &Conv, part: Part, out: Pieces) {
    for_taps!(conv.taps, forward_taps(conv, part, out))
}

#[inline(always)]
fn forward_taps<const K: usize>(conv: &Conv, part: Part, mut out: Pieces) {
    let time = conv.x.shape()[1];
    let mut x = [ZERO; CHUNK + MAX_TAPS - 1];
    let mut pieces = Vec::new();
    for at in part.blocks() {
        let channels = part.channels(&at);
        let weights = conv.weights::<K>(channels.clone());
        let bias = Lanes::load(&conv.bias[channels.clone()]);
        for start in (0..time).step_by(CHUNK) {
            cut_steps(conv.documents, part.batch, start..time.min(start + CHUNK), &mut pieces);
            for piece in &pieces {
                conv.load::<K>(&mut x, part, &channels, piece);
                for (x, out) in x.windows(K).zip(&mut out[piece.steps.clone()]) {
                    let p = convolve(bias, &weights, x);
                    (p * p.sigmoid()).store(&mut out[at.clone()]);
                }
            }
        }
    }
}

#[inline(always)]
fn convolve<const K: usize>(bias: Lanes, weights: &[Lanes; K], x: &[Lanes]) -> Lanes {
    let mut p = bias;
    for k in 0..K {
        p = weights[k].mul_add(x[k], p);
    }
    p
}

compiled_for_every_path! {
    fn backward_part(conv: &Conv, part: Part, out_grad: &View, x_grad: Pieces) -> (Vec<f32>, Vec<f32>) = backward_body
}

#[inline(always)]
fn backward_body(conv: &Conv, part: Part, out_grad: &View, x_grad: Pieces) -> (Vec<f32>, Vec<f32>) {
    for_taps!(conv.taps, backward_taps(conv, part, out_grad, x_grad))
}

/// Returns what this part adds to the gradients of weight [width, K] and bias [width].
#[inline(always)]
fn backward_taps<const K: usize>(conv: &Conv, part: Part, out_grad: &View, mut x_grad: Pieces) -> (Vec<f32>, Vec<f32>) {
    let time = conv.x.shape()[1];
    let (mut weight_grad, mut bias_grad) = (vec![0.0; part.width * K], vec![0.0; part.width]);
    let mut x = [ZERO; CHUNK + MAX_TAPS - 1];
    let mut pieces = Vec::new();
    for at in part.blocks() {
        let channels = part.channels(&at);
        let weights = conv.weights::<K>(channels.clone());
        let mut reversed = weights;
        reversed.reverse();
        let bias = Lanes::load(&conv.bias[channels.clone()]);
        let (mut weight_total, mut bias_total) = ([ZERO; K], ZERO);
        // The gradients of p at the piece's steps and the K - 1 after them: time runs backwards.
        let mut p_grad = [ZERO; CHUNK + MAX_TAPS - 1];
        for start in (0..time).step_by(CHUNK).rev() {
            cut_steps(conv.documents, part.batch, start..time.min(start + CHUNK), &mut pieces);
            for piece in pieces.iter().rev() {
                conv.load::<K>(&mut x, part, &channels, piece);
                p_grad.copy_within(..K - 1, piece.steps.len());
                // A chunk's sum first: a running sum over all steps would lose bits as it grows.
                let (mut weight_sum, mut bias_sum) = ([ZERO; K], ZERO);
                for ((t, x), p_grad) in piece.steps.clone().zip(x.windows(K)).zip(&mut p_grad) {
                    let p = convolve(bias, &weights, x);
                    let s = p.sigmoid();
                    // (p s(p))' = s + p s (1 - s)
                    let slope = (p * s).mul_add(Lanes::splat(1.0) - s, s);
                    *p_grad = Lanes::load(&out_grad.row(part.batch, t)[channels.clone()]) * slope;
                    bias_sum = bias_sum + *p_grad;
                    for k in 0..K {
                        weight_sum[k] = p_grad.mul_add(x[k], weight_sum[k]);
                    }
                }
                // x[t] reached p[t] by the last tap, p[t + 1] by the one before it, and so on.
                for (p_grad, x_grad) in p_grad.windows(K).zip(&mut x_grad[piece.steps.clone()]) {
                    convolve(ZERO, &reversed, p_grad).store(&mut x_grad[at.clone()]);
                }
                for (total, sum) in weight_total.iter_mut().zip(weight_sum) {
                    *total = *total + sum;
                }
                bias_total = bias_total + bias_sum;
                if piece.is_first() {
                    p_grad[..K - 1].fill(ZERO); // nothing here reaches the document before
                }
            }
        }
        bias_total.store(&mut bias_grad[at.clone()]);
        for (lane, channel) in at.enumerate() {
            for (k, total) in weight_total.iter().enumerate() {
                weight_grad[channel * K + k] = total.0[lane];
            }
        }
    }
    (weight_grad, bias_grad)
}
