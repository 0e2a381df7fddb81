//! What a plan costs: memory, messages and time of one rank, before anything is launched.
//!
//! All of it is arithmetic on data: an [`Anatomy`] (the transformer), a [`Job`] (training or
//! generation), a [`Hardware`] (rates, and what kernels get of them) and an [`Arrangement`] (mesh and
//! plan). Messages are counted call by call, as the traced transport of `kinora-comm` counts them, and
//! a test of the workspace holds the two equal for every plan of the registry. Time is a sum of what each kind of kernel takes at its efficiency and
//! of what messages leave exposed; it knows no launch gaps, no stragglers and no slow clocks, so it
//! is a lower bound that a good program comes near to.
//!
//! Overlap: gathers and sums of cut parameters hide behind the other blocks' computation; a ring's
//! hops behind the attention of the tile at hand; everything else is waited for. Links are not
//! shared out between messages that run at once.

mod anatomy;
mod arrangement;
mod compute;
mod decoder;
mod hardware;
mod job;
mod links;
mod memory;
mod model;
mod params;
mod presets;
mod row;
mod search;
mod traffic;
mod wire;

pub use anatomy::{Anatomy, Convention, FeedForward, Norms, Outside, QkNorm, TextPath, Weight};
pub use arrangement::Arrangement;
pub use compute::{Seconds, Work};
pub use decoder::{Decoder, Level};
pub use hardware::{Efficiency, Hardware};
pub use job::{
    Decode, Dtype, Dtypes, Generation, Guidance, Habits, Job, Recompute, Residence, TextEncoder,
    Training,
};
pub use memory::{Memory, Phase, Use};
pub use model::Model;
pub use presets::{BytesSizes, MovieGenSizes};
pub use row::{Behind, Row};
pub use search::{search, search_jobs};
pub use wire::Kind;

use crate::{Axis, PlanError};
use model::Placed;
use serde::Serialize;
use thiserror::Error;
use traffic::Passes;

/// Why there is no estimate.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CostError {
    /// A plan that does not fit the mesh or the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Something that cannot be shared out evenly.
    #[error("{what}: {units} cannot be cut over {parts}\n  help: {help}")]
    Uneven {
        /// What is cut.
        what: String,
        /// How much there is.
        units: usize,
        /// Over how many.
        parts: usize,
        /// What to do.
        help: String,
    },
    /// A rank that the mesh does not have.
    #[error("rank {rank} of a mesh of {ranks}\n  help: ranks are counted from 0")]
    NoRank {
        /// The rank.
        rank: usize,
        /// The mesh's ranks.
        ranks: usize,
    },
    /// A hardware file that cannot be used.
    #[error("hardware file: {why}")]
    Hardware {
        /// What is wrong with it.
        why: String,
    },
    /// A hardware name that is not known.
    #[error("no hardware is called {name:?}\n  help: use one of {known}, or a file")]
    NoHardware {
        /// The name.
        name: String,
        /// Those that are known.
        known: String,
    },
}

/// What a job costs one rank.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// The rank.
    pub rank: usize,
    /// Blocks of the transformer that are run forward again in each backward pass.
    pub recomputed: usize,
    /// Bytes, by use and moment.
    pub memory: Memory,
    /// Bytes that the device offers.
    pub capacity: f64,
    /// Whether the fullest moment fits.
    pub fits: bool,
    /// Messages of a step.
    pub traffic: Vec<Row>,
    /// Seconds of computation of a step.
    pub compute: Seconds,
    /// Seconds of messages of a step, hidden or not.
    pub communication: f64,
    /// Seconds of messages of a step that the rank waits.
    pub exposed: f64,
    /// Seconds of a step: one optimizer step, or one step of the sampler.
    pub step_seconds: f64,
    /// Seconds in all: the step of training; of generation all steps, the decoder and the transfers.
    pub total_seconds: f64,
    /// Seconds of these for the autoencoder's decoder.
    pub decode_seconds: f64,
    /// Operations of a step over all ranks by the standard convention ([`Anatomy::model_flops`]).
    pub model_flops: f64,
    /// Operations of a step that this rank really does.
    pub rank_flops: f64,
    /// The share of the device's bf16 rate that the model's operations get.
    pub mfu: f64,
}

impl Estimate {
    /// The model's operations a second and device, in 10^12.
    pub fn model_tflops(&self, ranks: usize) -> f64 {
        self.model_flops / self.step_seconds / ranks as f64 / 1e12
    }
}

impl Model<'_> {
    /// What `job` costs `rank` of the arrangement.
    ///
    /// # Errors
    /// If the arrangement does not fit the model or the job.
    pub fn estimate(
        &self,
        job: &Job,
        hardware: &Hardware,
        arrangement: &Arrangement,
        rank: usize,
    ) -> Result<Estimate, CostError> {
        let anatomy = self.stacks[0].anatomy;
        arrangement.check(anatomy, job)?;
        let ranks = arrangement.mesh.ranks();
        if rank >= ranks {
            return Err(CostError::NoRank { rank, ranks });
        }
        let placed = Placed::new(self, job, arrangement, rank);
        let capacity = hardware.capacity();
        let (recomputed, memory) = match job {
            Job::Training(job) => {
                let with = |blocks| memory::training(job, &placed, &placed.recomputed(job, blocks));
                let fits = |blocks| with(blocks).peak().total() as f64 <= capacity;
                let blocks = match job.recompute {
                    Recompute::Least => least(anatomy.layers, fits),
                    _ => 0,
                };
                (placed.recomputed(job, blocks), with(blocks))
            }
            Job::Generation(job) => {
                let memory = memory::generation(job, &placed);
                (vec![0; self.stacks.len()], memory)
            }
        };
        let passes = passes(job, arrangement);
        let counts = [passes.forward, passes.backward].map(|n| n as f64);
        let mut step = compute::step(job, hardware, &placed, counts, &recomputed);
        let mut traffic = traffic::rows(job, &placed, passes, &recomputed);
        let recomputed = recomputed[0];
        links::take(&mut traffic, &arrangement.mesh, hardware);
        if job.habits().no_overlap {
            traffic.iter_mut().for_each(|row| row.exposed = row.seconds);
        } else {
            links::expose(&mut traffic, &step, anatomy.layers);
        }
        let share = hardware.efficiency.elementwise * hardware.memory_gbs * 1e9;
        if let Job::Training(_) = job {
            step.seconds.optimizer = optimizer(memory.peak()) / share;
        }
        let communication = traffic.iter().map(|row| row.seconds).sum();
        let exposed: f64 = traffic.iter().map(|row| row.exposed).sum();
        let step_seconds = step.seconds.total() + exposed;
        let (total_seconds, decode_seconds) = match job {
            Job::Training(_) => (step_seconds, 0.0),
            Job::Generation(job) => {
                let decode = decoding(job, hardware);
                let moved = transfers(job, &memory, hardware);
                (job.steps as f64 * step_seconds + decode + moved, decode)
            }
        };
        let one = anatomy.model_flops(job.tokens(), Convention::Full);
        let model_flops = match job {
            Job::Training(job) => 3.0 * one * job.samples as f64,
            Job::Generation(job) => {
                one * job.batch as f64
                    * if job.guidance == Guidance::None {
                        1.0
                    } else {
                        2.0
                    }
            }
        };
        Ok(Estimate {
            rank,
            recomputed,
            fits: memory.peak().total() as f64 <= capacity,
            memory,
            capacity,
            traffic,
            compute: step.seconds,
            communication,
            exposed,
            step_seconds,
            total_seconds,
            decode_seconds,
            model_flops,
            rank_flops: step.flops,
            mfu: model_flops / step_seconds / ranks as f64 / (hardware.bf16_tflops * 1e12),
        })
    }
}

/// What `job` costs `rank` of the arrangement.
///
/// # Errors
/// If the arrangement does not fit the model or the job.
pub fn estimate(
    anatomy: &Anatomy,
    job: &Job,
    hardware: &Hardware,
    arrangement: &Arrangement,
    rank: usize,
) -> Result<Estimate, CostError> {
    Model::new(anatomy).estimate(job, hardware, arrangement, rank)
}

/// The fewest blocks, of `layers`, whose recomputation fits, or all. Recomputing one needs the
/// memory of one, so that none may fit where one does not; from there on memory falls.
fn least(layers: usize, fits: impl Fn(usize) -> bool) -> usize {
    if fits(0) {
        return 0;
    }
    let (mut low, mut high) = (1, layers.max(1));
    while low < high {
        let middle = (low + high) / 2;
        if fits(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low.min(layers)
}

fn passes(job: &Job, arrangement: &Arrangement) -> Passes {
    match job {
        Job::Training(job) => {
            let micro = (job.samples / (arrangement.span(Axis::Batch) * job.batch)) as u64;
            Passes {
                forward: micro,
                backward: micro,
            }
        }
        Job::Generation(job) => Passes {
            forward: if job.guidance == Guidance::TwoPasses {
                2
            } else {
                1
            },
            backward: 0,
        },
    }
}

/// Bytes that the optimizer reads and writes: all but the gradient, which is only read, both ways.
fn optimizer(step: &Phase) -> f64 {
    let both = [Use::Weights, Use::Optimizer, Use::Average].map(|which| step.of(which));
    (2 * both.iter().sum::<usize>() + step.of(Use::Gradients)) as f64
}

/// Seconds of the decoder, on one rank: its operations at the f32 rate.
fn decoding(job: &Generation, hardware: &Hardware) -> f64 {
    let rate = |decode: &Decode| match decode.decoder.dtype {
        Dtype::Bf16 => hardware.bf16_tflops,
        Dtype::F32 | Dtype::F64 => hardware.f32_tflops,
    };
    job.decode.as_ref().map_or(0.0, |decode| {
        let flops = job.batch as f64 * decode.decoder.flops(decode.latent);
        flops / (rate(decode) * 1e12 * hardware.efficiency.matmul)
    })
}

/// Seconds to move what is offloaded to the device and back, once.
fn transfers(job: &Generation, memory: &Memory, hardware: &Hardware) -> f64 {
    let encoders = job
        .text_encoder
        .as_ref()
        .filter(|text| text.residence == Residence::Offloaded);
    let encoders = encoders.map_or(0, |text| text.elements * text.dtype.size());
    let offloaded = job.transformer == Residence::Offloaded;
    let steps = memory.phases.iter().find(|phase| phase.name == "steps");
    let weights = steps
        .filter(|_| offloaded)
        .map_or(0, |phase| phase.of(Use::Weights));
    2.0 * (encoders + weights) as f64 / (hardware.host_gbs * 1e9)
}

#[cfg(test)]
mod tests;
