//! Wan's transformers beside those of diffusers and of Wan's own code, and cut over ranks in many ways.

mod forward;
mod golden;
mod gradients;
mod job;
mod naive;
mod plans;
