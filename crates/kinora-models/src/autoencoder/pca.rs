//! The closed-form autoencoder of the quickstart: principal components of spacetime patches.
//!
//! Nothing is trained: the components are the eigenvectors of the patches' covariance, the best
//! linear code of that size. A latent element is a patch's coordinates, each divided by a power of
//! its standard deviation, and all by one number that makes their common variance one.

use super::{Alone, Autoencoder, Decode, ShapeError};
use burn::tensor::{DType, Device, Tensor, TensorData};
use nalgebra::{DMatrix, SymmetricEigen};
use serde::{Deserialize, Serialize};

/// The settings of a principal component code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcaConfig {
    /// Pixels of a patch along frames, height and width.
    pub patch: [usize; 3],
    /// Components kept, the channels of the latent.
    pub channels: usize,
    /// Components are divided by this power of their standard deviation: 0 leaves the spectrum as it
    /// is, 1 whitens it. At 0.5 both coarse and fine components are learned.
    pub whiten: f64,
}

impl PcaConfig {
    fn patch_len(&self) -> usize {
        3 * self.patch.iter().product::<usize>()
    }

    /// The number of latent elements along each side of a video.
    ///
    /// # Errors
    /// If the sides do not divide.
    pub fn grid(&self, [frames, height, width]: [usize; 3]) -> Result<[usize; 3], ShapeError> {
        let [pt, ph, pw] = self.patch;
        let image = frames == 1;
        if (frames % pt != 0 && !image) || height % ph != 0 || width % pw != 0 {
            return Err(ShapeError::Indivisible {
                frames,
                height,
                width,
                patch: self.patch,
            });
        }
        Ok([if image { 1 } else { frames / pt }, height / ph, width / pw])
    }

    /// `[B, 3, T, H, W]` to patches `[B t h w, 3 pt ph pw]`, and the grid.
    fn patches(&self, video: Tensor<5>) -> (Tensor<2>, [usize; 3]) {
        let [b, _, t, h, w] = video.dims();
        let grid = self
            .grid([t, h, w])
            .expect("a video whose shape was checked");
        let [pt, ph, pw] = self.patch;
        // A single frame is a clip in which nothing moves.
        let video = if t == 1 {
            video.repeat_dim(2, pt)
        } else {
            video
        };
        let [nt, nh, nw] = grid;
        let patches = video
            .reshape([b, 3, nt, pt, nh, ph, nw, pw])
            .permute([0, 2, 4, 6, 1, 3, 5, 7])
            .reshape([b * nt * nh * nw, self.patch_len()]);
        (patches, grid)
    }
}

/// The code: `z = (x - mean) basis / scale`.
#[derive(Clone, Debug)]
pub struct Pca {
    config: PcaConfig,
    mean: Vec<f32>,
    basis: Vec<f32>,
    scale: Vec<f32>,
    tensors: [Tensor<2>; 3],
    explained: f64,
}

/// Sums over videos, from which the code follows.
#[derive(Debug)]
pub struct PcaFit {
    config: PcaConfig,
    count: usize,
    sum: Tensor<2>,
    products: Tensor<2>,
}

impl PcaFit {
    /// An empty fit.
    pub fn new(config: &PcaConfig, device: &Device) -> Self {
        let n = config.patch_len();
        Self {
            config: config.clone(),
            count: 0,
            sum: Tensor::zeros([1, n], (device, DType::F64)),
            products: Tensor::zeros([n, n], (device, DType::F64)),
        }
    }

    /// Adds videos `[B, 3, T, H, W]`.
    ///
    /// # Errors
    /// If the sides do not divide into patches.
    pub fn add(&mut self, videos: Tensor<5>) -> Result<(), ShapeError> {
        let [_, _, t, h, w] = videos.dims();
        self.config.grid([t, h, w])?;
        let (patches, _) = self.config.patches(videos);
        self.count += patches.dims()[0];
        self.sum = self.sum.clone() + patches.clone().cast(DType::F64).sum_dim(0);
        // The product of a batch is exact enough in f32; the sum over batches is not.
        let products = patches.clone().transpose().matmul(patches);
        self.products = self.products.clone() + products.cast(DType::F64);
        Ok(())
    }

    /// The number of patches seen.
    pub fn patches(&self) -> usize {
        self.count
    }

    /// The code of what was added.
    pub fn finish(self, device: &Device) -> Pca {
        let (n, channels) = (self.config.patch_len(), self.config.channels);
        let count = self.count.max(1) as f64;
        let mean: Vec<f64> = self
            .sum
            .into_data()
            .iter::<f64>()
            .map(|x| x / count)
            .collect();
        let products: Vec<f64> = self.products.into_data().iter::<f64>().collect();
        let covariance = DMatrix::from_fn(n, n, |i, j| {
            (products[i * n + j] + products[j * n + i]) / (2.0 * count) - mean[i] * mean[j]
        });
        let total = covariance.trace();
        let eigen = SymmetricEigen::new(covariance);
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        order.truncate(channels);
        let variances: Vec<f64> = order
            .iter()
            .map(|&i| eigen.eigenvalues[i].max(1e-12))
            .collect();
        let explained = variances.iter().sum::<f64>() / total.max(1e-12);
        let whitened = |v: f64| v.sqrt().powf(1.0 - self.config.whiten);
        let common = variances.iter().map(|&v| whitened(v).powi(2)).sum::<f64>() / channels as f64;
        let scale = variances
            .iter()
            .map(|v| (v.sqrt().powf(self.config.whiten) * common.sqrt()) as f32)
            .collect();
        let mut basis = Vec::with_capacity(n * channels);
        // The sign of an eigenvector is arbitrary; the largest entry is made positive.
        let signs: Vec<f64> = order
            .iter()
            .map(|&c| {
                let column = eigen.eigenvectors.column(c);
                column[column.icamax()].signum()
            })
            .collect();
        for row in 0..n {
            for (&c, sign) in order.iter().zip(&signs) {
                basis.push((eigen.eigenvectors[(row, c)] * sign) as f32);
            }
        }
        let mean = mean.into_iter().map(|x| x as f32).collect();
        Pca::new(self.config, mean, basis, scale, explained, device)
    }
}

impl Pca {
    fn new(
        config: PcaConfig,
        mean: Vec<f32>,
        basis: Vec<f32>,
        scale: Vec<f32>,
        explained: f64,
        device: &Device,
    ) -> Self {
        let (n, c) = (config.patch_len(), config.channels);
        let tensors = [(&mean, [1, n]), (&basis, [n, c]), (&scale, [1, c])].map(|(data, shape)| {
            Tensor::from_data(TensorData::new(data.clone(), shape), (device, DType::F32))
        });
        Self {
            config,
            mean,
            basis,
            scale,
            tensors,
            explained,
        }
    }

    /// The share of the patches' variance that the components hold, 0..=1.
    pub fn explained(&self) -> f64 {
        self.explained
    }

    /// The numbers of the code, with names and shapes, to be stored.
    pub fn parts(&self) -> [(&'static str, Vec<usize>, Vec<f32>); 4] {
        let (n, c) = (self.config.patch_len(), self.config.channels);
        [
            ("mean", vec![n], self.mean.clone()),
            ("basis", vec![n, c], self.basis.clone()),
            ("scale", vec![c], self.scale.clone()),
            ("explained", vec![1], vec![self.explained as f32]),
        ]
    }

    /// The code of stored numbers, in the order of [`Pca::parts`].
    ///
    /// # Errors
    /// If a length does not fit the settings.
    pub fn from_parts(
        config: &PcaConfig,
        [mean, basis, scale, explained]: [Vec<f32>; 4],
        device: &Device,
    ) -> Result<Self, ShapeError> {
        let (n, c) = (config.patch_len(), config.channels);
        for (name, found, wanted) in [
            ("mean", mean.len(), n),
            ("basis", basis.len(), n * c),
            ("scale", scale.len(), c),
            ("explained", explained.len(), 1),
        ] {
            if found != wanted {
                return Err(ShapeError::Stored {
                    name,
                    found,
                    wanted,
                });
            }
        }
        let explained = f64::from(explained[0]);
        Ok(Self::new(
            config.clone(),
            mean,
            basis,
            scale,
            explained,
            device,
        ))
    }
}

impl Autoencoder for Pca {
    fn latent_shape(&self, video: [usize; 3]) -> Result<[usize; 4], ShapeError> {
        let [t, h, w] = self.config.grid(video)?;
        Ok([self.config.channels, t, h, w])
    }

    fn scale(&self) -> [usize; 3] {
        self.config.patch
    }

    fn device(&self) -> Device {
        self.tensors[0].device()
    }

    fn encode(&self, video: Tensor<5>) -> Tensor<5> {
        let b = video.dims()[0];
        let (patches, [t, h, w]) = self.config.patches(video);
        let [mean, basis, scale] = self.tensors.clone();
        let z = (patches - mean).matmul(basis) / scale;
        z.reshape([b, t, h, w, self.config.channels])
            .permute([0, 4, 1, 2, 3])
    }

    fn decode(&self, latent: Tensor<5>) -> Tensor<5> {
        let [b, c, t, h, w] = latent.dims();
        let [pt, ph, pw] = self.config.patch;
        let [mean, basis, scale] = self.tensors.clone();
        let z = latent.permute([0, 2, 3, 4, 1]).reshape([b * t * h * w, c]);
        ((z * scale).matmul(basis.transpose()) + mean)
            .reshape([b, t, h, w, 3, pt, ph, pw])
            .permute([0, 4, 1, 5, 2, 6, 3, 7])
            .reshape([b, 3, t * pt, h * ph, w * pw])
            .clamp(-1.0, 1.0)
    }

    fn decoder(&self) -> Box<dyn Decode + '_> {
        // No latent frame knows of another.
        Box::new(Alone(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinora_mesh::rng::Stream;

    fn videos(seed: u64) -> Tensor<5> {
        // Three smooth patterns with random strengths: three components hold everything.
        let device = Device::flex();
        let mut data = vec![];
        for sample in 0..16 {
            let strengths = Stream::new(seed, "test").at(sample).normals(0..3);
            for i in 0..3 * 4 * 4 * 4 {
                let x: f64 = (0..3)
                    .map(|k| strengths[k] * ((i * (k + 1)) as f64).sin())
                    .sum();
                data.push((0.2 * x).clamp(-1.0, 1.0) as f32);
            }
        }
        Tensor::from_data(TensorData::new(data, [16, 3, 4, 4, 4]), &device)
    }

    #[test]
    fn what_the_components_hold_is_given_back() {
        let device = Device::flex();
        let config = PcaConfig {
            patch: [4, 4, 4],
            channels: 6,
            whiten: 0.5,
        };
        let mut fit = PcaFit::new(&config, &device);
        for seed in 0..8 {
            fit.add(videos(seed)).unwrap();
        }
        assert_eq!(fit.patches(), 128);
        let pca = fit.finish(&device);
        assert!(pca.explained() > 0.99, "{}", pca.explained());
        let fresh = videos(100);
        assert_eq!(pca.latent_shape([4, 4, 4]), Ok([6, 1, 1, 1]));
        let z = pca.encode(fresh.clone());
        let error = (pca.decode(z) - fresh).abs().max().into_scalar::<f32>();
        assert!(error < 0.1, "{error}");
        let stored = Pca::from_parts(&config, pca.parts().map(|(_, _, data)| data), &device);
        let again = stored.unwrap().encode(videos(3));
        assert_eq!(again.to_data(), pca.encode(videos(3)).to_data());
    }

    #[test]
    fn an_image_is_one_latent_frame_and_odd_sides_are_refused() {
        let config = PcaConfig {
            patch: [4, 4, 4],
            channels: 2,
            whiten: 0.5,
        };
        assert_eq!(config.grid([1, 8, 8]), Ok([1, 2, 2]));
        assert!(
            config
                .grid([6, 8, 8])
                .unwrap_err()
                .to_string()
                .contains("6 frames of 8x8")
        );
    }
}
