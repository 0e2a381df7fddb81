//! Batches of latents for a data group: one rank loads, decodes and encodes, and the others receive.

use crate::ahead::Ahead;
use crate::{LatentBatch, TrainError};
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_comm::{Buffer, CommError, HostBuffer};
use kinora_data::{Batch, Bucket, Catalog, Content, Loader, Part, Sample, Skip};
use kinora_media::Clip;
use kinora_mesh::Axis;
use kinora_models::autoencoder::Autoencoder;
use kinora_shard::{Group, Sharding};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

/// Where a rank's batches come from.
pub struct Source {
    /// On the first rank of each data group.
    ahead: Option<Ahead>,
    group: Group,
    // Whoever waits for anybody must know that this rank waits for its data.
    world: Group,
    // The ranks of the same place in all data groups.
    peers: Group,
    device: Device,
    /// What could not be decoded and was not named yet.
    skips: Vec<Skip>,
    waited: f64,
}

// What travels besides the latents.
#[derive(Serialize, Deserialize)]
struct Header {
    step: u64,
    global: usize,
    first: u64,
    shape: [usize; 5],
    captions: Vec<String>,
    image: bool,
    epoch: u64,
    skipped: u64,
}

impl Source {
    /// Opens the source at a step; every rank calls it. The first rank of each data group opens the
    /// shards.
    ///
    /// # Errors
    /// Those of the data.
    pub fn open(
        catalog: &Arc<Catalog>,
        sharding: &Sharding,
        first_step: u64,
        autoencoder: &Arc<dyn Autoencoder>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let group = sharding.data_group();
        let peers = sharding.group(&sharding.cuts(Axis::Batch));
        let (index, of) = sharding.share();
        let device = device.clone();
        let ahead = if group.rank() == 0 {
            let part = Part { index, of };
            let loader = Loader::open(catalog.clone(), part, first_step)?;
            Some(Ahead::start(
                loader,
                autoencoder.clone(),
                device.clone(),
                first_step,
            )?)
        } else {
            None
        };
        Ok(Self {
            ahead,
            group,
            peers,
            world: sharding.world().clone(),
            device,
            skips: Vec::new(),
            waited: 0.0,
        })
    }

    /// The next step's share.
    ///
    /// # Errors
    /// Those of the data, or of a peer.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<LatentBatch, TrainError> {
        let Some(ahead) = &self.ahead else {
            return self.receive();
        };
        let begun = Instant::now();
        let next = self.world.busy(|| ahead.next());
        self.waited = begun.elapsed().as_secs_f64();
        let (batch, skips) = next?;
        self.skips.extend(skips);
        self.send(&batch)?;
        Ok(batch)
    }

    /// Seconds that this rank waited for the latest batch to be loaded and encoded; 0 on ranks that
    /// others send theirs to.
    pub fn waited(&self) -> f64 {
        self.waited
    }

    /// What could not be decoded since the last call, in words: on the first rank of each data group,
    /// that of all data groups. Every rank calls it behind the same step.
    ///
    /// # Errors
    /// Those of a peer.
    pub fn newly_skipped(&mut self) -> Result<Vec<String>, TrainError> {
        let lines: String = self
            .skips
            .drain(..)
            .map(|skip| format!("skipped {}: {}\n", skip.id, skip.reason))
            .collect();
        let all = gather(&self.peers, lines.into_bytes())?;
        Ok(String::from_utf8_lossy(&all)
            .lines()
            .map(str::to_string)
            .collect())
    }

    /// The fingerprints of all data groups' batches, in their order; every rank calls it with its own.
    ///
    /// # Errors
    /// [`TrainError::OtherBatch`] if ranks of one data group hold different samples; those of a peer.
    pub fn agree(&self, batch: &LatentBatch, sharding: &Sharding) -> Result<Vec<u64>, TrainError> {
        let mine = batch.fingerprint();
        let Some(world) = sharding.world().transport() else {
            return Ok(vec![mine]);
        };
        let buffer = Buffer::from(vec![mine as i64]);
        let all = world.all_gather(buffer, vec![1; world.size()], "batch fingerprints")?;
        let Buffer::Host(HostBuffer::I64(all)) = all else {
            unreachable!("a gather keeps the element type");
        };
        let (mesh, axes) = (sharding.mesh(), sharding.cuts(Axis::Batch));
        let mut groups: Vec<Option<(usize, u64)>> = vec![None; mesh.span(&axes)];
        for (rank, fingerprint) in all.into_iter().enumerate() {
            let fingerprint = fingerprint as u64;
            let group = &mut groups[mesh.index(rank, &axes)];
            let (first, of_first) = *group.get_or_insert((rank, fingerprint));
            if of_first != fingerprint {
                return Err(TrainError::OtherBatch {
                    step: batch.step + 1,
                    first,
                    of_first,
                    second: rank,
                    of_second: fingerprint,
                });
            }
        }
        Ok(groups.into_iter().flatten().map(|(_, of)| of).collect())
    }

    fn send(&self, batch: &LatentBatch) -> Result<(), TrainError> {
        if self.group.size() == 1 {
            return Ok(());
        }
        let header = Header {
            step: batch.step,
            global: batch.global,
            first: batch.first,
            shape: batch.latents.dims(),
            captions: batch.captions.clone(),
            image: batch.image,
            epoch: batch.epoch,
            skipped: batch.skipped,
        };
        let header = serde_json::to_vec(&header).expect("a header of numbers and strings");
        self.group
            .broadcast(HostBuffer::U8(header), "batch header")?;
        let latents = batch
            .latents
            .to_data()
            .try_into_vec::<f32>()
            .expect("latents are f32");
        self.group
            .broadcast(HostBuffer::F32(latents), "batch latents")?;
        Ok(())
    }

    fn receive(&self) -> Result<LatentBatch, TrainError> {
        let header = self
            .group
            .broadcast(HostBuffer::U8(vec![]), "batch header")?;
        let latents = self
            .group
            .broadcast(HostBuffer::F32(vec![]), "batch latents")?;
        let (HostBuffer::U8(header), HostBuffer::F32(latents)) = (header, latents) else {
            unreachable!("a broadcast keeps the element type");
        };
        let header: Header = serde_json::from_slice(&header).expect("what send has written");
        let data = TensorData::new(latents, header.shape);
        Ok(LatentBatch {
            step: header.step,
            global: header.global,
            first: header.first,
            latents: Tensor::from_data(data, (&self.device, DType::F32)),
            captions: header.captions,
            image: header.image,
            epoch: header.epoch,
            skipped: header.skipped,
        })
    }
}

/// The bytes of all ranks of a group, in their order.
fn gather(group: &Group, bytes: Vec<u8>) -> Result<Vec<u8>, CommError> {
    let Some(transport) = group.transport() else {
        return Ok(bytes);
    };
    let len = Buffer::from(vec![bytes.len() as i64]);
    let lens = transport.all_gather(len, vec![1; group.size()], "lengths of skips")?;
    let Buffer::Host(HostBuffer::I64(lens)) = lens else {
        unreachable!("a gather keeps the element type");
    };
    let lens = lens.into_iter().map(|len| len as usize).collect();
    match transport.all_gather(bytes.into(), lens, "skips")? {
        Buffer::Host(HostBuffer::U8(all)) => Ok(all),
        _ => unreachable!("a gather keeps the element type"),
    }
}

/// A batch of the loader as latents.
pub(crate) fn encode(
    batch: &Batch,
    skipped: u64,
    autoencoder: &dyn Autoencoder,
    device: &Device,
) -> Result<LatentBatch, TrainError> {
    let latents = match stored(batch, autoencoder, device)? {
        Some(latents) => latents,
        None => {
            let clips: Vec<&Clip> = batch.samples.iter().map(Sample::clip).collect();
            let videos = videos(&clips, &autoencoder.device());
            autoencoder.encode(videos).to_device(device)
        }
    };
    Ok(LatentBatch {
        step: batch.step,
        global: batch.bucket.batch,
        first: batch.samples[0].position,
        latents,
        captions: batch
            .samples
            .iter()
            .map(|sample| sample.caption.clone())
            .collect(),
        image: batch.bucket.frames == 1,
        epoch: batch
            .samples
            .iter()
            .map(|sample| sample.epoch)
            .max()
            .unwrap_or(0),
        skipped,
    })
}

/// The latents that were read from the shards, if that is what was read: `[B, C, T, H, W]`.
fn stored(
    batch: &Batch,
    autoencoder: &dyn Autoencoder,
    device: &Device,
) -> Result<Option<Tensor<5>>, TrainError> {
    let Bucket {
        frames,
        height,
        width,
        ..
    } = batch.bucket;
    let mut values = Vec::new();
    let mut shape = [batch.samples.len(), 0, 0, 0, 0];
    for sample in &batch.samples {
        let Content::Latents(latents) = &sample.content else {
            return Ok(None);
        };
        let wanted = autoencoder.latent_shape([frames, height, width])?;
        if latents.shape != wanted {
            return Err(TrainError::LatentShape {
                sample: sample.id.to_string(),
                bucket: batch.bucket.to_string(),
                found: latents.shape.clone(),
                wanted,
            });
        }
        shape[1..].copy_from_slice(&wanted);
        values.extend(latents.values());
    }
    let data = TensorData::new(values, shape);
    Ok(Some(Tensor::from_data(data, (device, DType::F32))))
}

/// Clips of one size to videos `[B, 3, T, H, W]` in -1..=1.
///
/// # Panics
/// If the sizes differ, or there is no clip.
pub fn videos(clips: &[&Clip], device: &Device) -> Tensor<5> {
    let (t, h, w) = (clips[0].frames, clips[0].height, clips[0].width);
    let frame = h * w;
    let mut data = vec![0.0_f32; clips.len() * 3 * t * frame];
    for (clip, out) in clips.iter().zip(data.chunks_exact_mut(3 * t * frame)) {
        assert_eq!(
            (clip.frames, clip.height, clip.width),
            (t, h, w),
            "clips of one bucket"
        );
        for (i, pixel) in clip.rgb.chunks_exact(3).enumerate() {
            for (channel, &value) in pixel.iter().enumerate() {
                out[channel * t * frame + i] = f32::from(value) / 127.5 - 1.0;
            }
        }
    }
    Tensor::from_data(
        TensorData::new(data, [clips.len(), 3, t, h, w]),
        (device, DType::F32),
    )
}
