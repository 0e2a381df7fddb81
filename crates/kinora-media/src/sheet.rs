//! Contact sheets: clips as rows of frames in one picture, for people to look at.

use crate::font::{self, glyph};
use crate::{Clip, MediaError, encode_png};

/// Pixels between frames and around the sheet.
const MARGIN: usize = 8;
/// The sheet is at least this wide, so that captions have room.
const LEAST_WIDTH: usize = 320;
/// Pixels of the sheet to a pixel of the font.
const ZOOM: usize = 2;
/// Lines that a caption may take.
const LINES: usize = 3;

const PAPER: u8 = 250;
const INK: u8 = 30;

/// A PNG with a row for each clip: `frames_per_row` frames, evenly spaced from the first to the last
/// (all of them if the clip has fewer), each pixel `scale` pixels wide, with the caption below.
///
/// # Errors
/// If there is no row, `frames_per_row` or `scale` is zero, or the sheet would have a side of more
/// than 32,768 pixels.
pub fn contact_sheet(
    rows: &[(String, Clip)],
    frames_per_row: usize,
    scale: usize,
) -> Result<Vec<u8>, MediaError> {
    if rows.is_empty() || frames_per_row == 0 || scale == 0 {
        return Err(MediaError::size(format!(
            "a sheet of {} rows of {frames_per_row} frames at scale {scale} is empty",
            rows.len()
        )));
    }
    let row_width = |clip: &Clip| {
        let shown = clip.frames.min(frames_per_row);
        shown * (clip.width * scale + MARGIN) + MARGIN
    };
    let width = rows
        .iter()
        .map(|(_, clip)| row_width(clip))
        .max()
        .unwrap_or(0)
        .max(LEAST_WIDTH);
    let letters = (width - 2 * MARGIN) / ((font::WIDTH + 1) * ZOOM);
    let line_height = (font::HEIGHT + 2) * ZOOM;
    let captions: Vec<Vec<String>> = rows
        .iter()
        .map(|(caption, _)| wrap(caption, letters))
        .collect();
    let height = MARGIN
        + rows
            .iter()
            .zip(&captions)
            .map(|((_, clip), lines)| {
                clip.height * scale + MARGIN / 2 + lines.len() * line_height + MARGIN
            })
            .sum::<usize>();
    if width.max(height) > 32_768 {
        return Err(MediaError::size(format!(
            "a sheet of {width}x{height} pixels: show fewer clips or frames, or a smaller scale"
        )));
    }
    let mut sheet = Sheet {
        width,
        rgb: vec![PAPER; height * width * 3],
    };
    let mut y = MARGIN;
    for ((_, clip), lines) in rows.iter().zip(&captions) {
        for (column, index) in spaced(clip.frames, frames_per_row).enumerate() {
            let x = MARGIN + column * (clip.width * scale + MARGIN);
            sheet.frame(clip, index, scale, [y, x]);
        }
        y += clip.height * scale + MARGIN / 2;
        for line in lines {
            sheet.line(line, [y, MARGIN]);
            y += line_height;
        }
        y += MARGIN;
    }
    encode_png(&sheet.rgb, height, width)
}

/// At most `count` of `frames` frames, evenly spaced, the first and the last among them.
fn spaced(frames: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(frames);
    (0..count).map(move |i| {
        if count == 1 {
            0
        } else {
            i * (frames - 1) / (count - 1)
        }
    })
}

/// A caption in lines of at most `letters` letters, broken at blanks where there are any.
fn wrap(caption: &str, letters: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in caption.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        while !word.is_empty() {
            let line = lines.last_mut().expect("there is always a line");
            let used = line.chars().count();
            let blank = usize::from(used > 0);
            if used + blank + word.len() <= letters {
                line.extend([' '].iter().take(blank));
                line.extend(word.drain(..));
            } else if used > 0 {
                lines.push(String::new());
            } else {
                line.extend(word.drain(..letters));
            }
        }
    }
    lines.truncate(LINES);
    lines
}

/// The picture so far, `[H, W, 3]`.
struct Sheet {
    width: usize,
    rgb: Vec<u8>,
}

impl Sheet {
    fn pixel(&mut self, y: usize, x: usize) -> &mut [u8] {
        &mut self.rgb[(y * self.width + x) * 3..][..3]
    }

    fn frame(&mut self, clip: &Clip, index: usize, scale: usize, [top, left]: [usize; 2]) {
        let frame = clip.frame(index);
        for y in 0..clip.height * scale {
            for x in 0..clip.width * scale {
                let from = ((y / scale) * clip.width + x / scale) * 3;
                self.pixel(top + y, left + x)
                    .copy_from_slice(&frame[from..][..3]);
            }
        }
    }

    fn line(&mut self, line: &str, [top, left]: [usize; 2]) {
        for (letter, character) in line.chars().enumerate() {
            let left = left + letter * (font::WIDTH + 1) * ZOOM;
            for (row, bits) in glyph(character).into_iter().enumerate() {
                for column in (0..font::WIDTH).filter(|c| bits >> (font::WIDTH - 1 - c) & 1 == 1) {
                    for (dy, dx) in (0..ZOOM).flat_map(|dy| (0..ZOOM).map(move |dx| (dy, dx))) {
                        self.pixel(top + row * ZOOM + dy, left + column * ZOOM + dx)
                            .fill(INK);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    fn clip(frames: usize, height: usize, width: usize) -> Clip {
        let rgb = (0..frames)
            .flat_map(|t| vec![t as u8 * 10; height * width * 3])
            .collect();
        Clip {
            frames,
            height,
            width,
            fps: 8.0,
            rgb,
        }
    }

    #[test]
    fn frames_lie_where_they_should() {
        let rows = [
            ("a red circle".to_owned(), clip(16, 32, 40)),
            (String::new(), clip(1, 8, 8)),
        ];
        let sheet = decode(&contact_sheet(&rows, 4, 2).unwrap()).unwrap();
        assert_eq!(sheet.width, 4 * (80 + MARGIN) + MARGIN);
        let at = |y: usize, x: usize| sheet.rgb[(y * sheet.width + x) * 3];
        for (column, frame) in [0, 5, 10, 15].into_iter().enumerate() {
            let left = MARGIN + column * (80 + MARGIN);
            assert_eq!(
                [at(MARGIN, left), at(MARGIN + 63, left + 79)],
                [frame * 10; 2]
            );
            assert_eq!([at(MARGIN, left - 1), at(MARGIN + 64, left)], [PAPER; 2]);
        }
        assert!(sheet.rgb.contains(&INK), "the caption is there");
    }

    #[test]
    fn captions_are_wrapped_and_never_lost_before_the_last_line() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("", 4), [""]);
        assert_eq!(wrap("a b c d e f g h", 1).len(), LINES);
    }

    #[test]
    fn an_empty_sheet_is_an_error() {
        assert!(contact_sheet(&[], 4, 1).is_err());
        assert!(contact_sheet(&[(String::new(), clip(1, 1, 1))], 4, 0).is_err());
    }
}
