//! The solvers by name, and the points at which each asks the model.

use crate::schedule::{Grid, Schedule, ScheduleError};
use serde::{Deserialize, Serialize};

// Timesteps of the references are a thousandfold sigmas.
const TIMESTEPS: f64 = 1000.0;

/// How sampling follows the flow from noise to data. Each solver stands with the levels of noise and
/// the timesteps that its reference gives the model, because a model answers to those it was
/// published with.
///
/// | kind | levels before the shift | timesteps |
/// |---|---|---|
/// | `euler`, `heun`, `midpoint` | even, 1 to 0 | as they are |
/// | `euler-diffusers` | 1 to the lowest of a thousand, then 0 | as they are |
/// | `unipc` | even, 1 - 1e-6 to 0.001, the last of which is 0 | cut to integers |
/// | `unipc-wan` | even, 0.999 to 0 | cut to integers |
/// | `dpm++-wan` | even, 1 to 0 | cut to integers |
///
/// The linear-quadratic schedule has its own levels, the same for all solvers but for the 1e-6 of
/// `unipc`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Solver {
    /// Euler's method: the one that Movie Gen found best (section 3.4.2).
    Euler {},
    /// Euler's method on the levels of diffusers' FlowMatchEulerDiscreteScheduler.
    EulerDiffusers {},
    /// Heun's method of second order, two passes a step but for the last, which is Euler's (Karras et
    /// al. 2022, algorithm 1).
    Heun {},
    /// The midpoint method of second order, two passes a step (Lipman et al. 2024, section 3.4).
    Midpoint {},
    /// UniPC of second order (Zhao et al. 2023, predicting data, `B(h) = e^h - 1`), as in diffusers'
    /// UniPCMultistepScheduler with `use_flow_sigmas` and `lower_order_final`: one pass a step.
    Unipc {},
    /// UniPC on the levels of Wan's own code, `FlowUniPCMultistepScheduler`.
    UnipcWan {},
    /// DPM-Solver++ of second order (Lu et al. 2022, multistep, midpoint) as in Wan's own code,
    /// `FlowDPMSolverMultistepScheduler`: one pass a step.
    #[serde(rename = "dpm++-wan")]
    DpmppWan {},
}

impl Default for Solver {
    fn default() -> Self {
        Solver::Euler {}
    }
}

/// The points of a sampler: the levels of noise it steps through, and what the model is told there.
#[derive(Clone, Debug, PartialEq)]
pub struct Points {
    /// The levels, falling to 0: one more than there are steps.
    pub sigmas: Vec<f64>,
    /// What the model is told at the start of each step, 1000 for pure noise to 0 for data: one for
    /// each step. Those of UniPC and DPM-Solver++ are integers, a little off the levels.
    pub timesteps: Vec<f64>,
}

impl Points {
    /// The times at the start of each step as models of Kinora take them, 0 for noise to 1 for data:
    /// `1 - timestep / 1000`.
    pub fn times(&self) -> Vec<f64> {
        self.timesteps.iter().map(|t| time(*t)).collect()
    }
}

impl Solver {
    /// The name in settings.
    pub fn name(&self) -> &'static str {
        match self {
            Solver::Euler {} => "euler",
            Solver::EulerDiffusers {} => "euler-diffusers",
            Solver::Heun {} => "heun",
            Solver::Midpoint {} => "midpoint",
            Solver::Unipc {} => "unipc",
            Solver::UnipcWan {} => "unipc-wan",
            Solver::DpmppWan {} => "dpm++-wan",
        }
    }

    /// How often the solver asks the model in so many steps.
    pub fn passes(&self, steps: usize) -> usize {
        match self {
            Solver::Heun {} => (2 * steps).saturating_sub(1),
            Solver::Midpoint {} => 2 * steps,
            _ => steps,
        }
    }

    /// Checks that a schedule makes sense and that this solver can follow it.
    ///
    /// # Errors
    /// A number out of its range, or levels that do not fall from each to the next.
    pub fn check(&self, schedule: &Schedule) -> Result<(), ScheduleError> {
        schedule.check()?;
        // Only a dynamic shift looks at sizes, and it is farthest from none at the ends.
        for positions in [0, usize::MAX] {
            let sigmas = self.points(schedule, positions).sigmas;
            // Written so that a level that is no number is caught too.
            let stuck = sigmas.windows(2).position(|w| {
                let falls = w[1] < w[0];
                !falls
            });
            if let Some(step) = stuck {
                return Err(ScheduleError::TooFine {
                    solver: self.name(),
                    step: step + 1,
                    steps: schedule.steps(),
                });
            }
        }
        Ok(())
    }

    /// The points of a schedule for latents of `positions`, frames x height x width, of which only a
    /// dynamic shift takes notice.
    pub fn points(&self, schedule: &Schedule, positions: usize) -> Points {
        let grid = match self {
            Solver::Euler {} | Solver::Heun {} | Solver::Midpoint {} | Solver::DpmppWan {} => {
                Grid::Even
            }
            Solver::EulerDiffusers {} => Grid::DiffusersEuler,
            Solver::Unipc {} => Grid::DiffusersUnipc,
            Solver::UnipcWan {} => Grid::WanUnipc,
        };
        let mut sigmas = schedule.levels(grid, positions);
        // At a level of 1 the logarithm of the signal is infinite, so diffusers starts beside it.
        if let (Solver::Unipc {}, Some(first)) = (self, sigmas.first_mut())
            && (*first - 1.0).abs() < 1e-6
        {
            *first -= 1e-6;
        }
        let timesteps = match self {
            Solver::Euler {} | Solver::Heun {} | Solver::Midpoint {} => {
                sigmas.iter().map(|sigma| sigma * TIMESTEPS).collect()
            }
            // The references round levels to single precision. Beside 1 that changes the solver's
            // weights by a thousandth, so it is part of what they are.
            Solver::EulerDiffusers {} => {
                round(&mut sigmas);
                sigmas
                    .iter()
                    .map(|sigma| f64::from(*sigma as f32 * TIMESTEPS as f32))
                    .collect()
            }
            Solver::Unipc {} | Solver::UnipcWan {} | Solver::DpmppWan {} => {
                let timesteps = sigmas.iter().map(|sigma| (sigma * TIMESTEPS).trunc());
                let timesteps = timesteps.collect();
                round(&mut sigmas);
                timesteps
            }
        };
        sigmas.push(0.0);
        Points { sigmas, timesteps }
    }
}

/// A timestep, 1000 for noise to 0 for data, as a time of Kinora.
pub(crate) fn time(timestep: f64) -> f64 {
    1.0 - timestep / TIMESTEPS
}

fn round(sigmas: &mut [f64]) {
    for sigma in sigmas {
        *sigma = f64::from(*sigma as f32);
    }
}
