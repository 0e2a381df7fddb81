//! What causal layers remember of the frames before: the state of a video that goes through a model in
//! parts.

use burn::tensor::Tensor;

/// The state of a pass through layers that look back in time. Each layer has an entry, in the order in
/// which the layers are run; a part of the video begins with [`Recall::rewind`].
///
/// Its size does not depend on how long the video is.
#[derive(Clone, Debug)]
pub struct Recall {
    entries: Vec<Option<Tensor<5>>>,
    at: usize,
    parts: usize,
    keeps: bool,
    rows: usize,
}

impl Recall {
    /// The state before the first part of a video that has `rows` rows in all where frames attend to
    /// themselves.
    pub fn new(rows: usize) -> Self {
        Self {
            entries: vec![],
            at: 0,
            parts: 0,
            keeps: true,
            rows,
        }
    }

    /// That of a video that comes in one part: nothing is kept.
    pub fn whole(rows: usize) -> Self {
        Self {
            keeps: false,
            ..Self::new(rows)
        }
    }

    /// Begins the next part of the video.
    pub fn rewind(&mut self) {
        self.at = 0;
        self.parts += 1;
    }

    /// Whether this part is the beginning of the video.
    pub fn is_first(&self) -> bool {
        self.parts <= 1
    }

    /// Rows of the whole frame where frames attend to themselves.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// What the layer whose turn it is kept of the part before, `[B, T, H, W, C]`. It must call
    /// [`Recall::keep`] next.
    pub(crate) fn earlier(&mut self) -> Option<Tensor<5>> {
        if self.entries.len() == self.at {
            self.entries.push(None);
        }
        self.entries[self.at].take()
    }

    /// Keeps the last `frames` frames of `earlier` and `x` for the next part, and ends the layer's turn.
    pub(crate) fn keep(&mut self, earlier: Option<&Tensor<5>>, x: &Tensor<5>, frames: usize) {
        if self.keeps {
            self.entries[self.at] = last(earlier, x, frames);
        }
        self.at += 1;
    }

    /// A layer without frames to look at has its turn.
    pub fn skip(&mut self) {
        self.earlier();
        self.at += 1;
    }
}

fn last(earlier: Option<&Tensor<5>>, x: &Tensor<5>, frames: usize) -> Option<Tensor<5>> {
    let n = x.dims()[1];
    if n >= frames {
        // A copy: a view would keep the whole part in memory.
        return Some(x.clone().narrow(1, n - frames, frames).mul_scalar(1.0));
    }
    let Some(earlier) = earlier else {
        return Some(x.clone().mul_scalar(1.0));
    };
    let before = earlier.dims()[1].min(frames - n);
    let earlier = earlier.clone();
    let start = earlier.dims()[1] - before;
    Some(Tensor::cat(
        vec![earlier.narrow(1, start, before), x.clone()],
        1,
    ))
}
