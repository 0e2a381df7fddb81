//! Element by element over ranks, in the order of ranks.

use crate::{CommError, Dtype, Element, HostBuffer, Reduce};
use half::{bf16, f16};
use std::ops::Range;

// The sums of so many elements stay in the first cache while one part after the other is added.
const CHUNK: usize = 2048;

/// Combines elements `range` of all parts; sums in `accumulate`, and returns that dtype.
///
/// # Errors
/// [`CommError::Unsupported`] for an accumulation that would lose precision.
pub(crate) fn reduce(
    parts: &[&HostBuffer],
    range: Range<usize>,
    reduce: Reduce,
    accumulate: Option<Dtype>,
    operation: &dyn std::fmt::Display,
    transport: &'static str,
) -> Result<HostBuffer, CommError> {
    let from = parts[0].dtype();
    let to = accumulate.unwrap_or(from);
    use Dtype::{BF16, F16, F32, F64, I32, I64, U8};
    Ok(match (from, to) {
        (F64, F64) => fold::<f64, f64, _>(parts, range, reduce, |x| x, |sum| sum),
        (F32, F32) => fold::<f32, f32, _>(parts, range, reduce, |x| x, |sum| sum),
        (F32, F64) => fold::<f32, f64, _>(parts, range, reduce, f64::from, |sum| sum),
        (F16, F32) => fold(parts, range, reduce, f16::to_f32, |sum| sum),
        (F16, F64) => fold(parts, range, reduce, f16::to_f64, |sum| sum),
        (BF16, F32) => fold(parts, range, reduce, bf16::to_f32, |sum| sum),
        (BF16, F64) => fold(parts, range, reduce, bf16::to_f64, |sum| sum),
        // Half precision adds up in f32, and is rounded once.
        (F16, F16) => fold(parts, range, reduce, f16::to_f32, f16::from_f32),
        (BF16, BF16) => fold(parts, range, reduce, bf16::to_f32, bf16::from_f32),
        (I64, I64) => fold::<i64, i64, _>(parts, range, reduce, |x| x, |sum| sum),
        (I32, I32) => fold::<i32, i32, _>(parts, range, reduce, |x| x, |sum| sum),
        (I32, I64) => fold::<i32, i64, _>(parts, range, reduce, i64::from, |sum| sum),
        (U8, U8) => fold::<u8, u8, _>(parts, range, reduce, |x| x, |sum| sum),
        (from, to) => {
            return Err(CommError::Unsupported {
                operation: operation.to_string(),
                transport,
                what: format!("a reduction of {from:?} in {to:?}"),
            });
        }
    })
}

/// Numbers that can be combined.
trait Number: Copy + Default + PartialOrd {
    fn plus(self, other: Self) -> Self;
}

macro_rules! number {
    (float $($type:ty),*; integer $($integer:ty),*) => {
        $(impl Number for $type {
            fn plus(self, other: Self) -> Self { self + other }
        })*
        $(impl Number for $integer {
            fn plus(self, other: Self) -> Self { self.wrapping_add(other) }
        })*
    };
}

number!(float f32, f64; integer i32, i64, u8);

fn fold<T: Element, A: Number, O: Element>(
    parts: &[&HostBuffer],
    range: Range<usize>,
    reduce: Reduce,
    widen: impl Fn(T) -> A + Copy,
    round: impl Fn(A) -> O + Copy,
) -> HostBuffer {
    // A NaN is neither larger nor smaller, but must not get lost on the way.
    let nan = |x: A| x.partial_cmp(&x).is_none();
    match reduce {
        Reduce::Sum => fold_with(parts, range, widen, A::plus, round),
        Reduce::Max => {
            let larger = |a, b| if b > a || nan(b) { b } else { a };
            fold_with(parts, range, widen, larger, round)
        }
        Reduce::Min => {
            let smaller = |a, b| if b < a || nan(b) { b } else { a };
            fold_with(parts, range, widen, smaller, round)
        }
    }
}

fn fold_with<T: Element, A: Copy + Default, O: Element>(
    parts: &[&HostBuffer],
    range: Range<usize>,
    widen: impl Fn(T) -> A + Copy,
    combine: impl Fn(A, A) -> A + Copy,
    round: impl Fn(A) -> O + Copy,
) -> HostBuffer {
    let view = |part| T::view(part).expect("signatures with unlike dtypes do not meet");
    let parts: Vec<&[T]> = parts
        .iter()
        .map(|part| &view(part)[range.clone()])
        .collect();
    let mut out = Vec::with_capacity(range.len());
    if let &[a, b] = &parts[..] {
        let pairs = a.iter().zip(b);
        out.extend(pairs.map(|(&a, &b)| round(combine(widen(a), widen(b)))));
        return out.into();
    }
    let (first, rest) = parts.split_first().expect("a communicator has a rank");
    // On the stack: an allocation between the large ones costs the allocator more than the sums.
    let mut sums = [A::default(); CHUNK];
    for start in (0..range.len()).step_by(CHUNK) {
        let chunk = start..range.len().min(start + CHUNK);
        let sums = &mut sums[..chunk.len()];
        for (sum, &x) in sums.iter_mut().zip(&first[chunk.clone()]) {
            *sum = widen(x);
        }
        for part in rest {
            for (sum, &x) in sums.iter_mut().zip(&part[chunk.clone()]) {
                *sum = combine(*sum, widen(x));
            }
        }
        out.extend(sums.iter().map(|&sum| round(sum)));
    }
    out.into()
}
