//! The few bits of an H.264 stream that must be known before decoding it: what the sequence
//! parameter set says of size, sampling and colour (ITU-T H.264, 7.3.2.1.1 and annex E).

use crate::MediaError;
use crate::yuv::Colour;

/// What a sequence parameter set says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sequence {
    /// Visible `[height, width]` in pixels.
    pub(crate) size: [usize; 2],
    pub(crate) colour: Colour,
}

/// The type of a NAL unit: 7 is a sequence parameter set, 8 a picture parameter set.
pub(crate) fn nal_type(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |byte| byte & 31)
}

/// Reads a sequence parameter set (a NAL unit without start code).
///
/// # Errors
/// `Unsupported` for what the decoder cannot decode, `Damaged` for a set that ends too early.
pub(crate) fn sequence(nal: &[u8]) -> Result<Sequence, MediaError> {
    let rbsp = without_emulation(nal.get(1..).unwrap_or_default());
    let mut bits = Bits {
        bytes: &rbsp,
        at: 0,
    };
    let profile = bits.read(8)?;
    bits.read(16)?;
    bits.ue()?;
    if matches!(
        profile,
        100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135
    ) {
        let chroma = bits.ue()?;
        if chroma != 1 {
            let name = ["4:0:0 (gray)", "", "4:2:2", "4:4:4"].get(chroma as usize);
            return Err(unsupported(format!(
                "H.264 with {} chroma",
                name.unwrap_or(&"unknown")
            )));
        }
        let depth = 8 + bits.ue()?.max(bits.ue()?);
        if depth != 8 {
            return Err(unsupported(format!("H.264 with {depth} bits a sample")));
        }
        bits.read(1)?;
        if bits.flag()? {
            for list in 0..8 {
                if bits.flag()? {
                    scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.ue()?;
    match bits.ue()? {
        0 => _ = bits.ue()?,
        1 => {
            bits.read(1)?;
            bits.ue()?;
            bits.ue()?;
            for _ in 0..bits.ue()?.min(255) {
                bits.ue()?;
            }
        }
        _ => {}
    }
    bits.ue()?;
    bits.read(1)?;
    let width = (u64::from(bits.ue()?) + 1) * 16;
    let height = (u64::from(bits.ue()?) + 1) * 16;
    if !bits.flag()? {
        return Err(unsupported("interlaced H.264".into()));
    }
    bits.read(1)?;
    let mut cut = [0u64; 4];
    if bits.flag()? {
        for side in &mut cut {
            *side = 2 * u64::from(bits.ue()?);
        }
    }
    let [left, right, top, bottom] = cut;
    let size = [
        height.checked_sub(top + bottom),
        width.checked_sub(left + right),
    ];
    let [Some(height @ 2..=MAX_SIDE), Some(width @ 2..=MAX_SIDE)] = size else {
        return Err(MediaError::damaged(
            "H.264",
            format!("a picture of {width}x{height} with {cut:?} cut off its sides"),
        ));
    };
    let size = [height as usize, width as usize];
    let colour = if bits.flag()? {
        vui_colour(&mut bits)?
    } else {
        Signal::default()
    };
    Ok(Sequence {
        size,
        colour: colour.resolve(size)?,
    })
}

// The side of the largest picture of level 6.2.
const MAX_SIDE: u64 = 16_888;

/// What the stream says of its colour; `2` is "unspecified".
pub(crate) struct Signal {
    pub(crate) matrix: u32,
    pub(crate) full_range: bool,
}

impl Default for Signal {
    fn default() -> Self {
        Self {
            matrix: 2,
            full_range: false,
        }
    }
}

impl Signal {
    /// The conversion that it asks for, or that players choose for a picture of this size.
    pub(crate) fn resolve(self, size: [usize; 2]) -> Result<Colour, MediaError> {
        let colour = match self.matrix {
            1 => Colour::BT709,
            4..=6 => Colour::BT601,
            7 => Colour {
                weights: [0.212, 0.087],
                ..Colour::BT709
            },
            9 => Colour {
                weights: [0.2627, 0.0593],
                ..Colour::BT709
            },
            // What players do with streams that do not say.
            2 | 3 if size[0] >= 720 => Colour::BT709,
            2 | 3 => Colour::BT601,
            other => return Err(unsupported(format!("H.264 with colour matrix {other}"))),
        };
        Ok(Colour {
            full_range: self.full_range,
            ..colour
        })
    }
}

fn vui_colour(bits: &mut Bits<'_>) -> Result<Signal, MediaError> {
    if bits.flag()? && bits.read(8)? == 255 {
        bits.read(32)?;
    }
    if bits.flag()? {
        bits.read(1)?;
    }
    let mut signal = Signal::default();
    if bits.flag()? {
        bits.read(3)?;
        signal.full_range = bits.flag()?;
        if bits.flag()? {
            bits.read(16)?;
            signal.matrix = bits.read(8)?;
        }
    }
    Ok(signal)
}

fn scaling_list(bits: &mut Bits<'_>, length: usize) -> Result<(), MediaError> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..length {
        if next != 0 {
            next = (last + bits.se()?).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Ok(())
}

fn unsupported(what: String) -> MediaError {
    MediaError::Unsupported {
        what,
        help: "build with --features ffmpeg, or convert it to progressive 8-bit 4:2:0, e.g. ffmpeg -i in.mp4 -c:v libx264 -pix_fmt yuv420p out.mp4",
    }
}

/// The payload without the bytes that keep start codes from appearing in it.
fn without_emulation(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len());
    let mut zeros = 0;
    for &byte in nal {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn read(&mut self, count: u32) -> Result<u32, MediaError> {
        let mut value = 0u64;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or_else(|| {
                MediaError::damaged("H.264", "the sequence parameter set ends too early")
            })?;
            value = value << 1 | u64::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Ok(value as u32)
    }

    fn flag(&mut self) -> Result<bool, MediaError> {
        Ok(self.read(1)? == 1)
    }

    /// An unsigned Exp-Golomb number.
    fn ue(&mut self) -> Result<u32, MediaError> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return Err(MediaError::damaged(
                    "H.264",
                    "a number of more than 32 bits",
                ));
            }
        }
        Ok(((1u64 << zeros) - 1 + u64::from(self.read(zeros)?)) as u32)
    }

    /// A signed Exp-Golomb number.
    fn se(&mut self) -> Result<i64, MediaError> {
        let code = i64::from(self.ue()?);
        Ok(if code % 2 == 1 {
            (code + 1) / 2
        } else {
            -code / 2
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes bits, for the sets below.
    #[derive(Default)]
    struct Put(Vec<u8>, u32);

    impl Put {
        fn bits(mut self, value: u64, count: u32) -> Self {
            for i in (0..count).rev() {
                if self.1.is_multiple_of(8) {
                    self.0.push(0);
                }
                *self.0.last_mut().unwrap() |= ((value >> i & 1) as u8) << (7 - self.1 % 8);
                self.1 += 1;
            }
            self
        }

        fn ue(self, value: u64) -> Self {
            let length = (value + 1).ilog2();
            self.bits(value + 1, 2 * length + 1)
        }

        fn nal(self) -> Vec<u8> {
            [vec![0x67], self.bits(1, 1).0].concat()
        }
    }

    fn high(chroma: u64, depth: u64, progressive: u64) -> Vec<u8> {
        Put::default()
            .bits(100, 8)
            .bits(0, 8)
            .bits(40, 8)
            .ue(0)
            .ue(chroma)
            .ue(depth - 8)
            .ue(depth - 8)
            .bits(0, 2)
            .ue(0)
            .ue(2)
            .ue(4)
            .bits(0, 1)
            .ue(119)
            .ue(67)
            .bits(progressive, 1)
            .bits(1, 1)
            // Cropping: 1920 x 1088 less 8 rows.
            .bits(1, 1)
            .ue(0)
            .ue(0)
            .ue(0)
            .ue(4)
            // Colour: limited range, matrix 1.
            .bits(1, 1)
            .bits(0, 2)
            .bits(1, 1)
            .bits(5, 3)
            .bits(0, 1)
            .bits(1, 1)
            .bits(1, 8)
            .bits(1, 8)
            .bits(1, 8)
            .bits(0, 8)
            .nal()
    }

    #[test]
    fn a_full_hd_set_is_read() {
        let sequence = sequence(&high(1, 8, 1)).unwrap();
        assert_eq!(
            sequence,
            Sequence {
                size: [1080, 1920],
                colour: Colour::BT709
            }
        );
    }

    #[test]
    fn what_cannot_be_decoded_is_refused_by_name() {
        for (nal, name) in [
            (high(3, 8, 1), "4:4:4"),
            (high(2, 8, 1), "4:2:2"),
            (high(1, 10, 1), "10 bits"),
            (high(1, 8, 0), "interlaced"),
        ] {
            let error = sequence(&nal).unwrap_err();
            assert!(matches!(error, MediaError::Unsupported { .. }));
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_cut_set_is_an_error() {
        let nal = high(1, 8, 1);
        for length in 0..nal.len() - 3 {
            assert!(sequence(&nal[..length]).is_err(), "{length} bytes");
        }
    }
}
