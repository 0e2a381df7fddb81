//! Floats of one dtype as those of another.

use half::{bf16, f16};

use crate::Dtype;

/// Rounds numbers to the nearest of another dtype, ties to even.
///
/// # Errors
/// The first finite number that would become infinite.
///
/// # Panics
/// If a dtype is not one of floats, which the caller has looked at.
pub(super) fn round(bytes: Vec<u8>, from: Dtype, to: Dtype) -> Result<Vec<u8>, f64> {
    if from == to {
        return Ok(bytes);
    }
    match from {
        Dtype::F64 => write(bytes.as_chunks().0, |eight| f64::from_le_bytes(*eight), to),
        Dtype::F32 => write(
            bytes.as_chunks().0,
            |four| f64::from(f32::from_le_bytes(*four)),
            to,
        ),
        Dtype::BF16 => write(
            bytes.as_chunks().0,
            |two| bf16::from_le_bytes(*two).to_f64(),
            to,
        ),
        Dtype::F16 => write(
            bytes.as_chunks().0,
            |two| f16::from_le_bytes(*two).to_f64(),
            to,
        ),
        _ => panic!("{from} is not a dtype of floats"),
    }
}

fn write<const N: usize>(
    numbers: &[[u8; N]],
    read: impl Fn(&[u8; N]) -> f64,
    to: Dtype,
) -> Result<Vec<u8>, f64> {
    let numbers = numbers.iter().map(read);
    match to {
        Dtype::F64 => put(numbers, |x| (x.to_le_bytes(), x.is_infinite())),
        Dtype::F32 => put(numbers, |x| {
            let y = x as f32;
            (y.to_le_bytes(), y.is_infinite())
        }),
        Dtype::BF16 => put(numbers, |x| {
            let y = bf16::from_f32(odd(x));
            (y.to_le_bytes(), y.is_infinite())
        }),
        Dtype::F16 => put(numbers, |x| {
            let y = f16::from_f32(odd(x));
            (y.to_le_bytes(), y.is_infinite())
        }),
        _ => panic!("{to} is not a dtype of floats"),
    }
}

fn put<const N: usize>(
    numbers: impl ExactSizeIterator<Item = f64>,
    round: impl Fn(f64) -> ([u8; N], bool),
) -> Result<Vec<u8>, f64> {
    let mut out = Vec::with_capacity(numbers.len() * N);
    for number in numbers {
        let (bytes, infinite) = round(number);
        if infinite && number.is_finite() {
            return Err(number);
        }
        out.extend_from_slice(&bytes);
    }
    Ok(out)
}

/// A number as F32, inexact ones with an odd last bit. Rounded once more to 16 bits, the result is as
/// if it had been rounded once (Boldo and Melquiond, Emulation of FMA and correctly rounded sums, 2008);
/// the crate half drops the lowest bits of F64 instead.
fn odd(x: f64) -> f32 {
    let y = x as f32;
    if f64::from(y) == x || !y.is_finite() {
        return y;
    }
    let away = f64::from(y).abs() > x.abs();
    f32::from_bits((y.to_bits() - u32::from(away)) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn numbers_round_to_the_nearest_and_ties_to_even() {
        // BF16 has 8 bits of mantissa: 1 + 1/256 is halfway between 1 and 1 + 1/128.
        let numbers = [
            1.0,
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
            -0.1,
            f32::INFINITY,
            1e-40,
        ];
        let out = round(bytes(&numbers), Dtype::F32, Dtype::BF16).unwrap();
        let out: Vec<u16> = out
            .as_chunks()
            .0
            .iter()
            .map(|two| u16::from_le_bytes(*two))
            .collect();
        assert_eq!(out, [0x3f80, 0x3f80, 0x3f82, 0xbdcd, 0x7f80, 0x0001]);
        // Through F32, this would round up twice: it is a little less than the half.
        let near = (1.0 + 1.0 / 256.0 - 1e-12_f64).to_le_bytes().to_vec();
        assert_eq!(round(near, Dtype::F64, Dtype::BF16).unwrap(), [0x80, 0x3f]);
        let above = (1.0 + 1.0 / 256.0 + 1e-12_f64).to_le_bytes().to_vec();
        assert_eq!(round(above, Dtype::F64, Dtype::BF16).unwrap(), [0x81, 0x3f]);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let error = round(bytes(&[1.0, 70_000.0]), Dtype::F32, Dtype::F16).unwrap_err();
        assert_eq!(error, 70_000.0);
        let infinite = round(bytes(&[f32::NEG_INFINITY]), Dtype::F32, Dtype::F16).unwrap();
        assert_eq!(infinite, [0x00, 0xfc]);
        let nan = round(bytes(&[f32::NAN]), Dtype::F32, Dtype::F16).unwrap();
        assert!(f16::from_le_bytes([nan[0], nan[1]]).is_nan());
    }

    #[test]
    fn wider_floats_hold_the_same_numbers() {
        let half: Vec<u8> = [0x3e, 0x01, 0xff, 0xc2].to_vec();
        let wide = round(half.clone(), Dtype::F16, Dtype::F32).unwrap();
        assert_eq!(round(wide, Dtype::F32, Dtype::F16).unwrap(), half);
        let wide = round(half.clone(), Dtype::BF16, Dtype::F64).unwrap();
        assert_eq!(round(wide, Dtype::F64, Dtype::BF16).unwrap(), half);
    }
}
