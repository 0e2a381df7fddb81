//! How the levels of noise are spread that sampling visits.

use serde::{Deserialize, Serialize};
use thiserror::Error;

// More than any solver needs.
const MOST_STEPS: usize = 10_000;
// A shift outside 1 / 100 to 100 leaves nearly all steps at one end.
const MOST_SHIFT: f64 = 100.0;
// A higher last level leaves most of the way to the last step.
const MOST_TERMINAL: f64 = 0.5;

/// The levels of noise of a sampler: sigmas that fall from 1, pure noise, to 0, data.
///
/// Which levels a schedule of even steps or a shifted one has depends on the solver too, because
/// those who published solvers start and end a little off 1 and 0: see [`Solver`](crate::Solver).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Schedule {
    /// Even steps.
    Linear {
        /// The number of steps, 1 to 10,000.
        steps: usize,
    },
    /// Even steps, of which a level `u` becomes `shift u / (1 + (shift - 1) u)`: more of them at high
    /// noise, as long videos need (Esser et al. 2024, section 5.3.2; Wan uses 3 to 12).
    Shift {
        /// The number of steps, 1 to 10,000.
        steps: usize,
        /// The shift, 0.01 to 100; 1 is none.
        shift: f64,
        /// The last level before 0, to which the others are stretched: above 0, at most 0.5. Left
        /// out: as it comes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        terminal: Option<f64>,
    },
    /// A shift of `exp(mu)`, where `mu` grows in proportion to the size of the latent (diffusers'
    /// FlowMatchEulerDiscreteScheduler with `use_dynamic_shifting`, and LTX-Video's sampler). Between
    /// and beyond the two sizes `mu` lies on one line; the shift stays within 0.01 to 100.
    DynamicShift {
        /// The number of steps, 1 to 10,000.
        steps: usize,
        /// Two sizes, in positions of one sample's latent, frames x height x width. Others count
        /// tokens: with patches, a token is as many positions as a patch has. LTX-Video: 1024 and
        /// 4096, a token a position.
        positions: [usize; 2],
        /// The logarithms of the shift at these sizes, -4.6 to 4.6. LTX-Video: 0.95 and 2.05.
        mu: [f64; 2],
        /// The last level before 0, to which the others are stretched: above 0, at most 0.5. Left
        /// out: as it comes. LTX-Video: 0.1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        terminal: Option<f64>,
    },
    /// Even small steps through the first `threshold` of time, in half of the steps, then steps that
    /// grow quadratically (Movie Gen, section 3.4.2: 50 steps stand for 1,000 even ones at
    /// `threshold = 0.025`; also Mochi's and LTX-Video's).
    LinearQuadratic {
        /// The number of steps, 1 to 10,000.
        steps: usize,
        /// The time that the first half of the steps reaches, above 0, at most 0.5.
        threshold: f64,
    },
}

/// A schedule that cannot be followed.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ScheduleError {
    /// No steps, or without an end.
    #[error(
        "schedule.steps = {steps}\n  help: use 1 to {MOST_STEPS}; more follow the flow more closely"
    )]
    Steps {
        /// The number.
        steps: usize,
    },
    /// A first half that leaves no time for the second.
    #[error("schedule.threshold = {threshold}\n  help: use a time above 0, at most 0.5")]
    Threshold {
        /// The threshold.
        threshold: f64,
    },
    /// A shift that leaves all steps at one end.
    #[error(
        "schedule.shift = {shift}\n  help: use 1 (none) to about 12, within 1 / {MOST_SHIFT} to {MOST_SHIFT}"
    )]
    Shift {
        /// The shift.
        shift: f64,
    },
    /// A logarithm of a shift that leaves all steps at one end.
    #[error("schedule.mu = {mu:?}\n  help: use logarithms of shifts, within -4.6 to 4.6")]
    Mu {
        /// The logarithms.
        mu: [f64; 2],
    },
    /// Two sizes that make no line.
    #[error("schedule.positions = {positions:?}\n  help: name a smaller and a larger size")]
    Positions {
        /// The sizes.
        positions: [usize; 2],
    },
    /// A last level that is none, or leaves all the work to the last step.
    #[error(
        "schedule.terminal = {terminal}\n  help: use a level above 0, at most {MOST_TERMINAL}, or leave it out"
    )]
    Terminal {
        /// The level.
        terminal: f64,
    },
    /// Levels that do not fall from each to the next.
    #[error(
        "with solver.kind = \"{solver}\", step {step} of the schedule's {steps} goes nowhere\n  help: use fewer steps, a shift nearer to 1, or a higher threshold"
    )]
    TooFine {
        /// The solver's name.
        solver: &'static str,
        /// The number of the step, from 1.
        step: usize,
        /// The number of steps.
        steps: usize,
    },
}

impl Schedule {
    /// The number of steps.
    pub fn steps(&self) -> usize {
        match *self {
            Schedule::Linear { steps }
            | Schedule::Shift { steps, .. }
            | Schedule::DynamicShift { steps, .. }
            | Schedule::LinearQuadratic { steps, .. } => steps,
        }
    }

    /// The same schedule with another number of steps.
    pub fn with_steps(mut self, number: usize) -> Self {
        match &mut self {
            Schedule::Linear { steps }
            | Schedule::Shift { steps, .. }
            | Schedule::DynamicShift { steps, .. }
            | Schedule::LinearQuadratic { steps, .. } => *steps = number,
        }
        self
    }

    /// Checks the numbers by themselves.
    ///
    /// # Errors
    /// The first number that is out of its range.
    pub(crate) fn check(&self) -> Result<(), ScheduleError> {
        let steps = self.steps();
        if !(1..=MOST_STEPS).contains(&steps) {
            return Err(ScheduleError::Steps { steps });
        }
        let terminal = match *self {
            Schedule::Linear { .. } => None,
            Schedule::Shift {
                shift, terminal, ..
            } => {
                if !(1.0 / MOST_SHIFT..=MOST_SHIFT).contains(&shift) {
                    return Err(ScheduleError::Shift { shift });
                }
                terminal
            }
            Schedule::DynamicShift {
                positions,
                mu,
                terminal,
                ..
            } => {
                if positions[0] >= positions[1] {
                    return Err(ScheduleError::Positions { positions });
                }
                let most = MOST_SHIFT.ln();
                if !mu.iter().all(|mu| (-most..=most).contains(mu)) {
                    return Err(ScheduleError::Mu { mu });
                }
                terminal
            }
            Schedule::LinearQuadratic { threshold, .. } => {
                if !(threshold > 0.0 && threshold <= 0.5) {
                    return Err(ScheduleError::Threshold { threshold });
                }
                None
            }
        };
        match terminal {
            Some(terminal) if !(terminal > 0.0 && terminal <= MOST_TERMINAL) => {
                Err(ScheduleError::Terminal { terminal })
            }
            _ => Ok(()),
        }
    }

    /// The level of noise that each step starts from, on a solver's grid, for a latent of `positions`.
    pub(crate) fn levels(&self, grid: Grid, positions: usize) -> Vec<f64> {
        match *self {
            Schedule::Linear { steps } => grid.levels(steps, 1.0),
            Schedule::Shift {
                steps,
                shift,
                terminal,
            } => {
                let even = grid.levels(steps, shift);
                let shifted = even.iter().map(|u| shifted(*u, shift)).collect();
                stretch(shifted, terminal)
            }
            Schedule::DynamicShift {
                steps,
                positions: sizes,
                mu,
                terminal,
            } => {
                let [small, large] = sizes.map(|size| size as f64);
                let slope = (mu[1] - mu[0]) / (large - small);
                let mu = (positions as f64 - small) * slope + mu[0];
                let shift = mu.exp().clamp(1.0 / MOST_SHIFT, MOST_SHIFT);
                // The same as a shift, but in the order of operations that the reference has.
                let even = grid.levels(steps, 1.0);
                let shifted = even.iter().map(|u| shift / (shift + (1.0 / u - 1.0)));
                stretch(shifted.collect(), terminal)
            }
            Schedule::LinearQuadratic { steps, threshold } => linear_quadratic(steps, threshold),
        }
    }
}

/// Where the even levels lie that a schedule shifts. Each is the grid of a reference, to its last bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Grid {
    /// From 1, in equal steps of which the last ends at 0.
    Even,
    /// From 1 down to the lowest of a thousand levels, which is shifted before and after: diffusers'
    /// FlowMatchEulerDiscreteScheduler.
    DiffusersEuler,
    /// From 1, in equal steps of which the last would end at 0.001: diffusers'
    /// UniPCMultistepScheduler with `use_flow_sigmas`.
    DiffusersUnipc,
    /// From 0.999, in equal steps of which the last ends at 0: Wan's FlowUniPCMultistepScheduler.
    WanUnipc,
}

impl Grid {
    fn levels(self, steps: usize, shift: f64) -> Vec<f64> {
        let mut levels = match self {
            Grid::Even => even(1.0, 0.0, steps + 1),
            Grid::DiffusersEuler => {
                // Single precision is the reference's.
                let (lowest, less) = (1.0_f32 / 1000.0, (shift - 1.0) as f32);
                let lowest = f64::from(shift as f32 * lowest / (1.0 + less * lowest));
                let timesteps = even(1000.0, lowest * 1000.0, steps);
                timesteps.iter().map(|timestep| timestep / 1000.0).collect()
            }
            Grid::DiffusersUnipc => even(1.0, 1.0 / 1000.0, steps + 1),
            Grid::WanUnipc => even(f64::from(0.999_f32), 0.0, steps + 1),
        };
        levels.truncate(steps);
        levels
    }
}

/// `count` numbers in equal steps, in NumPy's order of operations, so that products of them are cut to
/// the same integers.
fn even(from: f64, to: f64, count: usize) -> Vec<f64> {
    let last = count.max(2) - 1;
    let step = (to - from) / last as f64;
    let at = |i| {
        if i == last {
            to
        } else {
            i as f64 * step + from
        }
    };
    (0..count).map(at).collect()
}

fn shifted(level: f64, shift: f64) -> f64 {
    shift * level / (1.0 + (shift - 1.0) * level)
}

/// Stretches the distances from 1 so that the last level is `terminal` (LTX-Video's
/// `stretch_shift_to_terminal`).
fn stretch(levels: Vec<f64>, terminal: Option<f64>) -> Vec<f64> {
    match (terminal, levels.as_slice()) {
        // A single step starts from noise, and has no other level to stretch to.
        (Some(terminal), &[_, .., last]) => {
            let scale = (1.0 - last) / (1.0 - terminal);
            levels.iter().map(|u| 1.0 - (1.0 - u) / scale).collect()
        }
        _ => levels,
    }
}

fn linear_quadratic(steps: usize, threshold: f64) -> Vec<f64> {
    let linear = (steps / 2).max(1);
    let quadratic = (steps - linear).max(1) as f64;
    let rate = threshold / linear as f64;
    // What is left of time after the even steps and as many more at their rate.
    let rest = 1.0 - threshold - rate * quadratic;
    let time = |i: usize| match i.checked_sub(linear) {
        None => rate * i as f64,
        Some(k) => {
            let k = k as f64;
            threshold + rate * k + rest * (k / quadratic).powi(2)
        }
    };
    (0..steps).map(|i| 1.0 - time(i)).collect()
}
