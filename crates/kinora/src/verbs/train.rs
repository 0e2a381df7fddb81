//! `kinora train`: data, autoencoder, ranks, loop.

use super::console;
use crate::cli::Train;
use crate::config::{AutoencoderSection, RunConfig, read, read_run};
use crate::device::{RankDevices, host};
use crate::encoders::Encoders;
use crate::failure::{Failure, OrInput, OrRun, Outcome};
use crate::model::Model;
use crate::ranks::Here;
use crate::whole;
use crate::{autoencoder, verbs::data::make_if_missing};
use burn::tensor::{DType, Device};
use kinora_ckpt::latest;
use kinora_data::{Bucket, Catalog, DataConfig};
use kinora_generate::{Asked, SampleConfig, Sampler, clips};
use kinora_media::{Clip, Mp4Writer, contact_sheet};
use kinora_mesh::MeshAxis;
use kinora_models::autoencoder::Autoencoder;
use kinora_models::{PromptEncoder, TextToVideo};
use kinora_shard::Sharding;
use kinora_track::Console;
use kinora_train::{DATA_FILE, Hooks, Run, TrainConfig, checkpoints, resumable};
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) fn train(args: &Train, here: &Here) -> Outcome {
    let config = read(&args.config.config, &args.config.changes.set)?;
    config.plan.check_training(&config.mesh).or_input()?;
    let devices = RankDevices::open(&config)?;
    let wanted = Wanted::of(&config)?;
    let ranks = here.ranks(&config)?;
    let console = console(args.quiet || !ranks.lead());
    let out = config.run.out.clone();
    let claimed = ranks.first(|| claim(&config, &wanted, console))?;
    let (catalog, autoencoder, _lock) = match claimed {
        Some(claimed) => (claimed.catalog, claimed.autoencoder, Some(claimed.lock)),
        // The first process has made them.
        None => {
            let (catalog, autoencoder) = ranks.busy(|| open(&config, &wanted))?;
            (catalog, autoencoder, None)
        }
    };
    let (run, preview) = ready(&config, wanted, (catalog, autoencoder), console)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if !args.quiet && ranks.lead() {
        // Progress is for whoever looks; nobody has to.
        let _ = writeln!(
            std::io::stderr(),
            "training on {} ({}, {cores} cores) into {}",
            config.mesh,
            ranks.describe(),
            out.display()
        );
    }
    let outcome = ranks.run(devices, move |sharding, device| {
        let preview = Preview {
            device: device.clone(),
            ..preview.clone()
        };
        let run = Run {
            device,
            ..run.clone()
        };
        kinora_train::train(&run, &sharding, &preview)
    })?;
    let Some(outcome) = outcome else {
        return Ok(());
    };
    let folder = out.display();
    if outcome.step == outcome.from {
        say!("{folder} is already trained to step {}", outcome.step);
    } else {
        say!(
            "trained {folder} from step {} to {} in {:.0} s, loss {:.4}",
            outcome.from,
            outcome.step,
            outcome.seconds,
            outcome.loss
        );
    }
    say!("try it:\n  {}", suggestion(&config));
    Ok(())
}

/// The command that shows what the run has learned.
fn suggestion(config: &RunConfig) -> String {
    let prompt = config
        .preview
        .as_ref()
        .and_then(|preview| preview.prompts.first());
    let prompt = prompt.map_or(
        "a red circle moving left on a white background",
        String::as_str,
    );
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let out = config.run.out.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let out = if out.chars().all(plain) {
        out
    } else {
        quoted(&out)
    };
    format!(
        "cargo run --release -- generate {out} -p {} -o video.mp4",
        quoted(prompt)
    )
}

/// What training needs of a configuration.
struct Wanted {
    train: TrainConfig,
    data: DataConfig,
    autoencoder: AutoencoderSection,
    sample: SampleConfig,
}

impl Wanted {
    fn of(config: &RunConfig) -> Outcome<Self> {
        let need = "train";
        let train = config.need(&config.train, "train", need)?.clone();
        let data = config.need(&config.data, "data", need)?.clone();
        let autoencoder = config.need(&config.autoencoder, "autoencoder", need)?;
        let sample = match (&config.sample, train.preview_every) {
            (Some(sample), _) => sample.clone(),
            (None, 0) => SampleConfig {
                schedule: kinora_flow::Schedule::Linear { steps: 1 },
                solver: kinora_flow::Solver::default(),
                guidance: 1.0,
                negative: String::new(),
                overlap: 1,
            },
            (None, _) => config
                .need(&config.sample, "sample", "train with previews")?
                .clone(),
        };
        Ok(Self {
            train,
            data,
            autoencoder: autoencoder.clone(),
            sample,
        })
    }
}

/// A run's folder, with what all ranks need in it.
struct Claimed {
    catalog: Arc<Catalog>,
    autoencoder: Arc<dyn Autoencoder>,
    lock: File,
}

/// Everything that one process alone does, and that can fail before the ranks start.
fn claim(config: &RunConfig, wanted: &Wanted, console: Console) -> Outcome<Claimed> {
    let out = &config.run.out;
    own_folder(out)?;
    same_run(out, config)?;
    let model = Model::of(config)?;
    model.check()?;
    // Latents of such a data set are made by `data encode`.
    if let Some(shapes) = config.shapes.as_ref().filter(|_| !wanted.data.latents) {
        make_if_missing(shapes, Path::new(&wanted.data.paths[0]), console)?;
    }
    let catalog = Arc::new(Catalog::open(&wanted.data)?);
    // Here, where no rank waits: reading it all again takes as long as it takes.
    if let Some(checkpoint) = resumable(out, &catalog)? {
        checkpoint.verify()?;
    }
    fs::create_dir_all(out).or_run()?;
    let lock = lock(out)?;
    whole::write(
        &out.join("run.toml"),
        toml::to_string(config).or_run()?.as_bytes(),
    )
    .or_run()?;
    let identity = serde_json::to_vec_pretty(&catalog.identity()).or_run()?;
    whole::write(&out.join(DATA_FILE), &identity).or_run()?;
    if let Some(base) = model.base() {
        // Its weights know the latents of its autoencoder, and of no other.
        autoencoder::adopt(base, out)?;
    }
    let device = host();
    let section = &wanted.autoencoder;
    let coder = match config.model.weights {
        Some(_) => autoencoder::adopted_or_fit(out, section, &catalog, &device, console)?,
        None => autoencoder::read_or_fit(out, section, &catalog, &device, console)?,
    };
    Ok(Claimed {
        catalog,
        autoencoder: coder.autoencoder,
        lock,
    })
}

/// What the first process has made, as the others see it.
fn open(config: &RunConfig, wanted: &Wanted) -> Outcome<(Arc<Catalog>, Arc<dyn Autoencoder>)> {
    let catalog = Arc::new(Catalog::open(&wanted.data)?);
    let coder = autoencoder::read(&config.run.out, &wanted.autoencoder, &host())?;
    Ok((catalog, coder.autoencoder))
}

fn ready(
    config: &RunConfig,
    wanted: Wanted,
    (catalog, autoencoder): (Arc<Catalog>, Arc<dyn Autoencoder>),
    console: Console,
) -> Outcome<(Run, Preview)> {
    let buckets = &wanted.data.buckets;
    let moving = buckets.iter().find(|bucket| !bucket.is_image());
    let preview = Preview {
        prompts: config
            .preview
            .clone()
            .map_or(vec![], |preview| preview.prompts),
        sample: wanted.sample,
        autoencoder: autoencoder.clone(),
        bucket: *moving.unwrap_or(&buckets[0]),
        fps: config.shapes.as_ref().map_or(16.0, |shapes| shapes.fps),
        folder: config.run.out.join("previews"),
        seed: config.run.seed,
        device: host(),
        dtype: config.run.dtype.precision().stored,
    };
    let model = Model::of(config)?;
    let precision = config.run.dtype.precision();
    let encoder = Encoders::open(&config.encoders, &model.widths(), precision)?;
    let encoder = encoder.map(Encoders::build);
    let run = Run {
        dir: config.run.out.clone(),
        config: wanted.train,
        build: model.build(),
        model: model.identity(),
        encoder,
        seed: config.run.seed,
        catalog,
        autoencoder,
        device: host(),
        precision: config.run.dtype.precision(),
        console,
    };
    Ok((run, preview))
}

/// Held for as long as the run writes: two at once would destroy each other's records.
fn lock(out: &Path) -> Outcome<File> {
    let file = File::create(out.join(".lock")).or_run()?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::input(format!(
            "another process is training into {}\n  help: wait for it, or train into another folder with --set run.out=FOLDER",
            out.display()
        ))),
        Err(TryLockError::Error(error)) => Err(Failure::Run(error.into())),
    }
}

/// A run has its folder to itself.
fn own_folder(out: &Path) -> Outcome {
    let held = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound && !out.as_os_str().is_empty() => {
            return Ok(());
        }
        Err(error) => {
            return Err(Failure::input(format!(
                "run.out = \"{}\" is no folder that a run can have: {error}\n  help: name a new folder, or that of a run",
                out.display()
            )));
        }
    };
    let mut others = held.flatten().filter(|entry| entry.file_name() != ".lock");
    match others.next() {
        Some(other) if !out.join("run.toml").is_file() => Err(Failure::input(format!(
            "run.out = {} holds other files, e.g. {}, and no run\n  help: name a new folder, or that of a run",
            out.display(),
            other.file_name().display()
        ))),
        _ => Ok(()),
    }
}

/// A folder that holds a run is only gone on with by the same model on the same data.
fn same_run(out: &Path, config: &RunConfig) -> Outcome {
    // Without a checkpoint there is nothing yet that another configuration would spoil.
    if !out.join("run.toml").is_file() || latest(&checkpoints(out))?.is_none() {
        return Ok(());
    }
    let before = read_run(out, &[])?;
    let differs = |name: &str, same: bool| {
        if same {
            return Ok(());
        }
        Err(Failure::input(format!(
            "{} holds a run with another {name}\n  help: restore it, or train into another folder with --set run.out=FOLDER",
            out.display()
        )))
    };
    differs("[model]", before.video()? == config.video()?)?;
    differs("[text]", before.text == config.text)?;
    differs("[lora]", before.lora == config.lora)?;
    differs("[[encoders]]", before.encoders == config.encoders)?;
    differs(
        "model.weights",
        before.model.weights == config.model.weights,
    )?;
    differs("[autoencoder]", before.autoencoder == config.autoencoder)?;
    differs("run.seed", before.run.seed == config.run.seed)
}

/// Previews: a video for each prompt, and a sheet of all.
#[derive(Clone)]
struct Preview {
    prompts: Vec<String>,
    sample: SampleConfig,
    autoencoder: Arc<dyn Autoencoder>,
    bucket: Bucket,
    fps: f64,
    folder: PathBuf,
    seed: u64,
    /// That of this rank.
    device: Device,
    dtype: DType,
}

impl Hooks for Preview {
    fn preview(
        &self,
        model: &TextToVideo,
        encoder: Option<&dyn PromptEncoder>,
        step: u64,
        sharding: &Arc<Sharding>,
    ) -> Result<(), String> {
        let Bucket {
            frames,
            height,
            width,
            ..
        } = self.bucket;
        let shape = self
            .autoencoder
            .latent_shape([frames, height, width])
            .map_err(|e| e.to_string())?;
        let sampler = Sampler {
            model,
            config: &self.sample,
            device: &self.device,
            dtype: self.dtype,
            cfg: sharding.group(&[MeshAxis::Cfg]),
        };
        let asked = Asked::new(&self.prompts, &self.sample.negative, encoder);
        let latents = sampler.sample(&asked, shape, (self.seed, 0), |_| {});
        if sharding.rank() != 0 {
            return Ok(());
        }
        // The others may already wait for the next step.
        sharding.world().busy(|| {
            let latents = latents
                .cast(DType::F32)
                .to_device(&self.autoencoder.device());
            let videos = clips(self.autoencoder.decode(latents), self.fps);
            self.write(step, videos)
                .map_err(|error| format!("a preview: {error}"))
        })
    }
}

impl Preview {
    fn write(&self, step: u64, videos: Vec<Clip>) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder)?;
        for (i, clip) in videos.iter().enumerate() {
            let path = self.folder.join(format!("step-{step:08}-{}.mp4", i + 1));
            let mut writer = Mp4Writer::create(&path, clip.width, clip.height, clip.fps)?;
            for frame in 0..clip.frames {
                writer.push(clip.frame(frame))?;
            }
            writer.finish()?;
        }
        let rows: Vec<(String, Clip)> = self.prompts.iter().cloned().zip(videos).collect();
        let scale = (768 / self.bucket.width).clamp(1, 3);
        let sheet = contact_sheet(&rows, 8, scale)?;
        let path = self.folder.join(format!("step-{step:08}.png"));
        whole::write(&path, &sheet)?;
        Ok(())
    }
}
