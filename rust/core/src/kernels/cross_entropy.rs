//! The output layer of a small model and the cross-entropy of its logits in one, with gradients.
//!
//! ```text
//! s[m, v] = hidden[m] . weight[v]    nats[m] = ln(sum over v of e^s[m, v]) - s[m, target]
//! ```
//!
//! No logits are stored: 64 entries of the vocabulary meet 32 tokens at a time, once for maxima and sums, once more for
//! the gradients, in the L1 cache. 256 tokens share a pass over the vocabulary, so that weights and their gradients
//! come from further away only once for all of them. Worth it while an exponential costs more than its logit: up to a
//! hidden size of a hundred or two. Legend: M tokens, D hidden, V vocabulary.
//!
//! Tokens are cut into at most 8 parts, whatever the number of threads; sums over parts are taken in order.

use super::lanes::{LANES, Lanes, ZERO};
use super::tile::{COLUMNS, PACK, WIDE_ZERO, Wide, columns, mix, outer, packed, row_of, scores, vectors};
use super::{Path, compiled_for_every_path, expect_len, run};
use crate::error::{Error, Result};
use std::f32::consts::LOG2_E;
use std::f64::consts::LN_2;
use std::ops::Range;

const MAX_PARTS: usize = 8;
const MIN_PART: usize = 1024;
/// Tokens that share a pass over the vocabulary.
const SHARED: usize = 256;
/// Entries of the vocabulary in a block. A multiple of 8.
const BLOCK: usize = 64;

/// The inputs, their shapes checked: hidden [M, D], weight [V, D], targets [M].
#[derive(Clone, Copy)]
pub struct CrossEntropy<'a> {
    hidden: &'a [f32],
    weight: &'a [f32],
    targets: &'a [i64],
    size: usize,
    ignore: i64,
}

/// Where the gradients go, in the shapes of the inputs.
pub struct CrossEntropyGrads<'a> {
    pub hidden: &'a mut [f32],
    pub weight: &'a mut [f32],
}

impl<'a> CrossEntropy<'a> {
    /// Targets equal to `ignore` count for nothing; others are from 0 to V - 1.
    pub fn new(hidden: &'a [f32], weight: &'a [f32], targets: &'a [i64], size: usize, ignore: i64) -> Result<Self> {
        if size == 0 || weight.is_empty() || !weight.len().is_multiple_of(size) {
            return Err(Error::Shape(format!("weight: {} values are no rows of {size}", weight.len())));
        }
        expect_len("hidden", hidden.len(), targets.len() * size)?;
        let vocabulary = (weight.len() / size) as i64;
        for (m, target) in targets.iter().enumerate() {
            if *target != ignore && !(0..vocabulary).contains(target) {
                let last = vocabulary - 1;
                return Err(Error::Shape(format!("targets[{m}]: expected 0 to {last} or {ignore}, found {target}")));
            }
        }
        Ok(Self { hidden, weight, targets, size, ignore })
    }

    /// The sum of nats over all targets; overwrites `grads` with its gradients.
    pub fn nats(&self, grads: Option<CrossEntropyGrads<'_>>, threads: usize, path: Path) -> Result<f64> {
        let tokens = self.targets.len();
        let part_len = tokens.div_ceil(MAX_PARTS).max(MIN_PART).next_multiple_of(SHARED);
        let weight = packed(self.weight.chunks_exact(self.size), self.weight.len() / self.size, self.size);
        let tokens_of = |part: usize| part * part_len..tokens.min((part + 1) * part_len);
        let Some(grads) = grads else {
            let parts = (0..tokens.div_ceil(part_len)).collect();
            let nats = run(parts, threads, |_, part| part_of(path, self, &weight, tokens_of(part), None).0);
            return Ok(nats.iter().sum());
        };
        expect_len("gradient of hidden", grads.hidden.len(), self.hidden.len())?;
        expect_len("gradient of weight", grads.weight.len(), self.weight.len())?;
        let parts = grads.hidden.chunks_mut(part_len * self.size).collect();
        let sums =
            run(parts, threads, |part, hidden_grad| part_of(path, self, &weight, tokens_of(part), Some(hidden_grad)));
        grads.weight.fill(0.0);
        for (_, sum) in &sums {
            for (row, sum) in grads.weight.chunks_exact_mut(self.size).zip(sum.chunks_exact(self.size.div_ceil(LANES)))
            {
                for (total, sum) in row.chunks_mut(LANES).zip(sum) {
                    (Lanes::load(total) + *sum).store(total);
                }
            }
        }
        Ok(sums.iter().map(|(nats, _)| nats).sum())
    }
}

compiled_for_every_path! {
    fn part_of(
        job: &CrossEntropy,
        weight: &[f32],
        tokens: Range<usize>,
        hidden_grad: Option<&mut [f32]>,
    ) -> (f64, Vec<Lanes>) = part_body<AVX512>
}

/// 32 tokens.
struct Tile {
    tokens: Range<usize>,
    /// hidden log2(e), turned around.
    x: Vec<Wide>,
    largest: Wide,
    sum: Wide,
}

/// Returns the nats of `tokens` and, if `hidden_grad` is there, the gradient of weight, [V + some, D in vectors].
#[inline(always)]
fn part_body<const AVX512: bool>(
    job: &CrossEntropy,
    weight: &[f32],
    tokens: Range<usize>,
    mut hidden_grad: Option<&mut [f32]>,
) -> (f64, Vec<Lanes>) {
    let (size, entries) = (job.size, job.weight.len() / job.size);
    let num_vectors = size.div_ceil(LANES);
    let padded = entries.next_multiple_of(PACK);
    let mut weight_grad = if hidden_grad.is_some() { vec![ZERO; padded * num_vectors] } else { Vec::new() };
    let mut nats = 0.0;
    let mut p = [WIDE_ZERO; BLOCK];
    let mut x_rows = vec![ZERO; SHARED * num_vectors];
    for start in tokens.clone().step_by(SHARED) {
        let shared = start..tokens.end.min(start + SHARED);
        let mut tiles: Vec<_> =
            shared.clone().step_by(COLUMNS).map(|at| Tile::new(job, at..shared.end.min(at + COLUMNS))).collect();
        for first in (0..padded).step_by(BLOCK) {
            let block = first..padded.min(first + BLOCK);
            for tile in &mut tiles {
                let scores = &mut p[..block.len()];
                tile.scores::<AVX512>(weight, size, entries, &block, scores);
                tile.count(scores);
            }
        }
        for tile in &tiles {
            nats += tile.nats(job);
        }
        let Some(hidden_grad) = &mut hidden_grad else { continue };
        let mut block_grad = vec![WIDE_ZERO; size];
        let mut x_grads = vec![WIDE_ZERO; tiles.len() * size];
        let hidden = job.hidden[shared.start * size..shared.end * size].chunks_exact(size);
        vectors(hidden, 1.0, num_vectors, &mut x_rows);
        let scales: Vec<_> = tiles.iter().map(|tile| tile.scale(job)).collect();
        for first in (0..padded).step_by(BLOCK) {
            let block = first..padded.min(first + BLOCK);
            let rows = &job.weight[first * size..entries.min(block.end) * size];
            let weight_grad = &mut weight_grad[first * num_vectors..block.end * num_vectors];
            let x_rows = x_rows.chunks_exact(COLUMNS * num_vectors);
            let each = tiles.iter().zip(&scales).zip(x_grads.chunks_exact_mut(size)).zip(x_rows);
            for (((tile, scale), x_grad), x_rows) in each {
                let p = &mut p[..block.len()];
                tile.scores::<AVX512>(weight, size, entries, &block, p);
                for p in &mut *p {
                    for half in 0..2 {
                        p[half] = (p[half] - tile.largest[half]).exp2() * scale[half];
                    }
                }
                for (i, target) in job.targets[tile.tokens.clone()].iter().enumerate() {
                    if block.contains(&(*target as usize)) && *target != job.ignore {
                        p[*target as usize - first][i / LANES].0[i % LANES] -= 1.0;
                    }
                }
                // A block's sum first: a running sum over the vocabulary would lose bits as it grows.
                block_grad.fill(WIDE_ZERO);
                mix::<AVX512>(rows, p, &mut block_grad);
                for (total, sum) in x_grad.iter_mut().zip(&block_grad) {
                    *total = [total[0] + sum[0], total[1] + sum[1]];
                }
                outer::<AVX512>(p, x_rows, num_vectors, weight_grad);
            }
        }
        for (tile, x_grad) in tiles.iter().zip(x_grads.chunks_exact(size)) {
            for (i, m) in tile.tokens.clone().enumerate() {
                let at = (m - tokens.start) * size;
                row_of(x_grad, i, &mut hidden_grad[at..at + size]);
            }
        }
    }
    (nats, weight_grad)
}

impl Tile {
    #[inline(always)]
    fn new(job: &CrossEntropy, tokens: Range<usize>) -> Self {
        let mut tile = Self {
            tokens,
            x: vec![WIDE_ZERO; job.size],
            largest: [Lanes::splat(f32::NEG_INFINITY); 2],
            sum: WIDE_ZERO,
        };
        let mut x = std::mem::take(&mut tile.x);
        columns(tile.rows(job), LOG2_E, &mut x);
        tile.x = x;
        tile
    }

    #[inline(always)]
    fn rows<'a>(&self, job: &CrossEntropy<'a>) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        job.hidden[self.tokens.start * job.size..self.tokens.end * job.size].chunks_exact(job.size)
    }

    /// Logits in base 2 of a block of the vocabulary; -infinity for what fills up its last rows.
    #[inline(always)]
    fn scores<const AVX512: bool>(
        &self,
        weight: &[f32],
        size: usize,
        entries: usize,
        block: &Range<usize>,
        out: &mut [Wide],
    ) {
        scores::<AVX512>(&weight[block.start * size..block.end * size], &self.x, out);
        if block.end > entries {
            out[entries - block.start..].fill([Lanes::splat(f32::NEG_INFINITY); 2]);
        }
    }

    /// Takes a block's scores into the maximum and the sum.
    #[inline(always)]
    fn count(&mut self, scores: &[Wide]) {
        for half in 0..2 {
            let mut largest = self.largest[half];
            for score in scores {
                largest = score[half].max(largest);
            }
            let mut sum = ZERO;
            for score in scores {
                sum = sum + (score[half] - largest).exp2();
            }
            self.sum[half] = self.sum[half].mul_add((self.largest[half] - largest).exp2(), sum);
            self.largest[half] = largest;
        }
    }

    /// The reciprocal of each token's sum; 0 for those that do not count.
    #[inline(always)]
    fn scale(&self, job: &CrossEntropy) -> Wide {
        let mut scale = WIDE_ZERO;
        for (i, target) in job.targets[self.tokens.clone()].iter().enumerate() {
            if *target != job.ignore {
                scale[i / LANES].0[i % LANES] = 1.0 / self.sum[i / LANES].0[i % LANES];
            }
        }
        scale
    }

    #[inline(always)]
    fn nats(&self, job: &CrossEntropy) -> f64 {
        let mut total = 0.0;
        for (i, target) in job.targets[self.tokens.clone()].iter().enumerate() {
            if *target == job.ignore {
                continue;
            }
            let at = |wide: &Wide| wide[i / LANES].0[i % LANES];
            let weight = &job.weight[*target as usize * job.size..][..job.size];
            let score = weight.iter().zip(&self.x).fold(0.0, |sum: f32, (w, x)| w.mul_add(at(x), sum));
            total += log2(f64::from(at(&self.sum))) + f64::from(at(&self.largest)) - f64::from(score);
        }
        total * LN_2
    }
}

/// log2 of a normal number, within 1e-12, by operations that are the same on every machine.
fn log2(x: f64) -> f64 {
    if !x.is_normal() {
        return if x == 0.0 { f64::NEG_INFINITY } else { x };
    }
    let bits = x.to_bits();
    let (mut exponent, mut fraction) =
        ((bits >> 52) as i64 - 1023, f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52));
    if fraction > std::f64::consts::SQRT_2 {
        (exponent, fraction) = (exponent + 1, fraction / 2.0);
    }
    // 2 artanh(s), |s| <= 0.172
    let s = (fraction - 1.0) / (fraction + 1.0);
    let sum = (0..9).rev().fold(0.0, |sum, k| sum * s * s + 1.0 / f64::from(2 * k + 1));
    exponent as f64 + 2.0 * s * sum / LN_2
}
