//! The solvers that remember: DPM-Solver++ and UniPC, both of second order and predicting data.
//!
//! With `lambda = ln((1 - sigma) / sigma)` for clock, `data` for what the model takes the data to be,
//! `h` for a step of lambda and `a = (1 - sigma') (1 - e^-h)` at its end, the predictor's step is
//! ```text
//! x' = sigma' / sigma x + a (data + slope / 2),   slope = (data_before - data) / r,
//! ```
//! where `r` is the step before as a share of `h`, backward. DPM-Solver++ (Lu et al. 2022, algorithm 2)
//! and UniP with `B(h) = e^h - 1` (Zhao et al. 2023) are the same there. The slope is left out in the
//! first step, which has nothing before it, and in the last, where lambda is infinite.
//!
//! UniC asks the model at `x'`, which is no further pass, and then takes the last step again with the
//! answer: `a (data + p slope + q (data' - data))`. What both have in common falls out of the
//! difference, so the correction is a movement of `x'`, and a point that was moved in between, as
//! blended windows are, stays moved.

use burn::tensor::Tensor;

/// The state between two steps.
#[derive(Debug)]
pub(crate) struct Multistep<const D: usize> {
    corrects: bool,
    last: Option<Step<D>>,
}

/// What is remembered of a step.
#[derive(Debug)]
struct Step<const D: usize> {
    // What the data was taken to be at its start.
    data: Tensor<D>,
    // The slope that it used, and `r`.
    slope: Option<(Tensor<D>, f64)>,
    // The step of lambda.
    h: f64,
}

impl<const D: usize> Multistep<D> {
    /// Predictor and corrector: UniPC.
    pub(crate) fn corrected() -> Self {
        Self {
            corrects: true,
            last: None,
        }
    }

    /// The predictor alone: DPM-Solver++.
    pub(crate) fn predicted() -> Self {
        Self {
            corrects: false,
            last: None,
        }
    }

    /// The step from `sigmas[i]` to `sigmas[i + 1]`, from the point `x` and the velocity there.
    pub(crate) fn step(
        &mut self,
        sigmas: &[f64],
        i: usize,
        mut x: Tensor<D>,
        velocity: Tensor<D>,
    ) -> Tensor<D> {
        let data = x.clone() + velocity * sigmas[i];
        let last = self.last.take();
        if let (true, Some(last)) = (self.corrects, &last) {
            x = x + last.correction(sigmas[i], &data);
        }
        let [from, to] = [sigmas[i], sigmas[i + 1]];
        let h = lambda(to) - lambda(from);
        let slope = match last {
            Some(last) if to > 0.0 => {
                let r = (lambda(sigmas[i - 1]) - lambda(from)) / h;
                Some(((last.data - data.clone()) * r.recip(), r))
            }
            _ => None,
        };
        let a = reach(to, h);
        let mut next = x * (to / from) + data.clone() * a;
        if let Some((slope, _)) = &slope {
            next = next + slope.clone() * (a / 2.0);
        }
        self.last = Some(Step { data, slope, h });
        next
    }
}

impl<const D: usize> Step<D> {
    /// How far the end of this step moves, at level `sigma`, now that the model takes the data to be
    /// `data` there (UniC, Zhao et al. 2023, section 3.1).
    fn correction(&self, sigma: f64, data: &Tensor<D>) -> Tensor<D> {
        let a = reach(sigma, self.h);
        let change = data.clone() - self.data.clone();
        let Some((slope, r)) = &self.slope else {
            return change * (a / 2.0);
        };
        let [first, second] = moments(self.h);
        let p = (first - second) / (1.0 - r);
        let q = first - p;
        slope.clone() * (a * (p - 0.5)) + change * (a * q)
    }
}

/// The logarithm of the ratio of signal to noise: minus infinity at 1, infinity at 0.
fn lambda(sigma: f64) -> f64 {
    (1.0 - sigma).ln() - sigma.ln()
}

/// The weight of the data in a step of lambda by `h` to level `sigma`.
fn reach(sigma: f64, h: f64) -> f64 {
    (sigma - 1.0) * (-h).exp_m1()
}

/// The right side of the equations for the corrector's weights of first and second order, divided by
/// `B(h)`.
fn moments(h: f64) -> [f64; 2] {
    let b = (-h).exp_m1();
    let phi = b / -h - 1.0;
    [phi / b, (phi / -h - 0.5) * 2.0 / b]
}
