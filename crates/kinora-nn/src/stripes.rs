//! Videos cut into stripes of rows, one a rank: where they are cut and joined, and the rows of the
//! neighbours that a window at the edge of a stripe sees.
//!
//! Shapes: `B` samples, `T` frames, `H` rows, `W` columns, `C` channels; channels lie last.

use burn::tensor::Tensor;
use kinora_kernels::op::{Back, custom};
use kinora_mesh::{Axis, part};
use kinora_shard::{Collective, Cx, Group};
use std::sync::Arc;

/// The cut of videos over the ranks that a plan cuts the tokens of a sample over.
#[derive(Clone, Debug)]
pub struct Stripes {
    group: Group,
}

impl Stripes {
    /// The cut that the builder's plan makes.
    pub fn new(cx: &Cx) -> Self {
        Self {
            group: cx.group_of(Axis::Seq),
        }
    }

    /// The number of stripes.
    pub fn count(&self) -> usize {
        self.group.size()
    }

    /// The number of this rank's rows of `rows`.
    pub fn mine(&self, rows: usize) -> usize {
        part(rows, self.group.size(), self.group.rank()).len()
    }

    /// This rank's stripe of a video `[B, T, H, W, C]` that all ranks hold, cut at multiples of `unit`
    /// rows.
    ///
    /// # Panics
    /// If there is not a unit of rows for each rank.
    pub fn split(&self, x: Tensor<5>, unit: usize) -> Tensor<5> {
        if self.count() == 1 {
            return x;
        }
        let [b, t, h, w, c] = x.dims();
        let whole = h / unit;
        assert!(
            whole >= self.count() && h % unit == 0,
            "{h} rows in units of {unit} for {} stripes",
            self.count(),
        );
        let x = x.reshape([b, t, whole, unit * w * c]);
        let x = Collective::Slice { dim: 2, whole }.apply(x, &self.group);
        x.reshape([b, t, self.mine(whole) * unit, w, c])
    }

    /// The video `[B, T, H, W, C]` of all stripes on every rank, of `whole` units of rows.
    pub fn join(&self, x: Tensor<5>, unit: usize, whole: usize) -> Tensor<5> {
        if self.count() == 1 {
            return x;
        }
        let [b, t, h, w, c] = x.dims();
        let x = x.reshape([b, t, h / unit, unit * w * c]);
        let x = Collective::Collect { dim: 2, whole }.apply(x, &self.group);
        x.reshape([b, t, whole * unit, w, c])
    }

    /// The rows of all ranks, `[N, whole, W]`, to be used differently on each, of this rank's
    /// `[N, H, W]`.
    pub(crate) fn gather(&self, x: Tensor<3>, whole: usize) -> Tensor<3> {
        Collective::AllGather { dim: 1, whole }.apply(x, &self.group)
    }

    /// A stripe with so many rows of its neighbours above and below; zeros at the edges of the picture.
    /// Alone it stays as it is: there, what lies outside is zero anyway.
    pub(crate) fn widen(&self, x: Tensor<5>, above: usize, below: usize) -> Tensor<5> {
        if self.count() == 1 || above + below == 0 {
            return x;
        }
        let h = x.dims()[2];
        assert!(
            h >= above.max(below),
            "a stripe of {h} rows, of which neighbours see {above} and {below}"
        );
        let stripes = self.clone();
        custom([x], move |[x]| {
            let out = stripes.widened(x, above, below);
            let back: Back<5, 1> = Arc::new(move |d_out| [stripes.folded(d_out, above, below)]);
            (out, back)
        })
    }

    fn widened(&self, x: Tensor<5>, above: usize, below: usize) -> Tensor<5> {
        let h = x.dims()[2];
        let mut rows = vec![x.clone()];
        if above > 0 {
            let last = x.clone().narrow(2, h - above, above);
            let shape = last.dims();
            let arrived = self.group.start_shift(last, shape, "rows above").wait();
            rows.insert(
                0,
                if self.is_first() {
                    arrived.zeros_like()
                } else {
                    arrived
                },
            );
        }
        if below > 0 {
            let first = x.narrow(2, 0, below);
            let shape = first.dims();
            let arrived = self
                .group
                .start_shift_back(first, shape, "rows below")
                .wait();
            rows.push(if self.is_last() {
                arrived.zeros_like()
            } else {
                arrived
            });
        }
        Tensor::cat(rows, 2)
    }

    /// The adjoint of [`Stripes::widened`]: gradients of neighbours' rows go back to them.
    fn folded(&self, d_out: Tensor<5>, above: usize, below: usize) -> Tensor<5> {
        let [b, t, wide, w, c] = d_out.dims();
        let h = wide - above - below;
        let mut d_x = d_out.clone().narrow(2, above, h);
        let zeros =
            |rows: usize| Tensor::<5>::zeros([b, t, rows, w, c], (&d_out.device(), d_out.dtype()));
        let add = |d_x: Tensor<5>, parts: [Tensor<5>; 2]| {
            let parts = parts.into_iter().filter(|part| part.dims()[2] > 0);
            d_x + Tensor::cat(parts.collect(), 2)
        };
        if above > 0 {
            let theirs = d_out.clone().narrow(2, 0, above);
            let shape = theirs.dims();
            let arrived = self
                .group
                .start_shift_back(theirs, shape, "gradient above")
                .wait();
            if !self.is_last() {
                d_x = add(d_x, [zeros(h - above), arrived]);
            }
        }
        if below > 0 {
            let theirs = d_out.clone().narrow(2, above + h, below);
            let shape = theirs.dims();
            let arrived = self
                .group
                .start_shift(theirs, shape, "gradient below")
                .wait();
            if !self.is_first() {
                d_x = add(d_x, [arrived, zeros(h - below)]);
            }
        }
        d_x
    }

    fn is_first(&self) -> bool {
        self.group.rank() == 0
    }

    fn is_last(&self) -> bool {
        self.group.rank() + 1 == self.group.size()
    }
}
