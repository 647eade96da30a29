//! Sixteen channels at a time, and the few functions that the kernels need of them.
//!
//! Everything is plain IEEE arithmetic on `[f32; 16]` with every fused multiply-add written out, so the compiler may
//! turn it into one AVX-512 register, two AVX2 registers or scalar code, and the bits stay the same. No function of
//! the platform's libm is involved. Everything here must be `#[inline(always)]`: only then is it compiled for the
//! instructions of the kernel that uses it (`Path` in mod.rs).

use std::array::from_fn;
use std::f32::consts::{LN_2, LOG2_E};
use std::ops::{Add, Div, Mul, Sub};

pub const LANES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(64))]
pub struct Lanes(pub [f32; LANES]);

pub const ZERO: Lanes = Lanes([0.0; LANES]);
const ONE: Lanes = Lanes([1.0; LANES]);

macro_rules! lane_by_lane {
    ($trait:ident, $method:ident) => {
        impl $trait for Lanes {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(from_fn(|i| self.0[i].$method(other.0[i])))
            }
        }
    };
}

lane_by_lane!(Add, add);
lane_by_lane!(Sub, sub);
lane_by_lane!(Mul, mul);
lane_by_lane!(Div, div);

impl Lanes {
    #[inline(always)]
    pub fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    /// The first sixteen values, or as many as there are and zeros.
    #[inline(always)]
    pub fn load(values: &[f32]) -> Self {
        if let Some(all) = values.first_chunk::<LANES>() {
            return Self(*all);
        }
        let mut lanes = ZERO;
        for (lane, value) in lanes.0.iter_mut().zip(values) {
            *lane = *value;
        }
        lanes
    }

    /// Writes sixteen values, or as many as fit.
    #[inline(always)]
    pub fn store(self, values: &mut [f32]) {
        if let Some(all) = values.first_chunk_mut::<LANES>() {
            *all = self.0;
        } else {
            for (value, lane) in values.iter_mut().zip(self.0) {
                *value = lane;
            }
        }
    }

    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Self(from_fn(|i| f(self.0[i])))
    }

    /// The larger of each two; other's where either is not a number.
    #[inline(always)]
    pub fn max(self, other: Self) -> Self {
        Self(from_fn(|i| if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] }))
    }

    /// self * factor + term, rounded once.
    #[inline(always)]
    pub fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(from_fn(|i| self.0[i].mul_add(factor.0[i], term.0[i])))
    }

    /// The sum of the lanes, as a tree of fixed shape.
    #[inline(always)]
    pub fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.0;
        let [a, b, c, d, e, f, g, h] = [a + i, b + j, c + k, d + l, e + m, f + n, g + o, h + p];
        let [a, b, c, d] = [a + e, b + f, c + g, d + h];
        (a + c) + (b + d)
    }

    /// 2^x within 1 ulp; 0 below -126.5, infinity above 127.5; NaN stays NaN.
    #[inline(always)]
    pub fn exp2(self) -> Self {
        // Clamped so that the exponent below is 0 (the value 0.0) or 255 (infinity) at the ends.
        let x = self.map(|x| if x < -127.0 { -127.0 } else { x }).map(|x| if x > 128.0 { 128.0 } else { x });
        let (rounded, whole) = x.round();
        exp2_fraction(x - whole) * power_of_two(rounded)
    }

    /// e^x within 1 ulp; 0 below -87.7, infinity above 88.37; NaN stays NaN.
    #[inline(always)]
    pub fn exp(self) -> Self {
        let x = self.map(|x| if x < -88.0 { -88.0 } else { x }).map(|x| if x > 88.7 { 88.7 } else { x });
        let (rounded, whole) = (x * Self::splat(LOG2_E)).round();
        // Cody and Waite: ln 2 in two parts, the first short enough for its product with a whole number to be exact.
        let rest = whole.mul_add(Self::splat(-0.693_359_4), x);
        let rest = whole.mul_add(Self::splat(2.121_944_4e-4), rest);
        exp_fraction(rest) * power_of_two(rounded)
    }

    /// 1 / (1 + e^-x)
    #[inline(always)]
    pub fn sigmoid(self) -> Self {
        ONE / (ONE + self.map(|x| -x).exp())
    }

    /// ln(1 + e^x) and its derivative, within 3 ulp for every x: below -17 it is e^x, not 0.
    #[inline(always)]
    pub fn softplus(self) -> (Self, Self) {
        // One exponential of -|x|, which is at most 1, serves both.
        let e = self.map(|x| -x.abs()).exp();
        // ln(1 + e) = 2 artanh(s) with s = e / (2 + e): odd in s, so it keeps its relative accuracy near 0.
        let s = e / (e + Self::splat(2.0));
        let q = s * s;
        let cubic = horner(q, [0.280_119_93, 0.280_018_03, 0.400_215_27, 0.666_664_2]);
        let ln_1p = (s * q).mul_add(cubic, s + s);
        let value = ln_1p + self.map(|x| if x > 0.0 { x } else { 0.0 });
        let reciprocal = ONE / (ONE + e);
        let smaller = e * reciprocal;
        let slope = Self(from_fn(|i| if self.0[i] >= 0.0 { reciprocal.0[i] } else { smaller.0[i] }));
        (value, slope)
    }

    /// The nearest whole numbers, as bits for `power_of_two` and as floats.
    #[inline(always)]
    fn round(self) -> (Self, Self) {
        let magic = Self::splat(MAGIC);
        let shifted = self + magic;
        (shifted, shifted - magic)
    }
}

/// 1.5 * 2^23: adding it leaves the nearest whole number in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// 2^n for n in -126..=127; 0 for -127 and infinity for 128.
#[inline(always)]
fn power_of_two(shifted: Lanes) -> Lanes {
    shifted.map(|x| f32::from_bits(x.to_bits().wrapping_add(127) << 23))
}

#[inline(always)]
fn horner<const DEGREE: usize>(x: Lanes, highest_first: [f32; DEGREE]) -> Lanes {
    let mut sum = Lanes::splat(highest_first[0]);
    for coefficient in &highest_first[1..] {
        sum = sum.mul_add(x, Lanes::splat(*coefficient));
    }
    sum
}

/// 2^x for |x| <= 1/2: minimax of the relative error (2.0e-9) with a constant term of 1.
#[inline(always)]
fn exp2_fraction(x: Lanes) -> Lanes {
    horner(x, [1.535_336e-4, 1.339_887_5e-3, 9.618_437e-3, 5.550_332_4e-2, 0.240_226_48, LN_2, 1.0])
}

/// e^x for |x| <= ln(2)/2: minimax of the relative error (3.1e-9) with constant and linear terms of 1.
#[inline(always)]
fn exp_fraction(x: Lanes) -> Lanes {
    horner(x, [1.381_455_8e-3, 8.368_736e-3, 4.166_839e-2, 0.166_665_21, 0.499_999_94, 1.0, 1.0])
}
