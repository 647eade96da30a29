//! The products of tile.rs in the 32 registers of AVX-512, which the compiler does not find by itself: the same chains
//! of fused multiply-adds in the same order, so the same bits.
//!
//! Unsafe: the two functions that read and write a vector, of types that are 64 aligned bytes both.
#![allow(unsafe_code)]

use super::lanes::{LANES, Lanes};
use super::tile::{PACK, Wide};
use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_store_ps,
};

#[inline]
#[target_feature(enable = "avx512f")]
fn get(lanes: &Lanes) -> __m512 {
    // SAFETY: a reference to 16 floats, aligned to 64 bytes.
    unsafe { _mm512_load_ps(lanes.0.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn put(lanes: &mut Lanes, value: __m512) {
    // SAFETY: as above.
    unsafe { _mm512_store_ps(lanes.0.as_mut_ptr(), value) }
}

/// sums[n] += a[n] x, for two vectors of x.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_products<const N: usize>(a: &[f32; N], x: &Wide, sums: &mut [[__m512; 2]; N]) {
    let x = [get(&x[0]), get(&x[1])];
    for n in 0..N {
        let a = _mm512_set1_ps(a[n]);
        sums[n] = [_mm512_fmadd_ps(a, x[0], sums[n][0]), _mm512_fmadd_ps(a, x[1], sums[n][1])];
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn scores(packed: &[f32], x: &[Wide], out: &mut [Wide]) {
    for (block, out) in packed.chunks_exact(x.len() * PACK).zip(out.chunks_exact_mut(PACK)) {
        let mut sums = [[_mm512_setzero_ps(); 2]; PACK];
        for (a, x) in block.as_chunks::<PACK>().0.iter().zip(x) {
            add_products(a, x, &mut sums);
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            put(&mut out[0], sums[0]);
            put(&mut out[1], sums[1]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn mix(a: &[f32], p: &[Wide], y: &mut [Wide]) {
    let size = y.len();
    let mut at = 0;
    // Shares of at most 12 rows, as equal as they can be: 24 registers of 32.
    for left in (1..=size.div_ceil(12)).rev() {
        let share = (size - at).div_ceil(left);
        macro_rules! shares {
            ($($count:literal)*) => {
                match share {
                    $($count => mix_share::<$count>(a, at, p, y),)*
                    _ => unreachable!("a share of more than 12"),
                }
            };
        }
        shares!(1 2 3 4 5 6 7 8 9 10 11 12);
        at += share;
    }
}

#[target_feature(enable = "avx512f")]
fn mix_share<const C: usize>(a: &[f32], at: usize, p: &[Wide], y: &mut [Wide]) {
    let size = y.len();
    let mut sums = [[_mm512_setzero_ps(); 2]; C];
    for (sums, y) in sums.iter_mut().zip(&y[at..]) {
        *sums = [get(&y[0]), get(&y[1])];
    }
    for (a, p) in a.chunks_exact(size).zip(p) {
        if let Some(a) = a[at..].first_chunk() {
            add_products::<C>(a, p, &mut sums);
        }
    }
    for (y, sums) in y[at..].iter_mut().zip(sums) {
        put(&mut y[0], sums[0]);
        put(&mut y[1], sums[1]);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn outer(p: &[Wide], x: &[Lanes], vectors: usize, g: &mut [Lanes]) {
    for (p, g) in p.as_chunks::<PACK>().0.iter().zip(g.chunks_exact_mut(PACK * vectors)) {
        let mut at = 0;
        while at < vectors {
            if at + 2 <= vectors {
                outer_share::<2>(p, x, vectors, at, g);
                at += 2;
            } else {
                outer_share::<1>(p, x, vectors, at, g);
                at += 1;
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
fn outer_share<const V: usize>(p: &[Wide; PACK], x: &[Lanes], vectors: usize, at: usize, g: &mut [Lanes]) {
    let mut sums = [[_mm512_setzero_ps(); V]; PACK];
    for half in 0..2 {
        for lane in 0..LANES {
            let row = &x[(half * LANES + lane) * vectors + at..][..V];
            for r in 0..PACK {
                let p = _mm512_set1_ps(p[r][half].0[lane]);
                for v in 0..V {
                    sums[r][v] = _mm512_fmadd_ps(p, get(&row[v]), sums[r][v]);
                }
            }
        }
    }
    for r in 0..PACK {
        for v in 0..V {
            let g = &mut g[r * vectors + at + v];
            put(g, _mm512_add_ps(get(g), sums[r][v]));
        }
    }
}
