//! A video in host memory as a window sees it: with zeros around it, enlarged, or with gaps.

use crate::real::Real;

/// Frames of `rows * cols * channels` elements each, of one sample after the other.
#[derive(Clone, Copy)]
pub(super) struct Video<'a, T> {
    /// `frames` frames a sample, behind `earlier_frames` others.
    pub(super) data: &'a [T],
    pub(super) frames: usize,
    pub(super) earlier: &'a [T],
    pub(super) earlier_frames: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) channels: usize,
    /// Each pixel stands for a square of so many.
    pub(super) enlarge: usize,
    /// Frames, rows and columns lie so far apart, and between them are zeros.
    pub(super) apart: [usize; 3],
}

impl<'a, T: Real> Video<'a, T> {
    /// A frame of a sample; none where all is zero.
    pub(super) fn frame(&self, sample: usize, at: isize) -> Option<&'a [T]> {
        let at = place(at, self.apart[0], 1, self.earlier_frames + self.frames)?;
        let len = self.rows * self.cols * self.channels;
        let (data, at) = match at.checked_sub(self.earlier_frames) {
            None => (self.earlier, sample * self.earlier_frames + at),
            Some(at) => (self.data, sample * self.frames + at),
        };
        Some(&data[at * len..][..len])
    }

    /// Copies the pixels of row `at` of a frame, from column `from` on, to `line`.
    pub(super) fn copy_row(&self, frame: &[T], at: isize, from: isize, line: &mut [T]) {
        let c = self.channels;
        let Some(at) = place(at, self.apart[1], self.enlarge, self.rows) else {
            return line.fill(T::ZERO);
        };
        let row = &frame[at * self.cols * c..][..self.cols * c];
        if self.enlarge == 1 && self.apart[2] == 1 {
            let columns = line.len() / c;
            // The part of the line that lies in the row.
            let start = from.min(0).unsigned_abs().min(columns);
            let skipped = from.max(0).unsigned_abs().min(self.cols);
            let len = (columns - start).min(self.cols - skipped);
            line[..start * c].fill(T::ZERO);
            line[start * c..][..len * c].copy_from_slice(&row[skipped * c..][..len * c]);
            line[(start + len) * c..].fill(T::ZERO);
            return;
        }
        for (x, pixel) in line.chunks_exact_mut(c).enumerate() {
            match place(from + x as isize, self.apart[2], self.enlarge, self.cols) {
                Some(at) => pixel.copy_from_slice(&row[at * c..][..c]),
                None => pixel.fill(T::ZERO),
            }
        }
    }
}

/// Where an element lies that is seen at `at`, of `len` elements that are `apart` or enlarged.
fn place(at: isize, apart: usize, enlarge: usize, len: usize) -> Option<usize> {
    let at = usize::try_from(at).ok()?;
    if at % apart != 0 {
        return None;
    }
    Some(at / apart / enlarge).filter(|&at| at < len)
}
