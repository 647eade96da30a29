//! The selective scan of Mamba (Gu and Dao 2023, algorithm 2), with its softplus, skip and gate, and its gradients.
//!
//! ```text
//! dt = softplus(delta + bias)    h = exp(dt A) h + dt u B    out = (C . h + D u) silu(z)
//! ```
//!
//! Nothing of size [B, T, D, N] is stored. The forward keeps h at the start of every chunk of 32 steps; the backward
//! takes the chunks from the last to the first, recomputes h inside one and sweeps back through it. Within a chunk the
//! states are the outer loop: one state of 16 channels stays in a register for 32 steps, and what a chunk needs (dt,
//! u dt, y: 2 kB each) stays in the L1 cache, for any number of states. Where a document begins inside a chunk, the loop
//! over its steps ends and begins again with h = 0: no step asks where it is.

use super::documents::{Documents, cut_steps};
use super::lanes::{LANES, Lanes, ZERO};
use super::scan_grad::backward_part;
use super::{GROUP, Path, Pieces, View, compiled_for_every_path, cut, expect_len, expect_shape, run};
use crate::error::{Error, Result};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Steps between the states that the forward keeps.
pub const CHUNK: usize = 32;

/// How many values the states have that the forward keeps for the backward: [B, chunks, N, D].
pub fn num_states([batch, time, channels]: [usize; 3], states: usize) -> usize {
    batch * time.div_ceil(CHUNK) * states * channels
}

/// The inputs, their shapes checked. `a_dn` is -exp(A_log); `delta` comes before its bias and softplus.
#[derive(Clone, Copy)]
pub struct Scan<'a> {
    pub(super) u: View<'a>,
    pub(super) delta: View<'a>,
    pub(super) a_dn: &'a [f32],
    pub(super) b: View<'a>,
    pub(super) c: View<'a>,
    pub(super) d: &'a [f32],
    pub(super) z: View<'a>,
    pub(super) delta_bias: &'a [f32],
    pub(super) documents: Option<&'a Documents>,
}

/// Where the gradients go, all contiguous: u, delta and z [B, T, D]; a [D, N]; b and c [B, T, N]; d, delta_bias [D].
pub struct ScanGrads<'a> {
    pub u: &'a mut [f32],
    pub delta: &'a mut [f32],
    pub a: &'a mut [f32],
    pub b: &'a mut [f32],
    pub c: &'a mut [f32],
    pub d: &'a mut [f32],
    pub z: &'a mut [f32],
    pub delta_bias: &'a mut [f32],
}

impl<'a> Scan<'a> {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        u: View<'a>,
        delta: View<'a>,
        a_dn: &'a [f32],
        b: View<'a>,
        c: View<'a>,
        d: &'a [f32],
        z: View<'a>,
        delta_bias: &'a [f32],
    ) -> Result<Self> {
        let [batch, time, channels] = u.shape();
        let states = b.shape()[2];
        if channels == 0 || states == 0 {
            return Err(Error::Shape(format!("a scan of {channels} channels and {states} states: needs at least 1")));
        }
        expect_shape("delta", delta.shape(), u.shape())?;
        expect_shape("z", z.shape(), u.shape())?;
        expect_shape("B", b.shape(), [batch, time, states])?;
        expect_shape("C", c.shape(), [batch, time, states])?;
        expect_len("A", a_dn.len(), channels * states)?;
        expect_len("D", d.len(), channels)?;
        expect_len("delta_bias", delta_bias.len(), channels)?;
        Ok(Self { u, delta, a_dn, b, c, d, z, delta_bias, documents: None })
    }

    /// The same, from h = 0 in each document.
    pub fn within(self, documents: &'a Documents) -> Result<Self> {
        let [batch, time, _] = self.u.shape();
        documents.expect_shape(batch, time)?;
        Ok(Self { documents: Some(documents), ..self })
    }

    pub(super) fn num_states(&self) -> usize {
        self.b.shape()[2]
    }

    /// Writes out [B, T, D] and the states [B, chunks, N, D] that `backward` wants.
    pub fn forward(&self, out: &mut [f32], states: &mut [f32], threads: usize, path: Path) -> Result<()> {
        let [batch, time, channels] = self.u.shape();
        expect_len("out", out.len(), batch * time * channels)?;
        expect_len("states", states.len(), num_states(self.u.shape(), self.num_states()))?;
        let states = cut(states, [batch, time.div_ceil(CHUNK) * self.num_states(), channels]);
        let tasks = cut(out, self.u.shape()).into_iter().zip(states).collect();
        run(tasks, threads, |part, (out, states)| {
            forward_part(path, self, Part::new(self.u.shape(), part), out, states, None)
        });
        Ok(())
    }

    /// Writes out [B, T, D] as `forward` does, but from `state` [B, N, D], h before the first step, which becomes h after
    /// the last: a text read in pieces has the bits of one read at once.
    pub fn advance(&self, state: &mut [f32], out: &mut [f32], threads: usize, path: Path) -> Result<()> {
        let [batch, time, channels] = self.u.shape();
        let num_states = self.num_states();
        expect_len("out", out.len(), batch * time * channels)?;
        expect_len("state", state.len(), batch * num_states * channels)?;
        let mut kept = vec![0.0; self::num_states(self.u.shape(), num_states)];
        let kept = cut(&mut kept, [batch, time.div_ceil(CHUNK) * num_states, channels]);
        let state = cut(state, [batch, num_states, channels]);
        let tasks = cut(out, self.u.shape()).into_iter().zip(kept).zip(state).collect();
        run(tasks, threads, |part, ((out, kept), state)| {
            forward_part(path, self, Part::new(self.u.shape(), part), out, kept, Some(state))
        });
        Ok(())
    }

    /// Overwrites `grads` given the gradient of out and the states that `forward` wrote.
    pub fn backward(
        &self,
        out_grad: View<'_>,
        states: &[f32],
        grads: ScanGrads<'_>,
        threads: usize,
        path: Path,
    ) -> Result<()> {
        let [batch, time, channels] = self.u.shape();
        let num_states = self.num_states();
        expect_shape("gradient of out", out_grad.shape(), self.u.shape())?;
        let states = View::contiguous(states, [batch, time.div_ceil(CHUNK) * num_states, channels])?;
        for (name, grad) in
            [("gradient of u", &grads.u), ("gradient of delta", &grads.delta), ("gradient of z", &grads.z)]
        {
            expect_len(name, grad.len(), batch * time * channels)?;
        }
        for (name, grad) in [("gradient of B", &grads.b), ("gradient of C", &grads.c)] {
            expect_len(name, grad.len(), batch * time * num_states)?;
        }
        expect_len("gradient of A", grads.a.len(), channels * num_states)?;
        expect_len("gradient of D", grads.d.len(), channels)?;
        expect_len("gradient of delta_bias", grads.delta_bias.len(), channels)?;

        let (du, ddelta) = (cut(grads.u, self.u.shape()), cut(grads.delta, self.u.shape()));
        let dz = cut(grads.z, self.u.shape());
        let tasks = du.into_iter().zip(ddelta).zip(dz).collect();
        let sums = run(tasks, threads, |part, ((du, ddelta), dz)| {
            backward_part(path, self, Part::new(self.u.shape(), part), &out_grad, &states, [du, ddelta, dz])
        });

        for grad in [&mut *grads.a, grads.b, grads.c, grads.d, grads.delta_bias] {
            grad.fill(0.0);
        }
        for (part, sums) in sums.iter().enumerate() {
            let Part { batch, channel, width } = Part::new(self.u.shape(), part);
            let steps = batch * time * num_states..(batch + 1) * time * num_states;
            add(&mut grads.a[channel * num_states..], &sums.a_dn);
            add(&mut grads.b[steps.clone()], &sums.b_tn);
            add(&mut grads.c[steps], &sums.c_tn);
            add(&mut grads.d[channel..channel + width], &sums.d);
            add(&mut grads.delta_bias[channel..channel + width], &sums.delta_bias);
        }
        Ok(())
    }
}

pub fn add(total: &mut [f32], part: &[f32]) {
    for (total, part) in total.iter_mut().zip(part) {
        *total += part;
    }
}

/// One batch element and up to `GROUP` channels.
#[derive(Clone, Copy)]
pub struct Part {
    pub batch: usize,
    pub channel: usize,
    pub width: usize,
}

impl Part {
    pub fn new([_, _, channels]: [usize; 3], index: usize) -> Self {
        let groups = channels.div_ceil(GROUP);
        let channel = index % groups * GROUP;
        Self { batch: index / groups, channel, width: GROUP.min(channels - channel) }
    }

    /// Up to 16 channels at a time, counted from the part's first.
    #[inline(always)]
    pub fn blocks(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.width).step_by(LANES).map(move |at| at..self.width.min(at + LANES))
    }

    #[inline(always)]
    pub fn channels(self, block: &Range<usize>) -> Range<usize> {
        self.channel + block.start..self.channel + block.end
    }
}

pub type Chunk<T> = [T; CHUNK];

/// log2(e) A for 16 channels, one vector per state.
#[inline(always)]
pub fn load_a(scan: &Scan, channels: Range<usize>) -> Vec<Lanes> {
    let num_states = scan.num_states();
    let rows = &scan.a_dn[channels.start * num_states..channels.end * num_states];
    let mut a = vec![ZERO; num_states];
    for (lane, row) in rows.chunks_exact(num_states).enumerate() {
        for (a, value) in a.iter_mut().zip(row) {
            a.0[lane] = value * LOG2_E;
        }
    }
    a
}

/// Turns some rows of B or C around, so that a state's values for the chunk's steps lie side by side.
#[inline(always)]
pub fn load_steps(view: &View, batch: usize, steps: Range<usize>, out: &mut [Chunk<f32>]) {
    for (i, t) in steps.enumerate() {
        for (out, value) in out.iter_mut().zip(view.row(batch, t)) {
            out[i] = *value;
        }
    }
}

compiled_for_every_path! {
    fn forward_part(scan: &Scan, part: Part, out: Pieces, states: Pieces, carried: Option<Pieces>) = forward_body
}

#[inline(always)]
fn forward_body(scan: &Scan, part: Part, mut out: Pieces, mut states: Pieces, mut carried: Option<Pieces>) {
    let (num_states, time) = (scan.num_states(), scan.u.shape()[1]);
    let blocks: Vec<_> = part.blocks().collect();
    let a: Vec<_> = blocks.iter().map(|at| load_a(scan, part.channels(at))).collect();
    let mut h = vec![vec![ZERO; num_states]; blocks.len()];
    let (mut b, mut c) = (vec![[0.0; CHUNK]; num_states], vec![[0.0; CHUNK]; num_states]);
    let (mut dt, mut dtu, mut y) = ([ZERO; CHUNK], [ZERO; CHUNK], [ZERO; CHUNK]);
    let mut pieces = Vec::new();
    for (h, at) in h.iter_mut().zip(&blocks) {
        for (h, row) in h.iter_mut().zip(carried.iter().flatten()) {
            *h = Lanes::load(&row[at.clone()]);
        }
    }

    for (chunk, start) in (0..time).step_by(CHUNK).enumerate() {
        let len = CHUNK.min(time - start);
        load_steps(&scan.b, part.batch, start..start + len, &mut b);
        load_steps(&scan.c, part.batch, start..start + len, &mut c);
        cut_steps(scan.documents, part.batch, start..start + len, &mut pieces);
        for (block, at) in blocks.iter().enumerate() {
            let channels = part.channels(at);
            let (bias, d) = (Lanes::load(&scan.delta_bias[channels.clone()]), Lanes::load(&scan.d[channels.clone()]));
            for i in 0..len {
                let u = Lanes::load(&scan.u.row(part.batch, start + i)[channels.clone()]);
                let delta = Lanes::load(&scan.delta.row(part.batch, start + i)[channels.clone()]);
                dt[i] = (delta + bias).softplus().0;
                dtu[i] = dt[i] * u;
                y[i] = d * u;
            }
            for n in 0..num_states {
                let mut state = h[block][n];
                state.store(&mut states[chunk * num_states + n][at.clone()]);
                for piece in &pieces {
                    let i = piece.steps.start - start..piece.steps.end - start;
                    let before = if piece.is_first() && piece.document > 0 { ZERO } else { state };
                    let (dt, dtu, y) = (&dt[i.clone()], &dtu[i.clone()], &mut y[i.clone()]);
                    state = scan_state(dt, dtu, y, a[block][n], &b[n][i.clone()], &c[n][i], before);
                }
                h[block][n] = state;
            }
            for i in 0..len {
                let z = Lanes::load(&scan.z.row(part.batch, start + i)[channels.clone()]);
                (y[i] * (z * z.sigmoid())).store(&mut out[start + i][at.clone()]);
            }
        }
    }
    for (h, at) in h.iter().zip(&blocks) {
        for (h, row) in h.iter().zip(carried.iter_mut().flatten()) {
            h.store(&mut row[at.clone()]);
        }
    }
}

#[inline(always)]
fn scan_state(dt: &[Lanes], dtu: &[Lanes], y: &mut [Lanes], a: Lanes, b: &[f32], c: &[f32], mut h: Lanes) -> Lanes {
    for ((((dt, dtu), y), b), c) in dt.iter().zip(dtu).zip(y).zip(b).zip(c) {
        h = h.mul_add((*dt * a).exp2(), *dtu * Lanes::splat(*b));
        *y = h.mul_add(Lanes::splat(*c), *y);
    }
    h
}
