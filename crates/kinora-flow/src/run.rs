//! A solver under way.

use crate::multistep::Multistep;
use crate::schedule::Schedule;
use crate::solver::{Points, Solver, time};
use burn::tensor::Tensor;

/// A solver under way from noise to data, for one batch of points that go together.
///
/// It is asked at which time the model is to be evaluated, and told the velocity there:
/// ```ignore
/// let mut run = Run::new(solver, &schedule, positions);
/// while let Some(time) = run.time() {
///     let velocity = model(x.clone(), time);
///     x = run.step(x, velocity);
/// }
/// ```
/// What it remembers of earlier points belongs to one batch: each needs a run of its own. Between two
/// calls the caller may move the point, as blending does: solvers go on from the point that they are
/// given, and their corrections are added to it.
#[derive(Debug)]
pub struct Run<const D: usize> {
    points: Points,
    method: Method<D>,
    step: usize,
}

#[derive(Debug)]
enum Method<const D: usize> {
    Euler,
    // The start of the step and the velocity there, once it is known.
    Heun(Option<[Tensor<D>; 2]>),
    // The start of the step, once the first half of it is done.
    Midpoint(Option<Tensor<D>>),
    Multistep(Multistep<D>),
}

impl<const D: usize> Run<D> {
    /// The start of a schedule that [`Solver::check`] has passed, for latents of `positions`, frames x
    /// height x width.
    pub fn new(solver: Solver, schedule: &Schedule, positions: usize) -> Self {
        let method = match solver {
            Solver::Euler {} | Solver::EulerDiffusers {} => Method::Euler,
            Solver::Heun {} => Method::Heun(None),
            Solver::Midpoint {} => Method::Midpoint(None),
            Solver::Unipc {} | Solver::UnipcWan {} => Method::Multistep(Multistep::corrected()),
            Solver::DpmppWan {} => Method::Multistep(Multistep::predicted()),
        };
        Self {
            points: solver.points(schedule, positions),
            method,
            step: 0,
        }
    }

    /// The number of steps that are done.
    pub fn done(&self) -> usize {
        self.step
    }

    /// The time, 0 for noise to 1 for data, at which the model is to be evaluated next, on the point
    /// that the last step gave; `None` at the end, where that point is the result.
    pub fn time(&self) -> Option<f64> {
        let from = *self.points.timesteps.get(self.step)?;
        let to = self.points.timesteps.get(self.step + 1);
        Some(match (&self.method, to) {
            (Method::Heun(Some(_)), Some(to)) => time(*to),
            (Method::Midpoint(Some(_)), to) => {
                let to = to.copied().unwrap_or(0.0);
                time((from + to) / 2.0)
            }
            _ => time(from),
        })
    }

    /// The next point, from the point `x` and the model's velocity, data minus noise, at `x` and
    /// [`time`](Self::time). Both have one shape; `x` should have single precision or better, which
    /// the result has too.
    ///
    /// # Panics
    /// After the end.
    pub fn step(&mut self, x: Tensor<D>, velocity: Tensor<D>) -> Tensor<D> {
        let velocity = velocity.cast(x.dtype());
        let sigmas = &self.points.sigmas;
        assert!(self.step + 1 < sigmas.len(), "a step after the last");
        let [from, to] = [sigmas[self.step], sigmas[self.step + 1]];
        let ahead = from - to;
        let (next, done) = match &mut self.method {
            Method::Euler => (x + velocity * ahead, true),
            Method::Heun(start) => match start.take() {
                None if to > 0.0 => {
                    *start = Some([x.clone(), velocity.clone()]);
                    (x + velocity * ahead, false)
                }
                None => (x + velocity * ahead, true),
                Some([start, first]) => (start + (first + velocity) * (ahead / 2.0), true),
            },
            Method::Midpoint(start) => match start.take() {
                None => {
                    *start = Some(x.clone());
                    (x + velocity * (ahead / 2.0), false)
                }
                Some(start) => (start + velocity * ahead, true),
            },
            Method::Multistep(multistep) => (multistep.step(sigmas, self.step, x, velocity), true),
        };
        self.step += usize::from(done);
        next
    }
}
