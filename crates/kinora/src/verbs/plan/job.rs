//! What a configuration asks for, as the cost model describes it.

use crate::config::RunConfig;
use crate::failure::{Failure, Outcome};
use burn::tensor::DType;
use kinora_mesh::cost::{
    Anatomy, Arrangement, BytesSizes, Dtype, Dtypes, Generation, Guidance, Habits, Job,
    MovieGenSizes, Recompute, Residence, Training,
};
use kinora_mesh::{Axis, Mesh, MeshAxis, Plan};
use kinora_models::VideoConfig;
use kinora_models::movie_gen::MovieGenConfig;

// Movie Gen's sampler takes so many steps (paper, section 3.4.2).
const STEPS: usize = 50;

/// A job on a mesh, and what had to be assumed because the configuration does not say it.
pub(super) struct Asked {
    pub(super) anatomy: Anatomy,
    pub(super) job: Job,
    /// Micro-batches of a training step.
    accumulate: usize,
    pub(super) assumed: Vec<String>,
}

/// The configured mesh with as many data groups as `ranks` ranks make.
pub(super) fn scaled(mesh: Mesh, plan: &Plan, ranks: usize) -> Outcome<Mesh> {
    let group = mesh.cfg * mesh.cp * mesh.tp;
    if ranks == 0 || !ranks.is_multiple_of(group) {
        let below = (ranks / group).max(1) * group;
        let above = (ranks / group + 1) * group;
        let fits = if below == above || ranks < group {
            format!("{group}")
        } else {
            format!("{below} or {above}")
        };
        return Err(Failure::input(format!(
            "--gpus {ranks}: a data group of mesh {mesh} is {group} ranks (cfg {} x cp {} x tp {})\n  help: use {fits}, another multiple of {group}, or --search",
            mesh.cfg, mesh.cp, mesh.tp
        )));
    }
    let data = ranks / group;
    // The copies that cut their storage grow if there are any, and the whole ones stay; otherwise
    // there are only whole ones.
    let cut = plan.params.contains(&MeshAxis::Fsdp) && plan.batch.contains(&MeshAxis::Fsdp);
    if cut && data.is_multiple_of(mesh.replicate) {
        let fsdp = data / mesh.replicate;
        return Ok(Mesh { fsdp, ..mesh });
    }
    if data.is_multiple_of(mesh.fsdp) {
        let replicate = data / mesh.fsdp;
        return Ok(Mesh { replicate, ..mesh });
    }
    let step = group * if cut { mesh.replicate } else { mesh.fsdp };
    Err(Failure::input(format!(
        "--gpus {ranks}: mesh {mesh} grows by {step} ranks at a time\n  help: use a multiple of {step}, or --search"
    )))
}

impl Asked {
    /// The job that `config` describes, on `groups` data groups.
    pub(super) fn new(config: &RunConfig, groups: usize, generate: bool) -> Outcome<Self> {
        let video = config.video()?;
        let mut assumed = vec![];
        let preset = config.model.preset.as_deref().unwrap_or("movie-gen-tiny");
        let (anatomy, largest) = match &video {
            VideoConfig::MovieGen(sizes) => {
                let text_tokens = text_tokens(config, &mut assumed);
                (
                    movie_gen(preset, sizes, config, text_tokens),
                    sizes.max_latent,
                )
            }
            VideoConfig::Wan(sizes) => {
                assumed.push(
                    "a text has 512 tokens, and its encoder and that of images take nothing".into(),
                );
                if sizes.boundary.is_some() {
                    assumed.push("of the two experts, one is in memory".into());
                }
                let token = [sizes.channels, sizes.out_channels].map(|n| sizes.patch_len(n));
                let anatomy = Anatomy::wan(
                    preset,
                    sizes.layers,
                    sizes.dim,
                    sizes.ffn,
                    sizes.heads,
                    token,
                );
                // 81 frames of 480x832, the smaller of Wan's two sizes.
                (anatomy, [21, 60, 104])
            }
        };
        if config.lora.is_some() && !generate {
            assumed.push(
                "every weight is trained: what [lora] saves of gradients, moments and averages is not counted"
                    .into(),
            );
        }
        let latent = largest;
        let largest: usize = video.grid(largest).iter().product();
        // The bucket with the longest sequence, and its batch.
        let mut bucket = None;
        if let (Some(data), Some(autoencoder)) = (&config.data, &config.autoencoder) {
            let latents = autoencoder.check(data, &video)?;
            let sized = latents.into_iter().map(|(bucket, latent)| {
                let tokens: usize = video.grid(latent).iter().product();
                (tokens, bucket)
            });
            bucket = sized.max_by_key(|(tokens, _)| *tokens);
        }
        let (tokens, samples) = match bucket {
            Some((tokens, bucket)) => {
                assumed.push(format!("steps are those of {bucket}"));
                (tokens, bucket.batch)
            }
            None => {
                assumed.push(format!("without [data], a step has one sample a data group, a latent of {latent:?}: {largest} tokens"));
                (largest, groups)
            }
        };
        let accumulate = config.train.as_ref().map_or(1, |train| train.accumulate);
        let dtypes = dtypes(config);
        let job = if generate {
            let sample = config.sample.as_ref();
            if sample.is_none() {
                assumed.push(format!("without [sample], {STEPS} steps with guidance"));
            }
            assumed.push("the autoencoder takes nothing".into());
            let guided = sample.is_none_or(|sample| sample.guidance != 1.0);
            Job::Generation(Generation {
                batch: 1,
                tokens,
                steps: sample.map_or(STEPS, |sample| sample.schedule.steps()),
                guidance: match (guided, config.mesh.cfg) {
                    (false, _) => Guidance::None,
                    (true, 2) => Guidance::CfgAxis,
                    (true, _) => Guidance::Batched,
                },
                transformer: Residence::Resident,
                text_encoder: None,
                decode: None,
                dtypes,
                habits: Habits::default(),
            })
        } else {
            let recompute = match config.train.as_ref().map(|train| train.recompute) {
                Some(kinora_shard::Recompute::None) => Recompute::None,
                Some(kinora_shard::Recompute::All) => Recompute::All,
                Some(kinora_shard::Recompute::First(blocks)) => Recompute::Blocks(blocks),
                None => {
                    assumed.push(
                        "without [train], as few blocks are recomputed as memory allows".into(),
                    );
                    Recompute::Least
                }
            };
            Job::Training(Training {
                samples,
                batch: samples,
                tokens,
                recompute,
                dtypes,
                ema: true,
                habits: Habits::default(),
            })
        };
        Ok(Self {
            anatomy,
            job,
            accumulate,
            assumed,
        })
    }

    /// The job with the micro-batches that the data groups of an arrangement have.
    pub(super) fn on(&self, arrangement: &Arrangement) -> Outcome<Job> {
        let Job::Training(job) = &self.job else {
            return Ok(self.job.clone());
        };
        let (groups, accumulate) = (arrangement.span(Axis::Batch), self.accumulate);
        if !job.samples.is_multiple_of(groups * accumulate) {
            let most = job.samples / accumulate;
            let fits: Vec<String> = (1..=most)
                .filter(|n| job.samples.is_multiple_of(n * accumulate))
                .map(|n| n.to_string())
                .collect();
            return Err(Failure::input(format!(
                "a batch of {} cannot be shared by {groups} data groups of {accumulate} micro-batches each\n  help: change the bucket's batch, or use {} data groups",
                job.samples,
                fits.join(", ")
            )));
        }
        Ok(Job::Training(Training {
            batch: job.samples / groups / accumulate,
            ..job.clone()
        }))
    }

    /// The same job where the number of recomputed blocks is the search's to choose.
    pub(super) fn free(mut self) -> Self {
        if let Job::Training(job) = &mut self.job {
            job.recompute = Recompute::Least;
        }
        self
    }
}

/// Tokens of the longest text.
fn text_tokens(config: &RunConfig, assumed: &mut Vec<String>) -> usize {
    match &config.text {
        Some(text) => {
            assumed.push(format!(
                "every text has {} tokens, the most that [text] reads",
                text.max_words + 1
            ));
            text.max_words + 1
        }
        None => {
            let tokens = MovieGenSizes::paper_5b().text_tokens;
            assumed.push(format!("without [text], a text has {tokens} tokens (512, 256 and 100 of three encoders, a re-implementation's), and the encoders take nothing"));
            tokens
        }
    }
}

fn movie_gen(
    preset: &str,
    video: &MovieGenConfig,
    config: &RunConfig,
    text_tokens: usize,
) -> Anatomy {
    Anatomy::movie_gen(&MovieGenSizes {
        name: preset.into(),
        layers: video.layers,
        width: video.dim,
        ffn: video.ffn,
        heads: video.heads,
        token: video.patch_len(),
        grid: video.grid(video.max_latent),
        texts: video
            .texts
            .iter()
            .map(|text| (text.name.clone(), text.width))
            .collect(),
        text_tokens,
        bytes: config.text.as_ref().map(|text| BytesSizes {
            width: text.width,
            layers: text.layers,
            heads: text.heads,
            ffn: text.ffn,
            windows: text.windows,
            max_words: text.max_words,
        }),
    })
}

fn dtypes(config: &RunConfig) -> Dtypes {
    let precision = config.run.dtype.precision();
    let of = |dtype| match dtype {
        DType::F64 => Dtype::F64,
        DType::BF16 => Dtype::Bf16,
        _ => Dtype::F32,
    };
    let (stored, computed) = (of(precision.stored), of(precision.computed));
    Dtypes {
        master: stored,
        compute: computed,
        gather: computed,
        reduce: stored,
    }
}
