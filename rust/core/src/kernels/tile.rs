//! Products of narrow matrices with 32 columns: what attention of small heads and a small model's output layer consist of.
//!
//! The 32 columns are queries (or tokens) and fill two vectors, so no head size is padded and a softmax over rows needs
//! no sum across lanes. The other factor comes as numbers, each for all columns. J rows (keys), E head size, I columns.
//! Every value is one chain of `mul_add` in order of the sum's index, so the number of rows that a path keeps in
//! registers, `R`, changes no bits.

use super::lanes::{LANES, Lanes, ZERO};

pub const COLUMNS: usize = 2 * LANES;

/// One row of 32 columns.
pub type Wide = [Lanes; 2];

pub const WIDE_ZERO: Wide = [ZERO; 2];

/// Rows that `packed` keeps together; a multiple of every `R`.
pub const PACK: usize = 8;

/// `count` rows of `size` values, in blocks of 8 rows of which the first values come first, then the second ones: as
/// `scores` reads them. Zeros fill the last block.
pub fn packed<'a>(rows: impl Iterator<Item = &'a [f32]>, count: usize, size: usize) -> Vec<f32> {
    let mut packed = vec![0.0; count.next_multiple_of(PACK) * size];
    for (j, row) in rows.enumerate() {
        let block = &mut packed[j / PACK * PACK * size..];
        for (e, value) in row.iter().enumerate() {
            block[e * PACK + j % PACK] = *value;
        }
    }
    packed
}

/// Defines `$name::<AVX512>(...)`: the function of tile_avx512.rs or the one below, which give the same bits.
macro_rules! with_avx512 {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) = $portable:ident) => {
        $(#[$doc])*
        #[inline(always)]
        #[allow(unsafe_code)]
        pub fn $name<const AVX512: bool>($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            if AVX512 {
                // SAFETY: `compiled_for_every_path` says so only where it found these instructions.
                return unsafe { super::tile_avx512::$name($($arg),*) };
            }
            $portable($($arg),*)
        }
    };
}

with_avx512! {
    /// out[j][i] = sum over e of a[j, e] x[e][i], for `packed` a.
    fn scores(packed: &[f32], x: &[Wide], out: &mut [Wide]) = scores_portable
}

with_avx512! {
    /// y[e][i] += sum over j of a[j, e] p[j][i].
    fn mix(a: &[f32], p: &[Wide], y: &mut [Wide]) = mix_portable
}

with_avx512! {
    /// g[j] += sum over i of p[j][i] x[i], where a row of x and of g is `vectors` vectors. The sum over the columns is
    /// taken by itself before it is added: a running sum over all columns there are would lose bits as it grows.
    fn outer(p: &[Wide], x: &[Lanes], vectors: usize, g: &mut [Lanes]) = outer_portable
}

/// Rows of accumulators: AVX2 has registers for 2 x 32 numbers, and with more the compiler gives up on vectors.
const R: usize = 2;

#[inline(always)]
fn scores_portable(packed: &[f32], x: &[Wide], out: &mut [Wide]) {
    for (block, out) in packed.chunks_exact(x.len() * PACK).zip(out.chunks_exact_mut(PACK)) {
        for (first, out) in out.chunks_exact_mut(R).enumerate() {
            let mut sums = [WIDE_ZERO; R];
            for (a, x) in block.chunks_exact(PACK).zip(x) {
                let a = &a[first * R..first * R + R];
                for r in 0..R {
                    let a = Lanes::splat(a[r]);
                    sums[r] = [a.mul_add(x[0], sums[r][0]), a.mul_add(x[1], sums[r][1])];
                }
            }
            out.copy_from_slice(&sums);
        }
    }
}

#[inline(always)]
fn mix_portable(a: &[f32], p: &[Wide], y: &mut [Wide]) {
    let size = y.len();
    for at in (0..size / R * R).step_by(R) {
        mix_some::<R>(a, at, p, y);
    }
    for at in size / R * R..size {
        mix_some::<1>(a, at, p, y);
    }
}

#[inline(always)]
fn mix_some<const C: usize>(a: &[f32], at: usize, p: &[Wide], y: &mut [Wide]) {
    let size = y.len();
    let y = &mut y[at..at + C];
    let mut sums = [WIDE_ZERO; C];
    sums.copy_from_slice(y);
    for (a, p) in a.chunks_exact(size).zip(p) {
        let a = &a[at..at + C];
        for c in 0..C {
            let a = Lanes::splat(a[c]);
            sums[c] = [a.mul_add(p[0], sums[c][0]), a.mul_add(p[1], sums[c][1])];
        }
    }
    y.copy_from_slice(&sums);
}

#[inline(always)]
fn outer_portable(p: &[Wide], x: &[Lanes], vectors: usize, g: &mut [Lanes]) {
    for (p, g) in p.chunks_exact(2 * R).zip(g.chunks_exact_mut(2 * R * vectors)) {
        for at in 0..vectors {
            let mut sums = [ZERO; 2 * R];
            for (i, x) in x.chunks_exact(vectors).enumerate() {
                for r in 0..2 * R {
                    sums[r] = Lanes::splat(p[r][i / LANES].0[i % LANES]).mul_add(x[at], sums[r]);
                }
            }
            for (r, sum) in sums.iter().enumerate() {
                g[r * vectors + at] = g[r * vectors + at] + *sum;
            }
        }
    }
}

/// Rows of values as columns: out[e][i] = row(i)[e] * factor; columns that `rows` lacks are 0.
#[inline(always)]
pub fn columns<'a>(rows: impl Iterator<Item = &'a [f32]>, factor: f32, out: &mut [Wide]) {
    out.fill(WIDE_ZERO);
    for (i, row) in rows.enumerate() {
        for (out, value) in out.iter_mut().zip(row) {
            out[i / LANES].0[i % LANES] = value * factor;
        }
    }
}

/// One row of the array that `columns` made.
#[inline(always)]
pub fn row_of(columns: &[Wide], i: usize, out: &mut [f32]) {
    for (out, column) in out.iter_mut().zip(columns) {
        *out = column[i / LANES].0[i % LANES];
    }
}

/// Rows of values as vectors, each row filled up with zeros; rows that are lacking are 0.
#[inline(always)]
pub fn vectors<'a>(rows: impl Iterator<Item = &'a [f32]>, factor: f32, vectors: usize, out: &mut [Lanes]) {
    out.fill(ZERO);
    for (row, out) in rows.zip(out.chunks_exact_mut(vectors)) {
        for (e, value) in row.iter().enumerate() {
            out[e / LANES].0[e % LANES] = value * factor;
        }
    }
}
