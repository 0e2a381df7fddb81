//! Noise that does not depend on the mesh.

use kinora_mesh::rng::Stream;

/// The noise of one sample's latent of `len` elements: a function of (seed, purpose, step, position
/// in the global batch, element) alone, so that neither the patch nor the cut changes it.
pub fn noise(seed: u64, purpose: &str, step: u64, position: u64, len: usize) -> Vec<f64> {
    Stream::new(seed, purpose)
        .at(step)
        .at(position)
        .normals(0..len as u64)
}
