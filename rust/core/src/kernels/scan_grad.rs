//! One part of the scan's backward: see scan.rs.

use super::documents::cut_steps;
use super::lanes::{LANES, Lanes, ZERO};
use super::scan::{CHUNK, Chunk, Part, Scan, load_a, load_steps};
use super::{Pieces, View, compiled_for_every_path};
use std::f32::consts::LN_2;
use std::ops::Range;

/// What one part adds to the gradients that are sums over batch elements or channels.
pub struct Sums {
    pub a_dn: Vec<f32>,
    pub b_tn: Vec<f32>,
    pub c_tn: Vec<f32>,
    pub d: Vec<f32>,
    pub delta_bias: Vec<f32>,
}

compiled_for_every_path! {
    fn backward_part(scan: &Scan, part: Part, out_grad: &View, states: &View, grads: [Pieces; 3]) -> Sums = backward_body
}

/// 16 channels' inputs and running gradients for the steps of one chunk.
struct Steps {
    dt: Chunk<Lanes>,
    /// The derivative of softplus.
    slope: Chunk<Lanes>,
    dtu: Chunk<Lanes>,
    y_grad: Chunk<Lanes>,
    y: Chunk<Lanes>,
    /// Gradients of dt through the decay alone (in units of ln 2, as A is), and of dt u.
    dt_grad: Chunk<Lanes>,
    dtu_grad: Chunk<Lanes>,
    /// One state's decays, and the state itself before every step and after the last.
    decay: Chunk<Lanes>,
    h: [Lanes; CHUNK + 1],
}

impl Steps {
    fn new() -> Self {
        let zeros = [ZERO; CHUNK];
        Self {
            dt: zeros,
            slope: zeros,
            dtu: zeros,
            y_grad: zeros,
            y: zeros,
            dt_grad: zeros,
            dtu_grad: zeros,
            decay: zeros,
            h: [ZERO; CHUNK + 1],
        }
    }
}

#[inline(always)]
fn backward_body(scan: &Scan, part: Part, out_grad: &View, states: &View, grads: [Pieces; 3]) -> Sums {
    let [mut u_grad, mut delta_grad, mut z_grad] = grads;
    let (num_states, time) = (scan.num_states(), scan.u.shape()[1]);
    let blocks: Vec<_> = part.blocks().collect();
    let a: Vec<_> = blocks.iter().map(|at| load_a(scan, part.channels(at))).collect();
    let mut a_grad = vec![vec![ZERO; num_states]; blocks.len()];
    let mut h_grad = vec![vec![ZERO; num_states]; blocks.len()];
    let (mut d_grad, mut bias_grad) = (vec![ZERO; blocks.len()], vec![ZERO; blocks.len()]);
    let (mut b, mut c) = (vec![[0.0; CHUNK]; num_states], vec![[0.0; CHUNK]; num_states]);
    let (mut b_grad, mut c_grad) = (vec![[ZERO; CHUNK]; num_states], vec![[ZERO; CHUNK]; num_states]);
    let (mut b_tn, mut c_tn) = (vec![0.0; time * num_states], vec![0.0; time * num_states]);
    let mut steps = Steps::new();
    let mut pieces = Vec::new();

    for index in (0..time.div_ceil(CHUNK)).rev() {
        let start = index * CHUNK;
        let len = CHUNK.min(time - start);
        load_steps(&scan.b, part.batch, start..start + len, &mut b);
        load_steps(&scan.c, part.batch, start..start + len, &mut c);
        cut_steps(scan.documents, part.batch, start..start + len, &mut pieces);
        b_grad.fill([ZERO; CHUNK]);
        c_grad.fill([ZERO; CHUNK]);
        for (block, at) in blocks.iter().enumerate() {
            let channels = part.channels(at);
            let (bias, d) = (Lanes::load(&scan.delta_bias[channels.clone()]), Lanes::load(&scan.d[channels.clone()]));
            let load = |view: &View, i: usize| Lanes::load(&view.row(part.batch, start + i)[channels.clone()]);
            for i in 0..len {
                let (u, z) = (load(&scan.u, i), load(&scan.z, i));
                (steps.dt[i], steps.slope[i]) = (load(&scan.delta, i) + bias).softplus();
                steps.dtu[i] = steps.dt[i] * u;
                steps.y[i] = d * u;
                steps.y_grad[i] = load(out_grad, i) * (z * z.sigmoid());
                (steps.dt_grad[i], steps.dtu_grad[i]) = (ZERO, ZERO);
            }
            for n in 0..num_states {
                let h = Lanes::load(&states.row(part.batch, index * num_states + n)[channels.clone()]);
                let mut grad = h_grad[block][n];
                for piece in pieces.iter().rev() {
                    let i = piece.steps.start - start..piece.steps.end - start;
                    let before = if piece.is_first() { ZERO } else { h };
                    let grads = Grads { a: &mut a_grad[block][n], b: &mut b_grad[n], c: &mut c_grad[n] };
                    grad = sweep(&mut steps, i, a[block][n], &b[n], &c[n], before, grad, grads);
                    if piece.is_first() {
                        grad = ZERO;
                    }
                }
                h_grad[block][n] = grad;
            }
            // A chunk's sum first: a running sum over all steps would lose bits as it grows.
            let (mut d_sum, mut bias_sum) = (ZERO, ZERO);
            for i in 0..len {
                let (u, z, gate) = (load(&scan.u, i), load(&scan.z, i), load(&scan.z, i).sigmoid());
                let dt_grad = steps.dtu_grad[i].mul_add(u, steps.dt_grad[i] * Lanes::splat(LN_2));
                let delta = dt_grad * steps.slope[i];
                // (z s(z))' = s + z s (1 - s)
                let silu_slope = (z * gate).mul_add(Lanes::splat(1.0) - gate, gate);
                d_sum = steps.y_grad[i].mul_add(u, d_sum);
                bias_sum = bias_sum + delta;
                d.mul_add(steps.y_grad[i], steps.dtu_grad[i] * steps.dt[i]).store(&mut u_grad[start + i][at.clone()]);
                delta.store(&mut delta_grad[start + i][at.clone()]);
                (load(out_grad, i) * steps.y[i] * silu_slope).store(&mut z_grad[start + i][at.clone()]);
            }
            d_grad[block] = d_grad[block] + d_sum;
            bias_grad[block] = bias_grad[block] + bias_sum;
        }
        for n in 0..num_states {
            for i in 0..len {
                b_tn[(start + i) * num_states + n] = b_grad[n][i].sum();
                c_tn[(start + i) * num_states + n] = c_grad[n][i].sum();
            }
        }
    }

    let flat = |lanes: &[Lanes]| lanes.iter().flat_map(|lanes| lanes.0).take(part.width).collect();
    let a_dn = (0..part.width).flat_map(|i| a_grad[i / LANES].iter().map(move |a| a.0[i % LANES])).collect();
    Sums { a_dn, b_tn, c_tn, d: flat(&d_grad), delta_bias: flat(&bias_grad) }
}

/// Where one state's gradients are added up.
struct Grads<'a> {
    a: &'a mut Lanes,
    b: &'a mut Chunk<Lanes>,
    c: &'a mut Chunk<Lanes>,
}

/// One state of 16 channels: forward through a chunk's steps `at` from `h`, then back from `h_grad`, which it returns at
/// their start.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn sweep(
    steps: &mut Steps,
    at: Range<usize>,
    a: Lanes,
    b: &Chunk<f32>,
    c: &Chunk<f32>,
    mut h: Lanes,
    mut h_grad: Lanes,
    grads: Grads,
) -> Lanes {
    let (from, to) = (at.start.min(CHUNK), at.end.min(CHUNK));
    steps.h[from] = h;
    for i in from..to {
        let decay = (steps.dt[i] * a).exp2();
        h = h.mul_add(decay, steps.dtu[i] * Lanes::splat(b[i]));
        (steps.decay[i], steps.h[i + 1]) = (decay, h);
        steps.y[i] = h.mul_add(Lanes::splat(c[i]), steps.y[i]);
    }
    let mut a_sum = ZERO;
    for i in (from..to).rev() {
        h_grad = steps.y_grad[i].mul_add(Lanes::splat(c[i]), h_grad);
        grads.c[i] = steps.y_grad[i].mul_add(steps.h[i + 1], grads.c[i]);
        grads.b[i] = steps.dtu[i].mul_add(h_grad, grads.b[i]);
        steps.dtu_grad[i] = h_grad.mul_add(Lanes::splat(b[i]), steps.dtu_grad[i]);
        h_grad = h_grad * steps.decay[i];
        let exponent_grad = h_grad * steps.h[i];
        steps.dt_grad[i] = exponent_grad.mul_add(a, steps.dt_grad[i]);
        a_sum = exponent_grad.mul_add(steps.dt[i], a_sum);
    }
    *grads.a = *grads.a + a_sum;
    h_grad
}
