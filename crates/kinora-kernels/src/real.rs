//! The element types that kernels on the CPU are written for, with what the processor does not have as an
//! instruction: an exponential that the compiler can turn into vector code.

use burn::backend::flex::FlexTensor;
use burn::tensor::Element;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

/// `f32` or `f64`.
pub(crate) trait Real:
    Element
    + Copy
    + Send
    + Sync
    + PartialOrd
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + MulAssign
    + Div<Output = Self>
    + Neg<Output = Self>
    + Sum
    + 'static
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;

    /// The nearest number of this type.
    fn of(value: f64) -> Self;

    /// `e^self`. Relative error below 1e-13 (`f64`) and 3e-7 (`f32`) where the result is a normal number;
    /// 0 and infinity beyond the range; not a number for not a number.
    fn exp(self) -> Self;

    fn abs(self) -> Self;

    fn ln(self) -> Self;

    fn sqrt(self) -> Self;

    /// All elements of the buffer under a tensor of this type, of which the tensor may be a strided view.
    fn storage(tensor: &FlexTensor) -> &[Self];
}

macro_rules! real {
    ($type:ident, $mantissa:expr, $bias:expr, $round:expr, $low:expr, $high:expr,
     $ln2_high:expr, $ln2_low:expr, $series:expr) => {
        impl Real for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = $type::NEG_INFINITY;

            fn of(value: f64) -> Self {
                value as $type
            }

            #[inline(always)]
            fn exp(self) -> Self {
                // Comparisons in this order let a NaN through.
                let x = if self < $low { $low } else { self };
                let x = if x > $high { $high } else { x };
                // Adding and taking away 1.5 * 2^mantissa rounds to a whole number, and leaves that
                // number in the low bits of the sum.
                let n = (x * std::f64::consts::LOG2_E as $type + $round) - $round;
                let r = n.mul_add(-$ln2_low, n.mul_add(-$ln2_high, x));
                let mut sum: $type = 0.0;
                for factor in $series {
                    sum = sum.mul_add(r, factor);
                }
                // 2^n in two factors: n may be beyond the exponents of normal numbers.
                let half = (n * 0.5 + $round) - $round;
                let power =
                    |n: $type| $type::from_bits(((n + $round).to_bits() + $bias) << $mantissa);
                sum * power(half) * power(n - half)
            }

            #[inline(always)]
            fn abs(self) -> Self {
                $type::abs(self)
            }

            fn ln(self) -> Self {
                $type::ln(self)
            }

            fn sqrt(self) -> Self {
                $type::sqrt(self)
            }

            fn storage(tensor: &FlexTensor) -> &[Self] {
                tensor.storage::<$type>()
            }
        }
    };
}

// The series is Taylor's: on [-ln 2 / 2, ln 2 / 2] its next term is below a tenth of the rounding error.
real!(
    f32,
    23,
    127,
    12_582_912.0f32,
    -105.0f32,
    89.0f32,
    0.693_359_4f32,
    -2.121_944_4e-4f32,
    [
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0
    ]
);
real!(
    f64,
    52,
    1023,
    6_755_399_441_055_744.0f64,
    -746.0f64,
    710.0f64,
    0.693_147_180_369_123_8f64,
    1.908_214_929_270_587_7e-10f64,
    [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0
    ]
);

/// Runs a loop compiled for the widest vectors that the processor is known to have. The closure must be
/// `#[inline(always)]`, and so must what it calls: only then is it compiled as part of this function.
#[inline]
pub(crate) fn vectorised<R>(run: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    return x86::vectorised(run);
    #[cfg(not(target_arch = "x86_64"))]
    run()
}

#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "a function compiled for more than the baseline is unsafe to call"
)]
mod x86 {
    #[inline]
    pub(super) fn vectorised<R>(run: impl FnOnce() -> R) -> R {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both features that the function is compiled for.
            unsafe { with_avx2(run) }
        } else {
            run()
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn with_avx2<R>(run: impl FnOnce() -> R) -> R {
        run()
    }
}

// Sums are kept in this many lanes, so that they are vector code, and the same on every machine.
const LANES: usize = 16;

/// The sum of the elements.
#[inline(always)]
pub(crate) fn total<T: Real>(a: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest: T = chunks.remainder().iter().copied().sum();
    for a in chunks {
        for at in 0..LANES {
            lanes[at] += a[at];
        }
    }
    lanes.into_iter().sum::<T>() + rest
}

/// The sum of the products of the elements of two slices of one length.
#[inline(always)]
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: T = (a.remainder().iter().zip(b.remainder()))
        .map(|(&a, &b)| a * b)
        .sum();
    for (a, b) in a.zip(b) {
        for at in 0..LANES {
            lanes[at] += a[at] * b[at];
        }
    }
    lanes.into_iter().sum::<T>() + rest
}

/// The sum of the products of the elements of three slices of one length.
#[inline(always)]
pub(crate) fn dot3<T: Real>(a: &[T], b: &[T], c: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (a, b, c) = (
        a.chunks_exact(LANES),
        b.chunks_exact(LANES),
        c.chunks_exact(LANES),
    );
    let rest: T = (a.remainder().iter().zip(b.remainder()).zip(c.remainder()))
        .map(|((&a, &b), &c)| a * b * c)
        .sum();
    for ((a, b), c) in a.zip(b).zip(c) {
        for at in 0..LANES {
            lanes[at] += a[at] * b[at] * c[at];
        }
    }
    lanes.into_iter().sum::<T>() + rest
}

/// The largest element, negative infinity for none.
#[inline(always)]
pub(crate) fn largest<T: Real>(a: &[T]) -> T {
    let mut lanes = [T::NEG_INFINITY; LANES];
    let max = |a: T, b: T| if a > b { a } else { b };
    let chunks = a.chunks_exact(LANES);
    let rest = (chunks.remainder().iter()).fold(T::NEG_INFINITY, |m, &a| max(m, a));
    for a in chunks {
        for at in 0..LANES {
            lanes[at] = max(lanes[at], a[at]);
        }
    }
    lanes.into_iter().fold(rest, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_exact() {
        let mut worst = (0.0f64, 0.0f64);
        for step in 0..400_000 {
            let x = -708.0 + step as f64 * (1417.0 / 400_000.0);
            let (mine, exact) = (
                vectorised(
                    #[inline(always)]
                    || Real::exp(x),
                ),
                x.exp(),
            );
            worst.0 = worst.0.max(((mine - exact) / exact).abs());
            let x = (-87.0 + step as f64 * (175.0 / 400_000.0)) as f32;
            let (mine, exact) = (
                vectorised(
                    #[inline(always)]
                    || Real::exp(x),
                ) as f64,
                (x as f64).exp(),
            );
            worst.1 = worst.1.max(((mine - exact) / exact).abs());
        }
        assert!(worst.0 < 1e-13 && worst.1 < 3e-7, "{worst:?}");
    }

    #[test]
    fn exponentials_of_the_ends_of_the_range() {
        for (x, exact) in [
            (f64::NEG_INFINITY, 0.0),
            (-1e300, 0.0),
            (0.0, 1.0),
            (f64::INFINITY, f64::INFINITY),
        ] {
            assert_eq!(Real::exp(x), exact);
            assert_eq!(Real::exp(x as f32), exact as f32);
        }
        assert!(Real::exp(f64::NAN).is_nan() && Real::exp(f32::NAN).is_nan());
        // Below the normal numbers what is left is absolute precision.
        assert!((Real::exp(-100.0f32) - (-100.0f32).exp()).abs() < 2e-45);
        assert!((Real::exp(-740.0f64) - (-740.0f64).exp()).abs() < 1e-323);
    }

    #[test]
    fn sums_cover_the_remainder() {
        for n in [0, 1, 15, 16, 17, 77] {
            let a: Vec<f64> = (0..n).map(|i| i as f64 - 5.0).collect();
            assert_eq!(total(&a), a.iter().sum::<f64>());
            assert_eq!(dot(&a, &a), a.iter().map(|a| a * a).sum::<f64>());
            assert_eq!(dot3(&a, &a, &a), a.iter().map(|a| a * a * a).sum::<f64>());
            let max = a.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert_eq!(largest(&a), max);
        }
    }
}
