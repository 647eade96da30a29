//! Causal attention of small heads, with grouped queries and documents, and its gradients.
//!
//! ```text
//! s[t, j] = q[t] . k[j] / sqrt(E)    p = softmax of s over the j that t sees    out[t] = sum over j of p[t, j] v[j]
//! ```
//!
//! Position t sees starts[t] to t. Nothing of size [T, T] is stored: 32 queries at a time see all their keys (T x 32
//! scores, which fit a core's cache), and the backward computes the scores again from the maximum and the sum that the
//! forward keeps. A key that is not seen adds exactly 0, so a document's numbers do not depend on what else is in its
//! row, nor on where in the row it lies. Legend as in tile.rs; H heads, K key/value heads, G = H / K.

use super::attention_grad::backward_part;
use super::lanes::{LANES, Lanes, ZERO};
use super::tile::{COLUMNS, PACK, WIDE_ZERO, Wide, columns, mix, packed, row_of, scores};
use super::{Path, Pieces, View, compiled_for_every_path, expect_len, expect_shape, run};
use crate::error::{Error, Result};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// The inputs, their shapes checked: q [B, T, H E], k and v [B, T, K E].
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    pub(super) q: View<'a>,
    pub(super) k: View<'a>,
    pub(super) v: View<'a>,
    pub(super) kv_heads: usize,
    pub(super) size: usize,
    starts: Option<&'a [i64]>,
}

/// Where the gradients go, contiguous, in the shapes of the inputs.
pub struct AttentionGrads<'a> {
    pub q: &'a mut [f32],
    pub k: &'a mut [f32],
    pub v: &'a mut [f32],
}

impl<'a> Attention<'a> {
    /// `starts` [B, T]: the first position that every position sees, at most its own; none: 0.
    pub fn new(
        q: View<'a>,
        k: View<'a>,
        v: View<'a>,
        [heads, kv_heads]: [usize; 2],
        starts: Option<&'a [i64]>,
    ) -> Result<Self> {
        let [batch, time, width] = q.shape();
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) || kv_heads == 0 || !heads.is_multiple_of(kv_heads)
        {
            return Err(Error::Shape(format!(
                "attention of {heads} heads, {kv_heads} for keys, in {width} values: each must divide the one after it"
            )));
        }
        let size = width / heads;
        expect_shape("k", k.shape(), [batch, time, kv_heads * size])?;
        expect_shape("v", v.shape(), [batch, time, kv_heads * size])?;
        if let Some(starts) = starts {
            expect_len("starts", starts.len(), batch * time)?;
            for (i, start) in starts.iter().enumerate() {
                if !(0..=(i % time) as i64).contains(start) {
                    let (b, t) = (i / time, i % time);
                    return Err(Error::Shape(format!("starts[{b}, {t}]: expected 0 to {t}, found {start}")));
                }
            }
        }
        Ok(Self { q, k, v, kv_heads, size, starts })
    }

    /// How many values `forward` keeps for `backward`: the maximum and the reciprocal sum of every query's softmax.
    pub fn num_kept(&self) -> usize {
        self.q.shape().iter().product::<usize>() / self.size * 2
    }

    fn groups(&self) -> usize {
        self.q.shape()[2] / self.size / self.kv_heads
    }

    /// Writes out [B, T, H E] and what `backward` wants.
    pub fn forward(&self, out: &mut [f32], kept: &mut [f32], threads: usize, path: Path) -> Result<()> {
        expect_len("out", out.len(), self.q.shape().iter().product())?;
        expect_len("kept", kept.len(), self.num_kept())?;
        let kept = kept.chunks_mut((self.q.shape()[1] * self.groups() * 2).max(1));
        let tasks = heads(out, self.q.shape(), self.kv_heads).into_iter().zip(kept).collect();
        run(tasks, threads, |part, (out, kept)| forward_part(path, self, self.part(part), out, kept));
        Ok(())
    }

    /// Overwrites `grads` given the gradient of out, out itself and what `forward` kept.
    pub fn backward(
        &self,
        out_grad: View<'_>,
        out: View<'_>,
        kept: &[f32],
        grads: AttentionGrads<'_>,
        threads: usize,
        path: Path,
    ) -> Result<()> {
        expect_shape("gradient of out", out_grad.shape(), self.q.shape())?;
        expect_shape("out", out.shape(), self.q.shape())?;
        expect_len("kept", kept.len(), self.num_kept())?;
        expect_len("gradient of q", grads.q.len(), self.q.shape().iter().product())?;
        expect_len("gradient of k", grads.k.len(), self.k.shape().iter().product())?;
        expect_len("gradient of v", grads.v.len(), self.k.shape().iter().product())?;
        let kept = kept.chunks((self.q.shape()[1] * self.groups() * 2).max(1));
        let [dq, dk, dv] = [(grads.q, self.q), (grads.k, self.k), (grads.v, self.k)]
            .map(|(grad, view)| heads(grad, view.shape(), self.kv_heads));
        let tasks = dq.into_iter().zip(dk).zip(dv).zip(kept).collect();
        run(tasks, threads, |part, (((dq, dk), dv), kept)| {
            backward_part(path, self, self.part(part), &out_grad, &out, kept, [dq, dk, dv])
        });
        Ok(())
    }

    fn part(&self, index: usize) -> Head {
        Head { batch: index / self.kv_heads, kv_head: index % self.kv_heads, groups: self.groups() }
    }

    /// What the queries of a tile see.
    #[inline(always)]
    pub(super) fn sight(&self, batch: usize, tile: Range<usize>) -> Sight {
        let time = self.q.shape()[1];
        let mut sight = Sight { first: 0, free: 0..tile.start + 1, starts: WIDE_ZERO, at: WIDE_ZERO };
        if let Some(starts) = self.starts {
            let starts = &starts[batch * time..][tile.clone()];
            let (first, last) = starts.iter().fold((time, 0), |(a, b), s| (a.min(*s as usize), b.max(*s as usize)));
            sight.first = first / PACK * PACK;
            sight.free.start = last;
            for (i, start) in starts.iter().enumerate() {
                sight.starts[i / LANES].0[i % LANES] = *start as f32;
            }
        }
        for i in 0..COLUMNS {
            sight.at[i / LANES].0[i % LANES] = (tile.start + i) as f32;
        }
        sight
    }
}

/// One batch element's key/value head and its queries' heads.
#[derive(Clone, Copy)]
pub struct Head {
    pub batch: usize,
    pub kv_head: usize,
    pub groups: usize,
}

impl Head {
    pub fn queries(self, attention: &Attention, group: usize, steps: Range<usize>) -> Rows {
        Rows { batch: self.batch, head: self.kv_head * self.groups + group, size: attention.size, steps }
    }
}

/// Some rows of one head of a [B, T, heads E] array.
pub struct Rows {
    pub batch: usize,
    pub head: usize,
    pub size: usize,
    pub steps: Range<usize>,
}

impl Rows {
    #[inline(always)]
    pub fn of<'v>(&self, view: &View<'v>) -> impl Iterator<Item = &'v [f32]> + use<'v> {
        let (view, batch, at) = (*view, self.batch, self.head * self.size..(self.head + 1) * self.size);
        self.steps.clone().map(move |t| &view.row(batch, t)[at.clone()])
    }
}

/// Which keys the 32 queries of a tile see.
pub struct Sight {
    /// None sees a key before this one, a multiple of 8.
    pub first: usize,
    /// All see these.
    free: Range<usize>,
    starts: Wide,
    at: Wide,
}

impl Sight {
    /// Puts -infinity where a query does not see the key that is `first` + the row's number.
    #[inline(always)]
    pub fn mask(&self, first: usize, scores: &mut [Wide]) {
        for (j, scores) in (first..).zip(scores) {
            if self.free.contains(&j) {
                continue;
            }
            let j = j as f32;
            for half in 0..2 {
                for lane in 0..LANES {
                    let (start, at) = (self.starts[half].0[lane], self.at[half].0[lane]);
                    let score = &mut scores[half].0[lane];
                    *score = if start <= j && j <= at { *score } else { f32::NEG_INFINITY };
                }
            }
        }
    }
}

/// Cuts [B, T, heads * ...] into a share for every batch element and key/value head.
fn heads(data: &mut [f32], [batch, time, width]: [usize; 3], kv_heads: usize) -> Vec<Pieces<'_>> {
    let mut parts: Vec<_> = (0..batch * kv_heads).map(|_| Vec::with_capacity(time)).collect();
    for (i, row) in data.chunks_mut(width.max(1)).enumerate() {
        for (head, piece) in row.chunks_mut(width / kv_heads).enumerate() {
            parts[i / time * kv_heads + head].push(piece);
        }
    }
    parts
}

/// Scores are kept in base 2: 2^x is cheaper than e^x.
pub fn scale(size: usize) -> f32 {
    LOG2_E / (size as f32).sqrt()
}

/// The keys of one head, beside each other and packed, filled up to a multiple of 8.
pub struct Keys {
    pub rows: Vec<f32>,
    pub packed: Vec<f32>,
}

impl Keys {
    pub fn new(attention: &Attention, view: &View, head: Head) -> Self {
        let time = view.shape()[1];
        let rows = Rows { batch: head.batch, head: head.kv_head, size: attention.size, steps: 0..time };
        let mut flat = rows.of(view).flatten().copied().collect::<Vec<_>>();
        flat.resize(time.next_multiple_of(PACK) * attention.size, 0.0);
        Self { rows: flat, packed: packed(rows.of(view), time, attention.size) }
    }
}

compiled_for_every_path! {
    fn forward_part(attention: &Attention, head: Head, out: Pieces, kept: &mut [f32]) = forward_body<AVX512>
}

#[inline(always)]
fn forward_body<const AVX512: bool>(attention: &Attention, head: Head, mut out: Pieces, kept: &mut [f32]) {
    let (size, time) = (attention.size, attention.q.shape()[1]);
    let (keys, values) = (Keys::new(attention, &attention.k, head), Keys::new(attention, &attention.v, head));
    let mut strip = vec![WIDE_ZERO; time.next_multiple_of(PACK)];
    let (mut q, mut y) = (vec![WIDE_ZERO; size], vec![WIDE_ZERO; size]);
    for (group, kept) in kept.chunks_exact_mut(time * 2).enumerate() {
        let (maxima, reciprocals) = kept.split_at_mut(time);
        for start in (0..time).step_by(COLUMNS) {
            let tile = start..time.min(start + COLUMNS);
            let rows = head.queries(attention, group, tile.clone());
            columns(rows.of(&attention.q), scale(size), &mut q);
            let sight = attention.sight(head.batch, tile.clone());
            let seen = sight.first..tile.end.next_multiple_of(PACK);
            let (from, to) = (seen.start * size, seen.end * size);
            let strip = &mut strip[seen.clone()];

            scores::<AVX512>(&keys.packed[from..to], &q, strip);
            sight.mask(seen.start, strip);
            let largest = maximum(strip);
            let sums = exponentials(strip, largest);
            y.fill(WIDE_ZERO);
            mix::<AVX512>(&values.rows[from..to], strip, &mut y);

            let reciprocal = sums.map(|sum| Lanes::splat(1.0) / sum);
            for y in &mut y {
                *y = [y[0] * reciprocal[0], y[1] * reciprocal[1]];
            }
            for (i, t) in tile.enumerate() {
                row_of(&y, i, &mut out[t][group * size..(group + 1) * size]);
                maxima[t] = largest[i / LANES].0[i % LANES];
                reciprocals[t] = reciprocal[i / LANES].0[i % LANES];
            }
        }
    }
}

#[inline(always)]
fn maximum(scores: &[Wide]) -> Wide {
    let mut largest = [Lanes::splat(f32::NEG_INFINITY); 2];
    for score in scores {
        for half in 0..2 {
            largest[half] = score[half].max(largest[half]);
        }
    }
    largest
}

/// Turns scores into 2^(score - largest); returns their sums.
#[inline(always)]
fn exponentials(scores: &mut [Wide], largest: Wide) -> Wide {
    let mut total = WIDE_ZERO;
    for scores in scores {
        for half in 0..2 {
            scores[half] = (scores[half] - largest[half]).exp2();
            total[half] = total[half] + scores[half];
        }
    }
    total
}

/// What was kept of the tile's queries; 0 for those that the tile lacks.
#[inline(always)]
pub fn kept_at(kept: &[f32], tile: Range<usize>) -> Wide {
    let kept = &kept[tile];
    [Lanes::load(kept), if kept.len() > LANES { Lanes::load(&kept[LANES..]) } else { ZERO }]
}
