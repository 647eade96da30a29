//! One part of attention's backward: see attention.rs.

use super::attention::{Attention, Head, Keys, kept_at, scale};
use super::lanes::{LANES, ZERO};
use super::tile::{COLUMNS, PACK, WIDE_ZERO, columns, mix, outer, row_of, scores, vectors};
use super::{Pieces, View, compiled_for_every_path};

/// Keys whose scores are alive at a time: two arrays of 8 kB, in the L1 cache. A multiple of 8.
const KEYS: usize = 64;

compiled_for_every_path! {
    fn backward_part(
        attention: &Attention,
        head: Head,
        out_grad: &View,
        out: &View,
        kept: &[f32],
        grads: [Pieces; 3],
    ) = backward_body<AVX512>
}

#[inline(always)]
fn backward_body<const AVX512: bool>(
    attention: &Attention,
    head: Head,
    out_grad: &View,
    out: &View,
    kept: &[f32],
    grads: [Pieces; 3],
) {
    let [mut q_grad, mut k_grad, mut v_grad] = grads;
    let (size, time) = (attention.size, attention.q.shape()[1]);
    let num_vectors = size.div_ceil(LANES);
    let (keys, values) = (Keys::new(attention, &attention.k, head), Keys::new(attention, &attention.v, head));
    let padded = time.next_multiple_of(PACK);
    let (mut dk, mut dv) = (vec![ZERO; padded * num_vectors], vec![ZERO; padded * num_vectors]);
    let (mut q, mut dout, mut dq) = (vec![WIDE_ZERO; size], vec![WIDE_ZERO; size], vec![WIDE_ZERO; size]);
    let (mut q_rows, mut dout_rows) = (vec![ZERO; COLUMNS * num_vectors], vec![ZERO; COLUMNS * num_vectors]);
    let (mut p, mut ds) = ([WIDE_ZERO; KEYS], [WIDE_ZERO; KEYS]);
    let factor = 1.0 / (size as f32).sqrt();

    for (group, kept) in kept.chunks_exact(time * 2).enumerate() {
        for start in (0..time).step_by(COLUMNS) {
            let tile = start..time.min(start + COLUMNS);
            let rows = head.queries(attention, group, tile.clone());
            columns(rows.of(&attention.q), scale(size), &mut q);
            vectors(rows.of(&attention.q), factor, num_vectors, &mut q_rows);
            vectors(rows.of(out_grad), 1.0, num_vectors, &mut dout_rows);
            // dq serves for out until its own turn comes.
            columns(rows.of(out), 1.0, &mut dq);
            columns(rows.of(out_grad), 1.0, &mut dout);
            let mut mean = WIDE_ZERO; // of the gradients of p, weighed by p: what softmax takes off each
            for (dout, out) in dout.iter().zip(&dq) {
                mean = [dout[0].mul_add(out[0], mean[0]), dout[1].mul_add(out[1], mean[1])];
            }
            let (largest, reciprocal) = (kept_at(&kept[..time], tile.clone()), kept_at(&kept[time..], tile.clone()));
            let sight = attention.sight(head.batch, tile.clone());
            dq.fill(WIDE_ZERO);
            for first in (sight.first..tile.end).step_by(KEYS) {
                let count = (tile.end.next_multiple_of(PACK) - first).min(KEYS);
                let (from, to) = (first * size, (first + count) * size);
                let (p, ds) = (&mut p[..count], &mut ds[..count]);
                scores::<AVX512>(&keys.packed[from..to], &q, p);
                sight.mask(first, p);
                scores::<AVX512>(&values.packed[from..to], &dout, ds);
                for (p, ds) in p.iter_mut().zip(&mut *ds) {
                    for half in 0..2 {
                        p[half] = (p[half] - largest[half]).exp2() * reciprocal[half];
                        ds[half] = p[half] * (ds[half] - mean[half]);
                    }
                }
                mix::<AVX512>(&keys.rows[from..to], ds, &mut dq);
                let (from, to) = (first * num_vectors, (first + count) * num_vectors);
                outer::<AVX512>(p, &dout_rows, num_vectors, &mut dv[from..to]);
                outer::<AVX512>(ds, &q_rows, num_vectors, &mut dk[from..to]);
            }
            for (i, t) in tile.enumerate() {
                let q_grad = &mut q_grad[t][group * size..(group + 1) * size];
                row_of(&dq, i, q_grad);
                q_grad.iter_mut().for_each(|value| *value *= factor);
            }
        }
    }
    for (grads, sums) in [(&mut k_grad, dk), (&mut v_grad, dv)] {
        for (grad, sums) in grads.iter_mut().zip(sums.chunks_exact(num_vectors)) {
            for (grad, sum) in grad.chunks_mut(LANES).zip(sums) {
                sum.store(grad);
            }
        }
    }
}
