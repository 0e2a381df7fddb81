//! Where decoded pictures go: each frame that is wanted, cropped and resized, in its places.

use crate::clip::Fitter;
use crate::decoder::check_memory;
use crate::{Clip, MediaError, Window};

/// Collects the frames of a window as they come out of a decoder, in the order they are shown.
pub(crate) struct Sink<'a> {
    /// The frame of each place, never falling.
    wanted: &'a [usize],
    /// The place to fill next.
    next: usize,
    /// `[height, width]` of what is returned.
    size: [usize; 2],
    window: &'a Window,
    fitter: &'a mut Fitter,
    out: Vec<u8>,
    /// Takes each frame as it comes, if they are not to be kept.
    deliver: Option<&'a mut Deliver<'a>>,
}

/// Takes the number of a frame and its pixels `[H, W, 3]`.
pub(crate) type Deliver<'a> = dyn FnMut(usize, &[u8]) + 'a;

impl<'a> Sink<'a> {
    /// For a clip whose upright pictures are of `[height, width]`.
    ///
    /// # Errors
    /// If what is returned would take too much memory.
    pub(crate) fn new(
        wanted: &'a [usize],
        window: &'a Window,
        upright: [usize; 2],
        fitter: &'a mut Fitter,
    ) -> Result<Self, MediaError> {
        let size = window.size.unwrap_or(upright);
        check_memory(wanted.len(), size)?;
        Ok(Self {
            wanted,
            next: 0,
            size,
            window,
            fitter,
            out: Vec::new(),
            deliver: None,
        })
    }

    /// As [`Sink::new`], for frames that are handed on, one by one, and not kept, so that a clip may
    /// be of any length.
    pub(crate) fn handing_on(
        wanted: &'a [usize],
        window: &'a Window,
        upright: [usize; 2],
        fitter: &'a mut Fitter,
        deliver: &'a mut Deliver<'a>,
    ) -> Result<Self, MediaError> {
        let one = &wanted[..wanted.len().min(1)];
        let sink = Self::new(one, window, upright, fitter)?;
        Ok(Self {
            wanted,
            deliver: Some(deliver),
            ..sink
        })
    }

    /// The frame that is waited for, or `None` once all are there.
    pub(crate) fn next(&self) -> Option<usize> {
        self.wanted.get(self.next).copied()
    }

    /// Fills the places of the frame that is waited for with what `draw` paints. `draw` takes the
    /// size and the place of the cut-out, and the memory to paint into.
    pub(crate) fn put(
        &mut self,
        draw: impl FnOnce(&mut Fitter, &Window, [usize; 2], &mut [u8]) -> Result<(), MediaError>,
    ) -> Result<(), MediaError> {
        let Some(frame) = self.next() else {
            return Ok(());
        };
        let bytes = self.size[0] * self.size[1] * 3;
        if self.out.is_empty() {
            // Only now: a damaged header may promise sizes that no picture ever has.
            let kept = if self.deliver.is_some() {
                1
            } else {
                self.wanted.len()
            };
            self.out.reserve_exact(bytes * kept);
        }
        let start = self.out.len();
        self.out.resize(start + bytes, 0);
        draw(self.fitter, self.window, self.size, &mut self.out[start..])?;
        self.next += 1;
        if let Some(deliver) = &mut self.deliver {
            deliver(frame, &self.out);
            self.out.clear();
            while self.next() == Some(frame) {
                self.next += 1;
            }
            return Ok(());
        }
        while self.next() == Some(frame) {
            self.out.extend_from_within(start..start + bytes);
            self.next += 1;
        }
        Ok(())
    }

    /// The clip. Panics if frames are missing, or were handed on.
    pub(crate) fn finish(self, fps: f64) -> Clip {
        assert!(self.next().is_none(), "frames are missing");
        Clip {
            frames: self.wanted.len(),
            height: self.size[0],
            width: self.size[1],
            fps,
            rgb: self.out,
        }
    }
}
