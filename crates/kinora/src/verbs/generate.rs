//! `kinora generate`: a prompt to a video or an image.

use super::console;
use crate::cli::Generate;
use crate::config::read_run;
use crate::failure::{Failure, OrInput, OrRun, Outcome};
use crate::ranks::Here;
use crate::run::Trained;
use crate::whole;
use burn::tensor::{Device, Tensor};
use kinora_generate::{Sampler, Windows};
use kinora_media::{Clip, Mp4Writer, contact_sheet, encode_jpeg, encode_png};
use kinora_mesh::MeshAxis;
use kinora_models::autoencoder::Decode;
use kinora_train::TrainError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

// Frames of the contact sheet beside a video.
const SHEET_FRAMES: usize = 8;

/// What the path's extension asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Video,
    Png,
    Jpeg,
}

pub(crate) fn generate(args: &Generate, here: &Here) -> Outcome {
    let started = Instant::now();
    let kind = kind(&args.out)?;
    let config = read_run(&args.run, &args.changes.set)?;
    let ranks = here.ranks(&config)?;
    let mut trained = ranks.busy(|| Trained::open(&args.run, &args.changes.set, "generate"))?;
    if let Some(steps) = args.steps {
        trained.sample.schedule = trained.sample.schedule.with_steps(steps);
    }
    trained.sample.guidance = args.guidance.unwrap_or(trained.sample.guidance);
    trained.check_guidance()?;
    let frames = frames(args, &trained, kind)?;
    let window = if kind == Kind::Video {
        trained.bucket.frames
    } else {
        1
    };
    let [_, window, _, _] = trained.latent(window)?;
    trained.sample.check(window).or_input()?;
    writable(&args.out)?;

    let shown = console(args.quiet);
    let job = Job {
        prompt: args.prompt.clone(),
        seed: args.seed,
        out: args.out.clone(),
        frames,
        window,
        kind,
    };
    let trained = Arc::new(trained);
    let done = ranks.run(trained.devices, move |sharding, device| {
        let rank_zero = sharding.rank() == 0;
        job.run(&trained, (sharding, &device), rank_zero.then_some(shown))
    })?;
    if done.is_none() {
        return Ok(());
    }
    say!(
        "wrote {} in {:.1} s",
        args.out.display(),
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn kind(out: &Path) -> Outcome<Kind> {
    let extension = out.extension().and_then(|extension| extension.to_str());
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("mp4") => Ok(Kind::Video),
        Some("png") => Ok(Kind::Png),
        Some("jpg" | "jpeg") => Ok(Kind::Jpeg),
        _ => Err(Failure::input(format!(
            "{} has no ending that says what to make\n  help: use .mp4 for a video, .png or .jpg for an image",
            out.display()
        ))),
    }
}

/// The frames to make, a whole number of latent frames.
fn frames(args: &Generate, trained: &Trained, kind: Kind) -> Outcome<usize> {
    if kind != Kind::Video {
        if args.seconds.is_some() {
            return Err(Failure::input(
                "--seconds has no effect on an image\n  help: leave it out, or write to .mp4",
            ));
        }
        return Ok(1);
    }
    let Some(seconds) = args.seconds else {
        return Ok(trained.bucket.frames);
    };
    if !(seconds > 0.0 && seconds <= 86_400.0) {
        return Err(Failure::input(format!(
            "--seconds {seconds}\n  help: use more than 0 and at most 86400 (a day)"
        )));
    }
    // Of the lengths that there are, the nearest.
    let autoencoder = &trained.autoencoder;
    let (first, each) = (autoencoder.frames(1) as f64, autoencoder.scale()[0] as f64);
    let latents = ((seconds * trained.fps() - first) / each).round().max(0.0) as usize + 1;
    Ok(autoencoder.frames(latents))
}

/// Found out before the work, not after.
pub(super) fn writable(out: &Path) -> Outcome {
    let folder = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if folder.is_dir() {
        return Ok(());
    }
    Err(Failure::input(format!(
        "{} is no folder, so {} cannot be written\n  help: make it, or write elsewhere",
        folder.display(),
        out.display()
    )))
}

struct Job {
    prompt: String,
    seed: u64,
    out: PathBuf,
    /// Frames to make, and latent frames of a window.
    frames: usize,
    window: usize,
    kind: Kind,
}

impl Job {
    /// Every rank samples; the first, which has a console, decodes and writes.
    fn run(
        &self,
        trained: &Trained,
        (sharding, device): (Arc<kinora_shard::Sharding>, &Device),
        console: Option<kinora_track::Console>,
    ) -> Result<(), TrainError> {
        let prompts = std::slice::from_ref(&self.prompt);
        let asked = trained.ask(prompts, &sharding, device)?;
        let model = trained.model(&sharding, device)?;
        let sampler = Sampler {
            model: &model,
            config: &trained.sample,
            device,
            dtype: trained.dtype(),
            cfg: sharding.group(&[MeshAxis::Cfg]),
        };
        let failed = |error: Failure| TrainError::Sample(error.to_string());
        let [c, total, h, w] = trained.latent(self.frames).map_err(failed)?;
        let mut windows =
            Windows::new(&sampler, &asked, self.seed, [c, h, w], (self.window, total));
        let steps = windows.count() * trained.sample.schedule.steps();
        let bar = console.map(|console| console.progress(steps as u64, "sampling, step"));
        let mut output = match console {
            Some(_) => Some(Output::create(self, trained).map_err(failed)?),
            None => None,
        };
        let mut decoder = trained.autoencoder.decoder();
        while let Some(latents) = windows.next(|_| {
            if let Some(bar) = &bar {
                bar.advance(1);
            }
        }) {
            if let Some(output) = &mut output {
                let written = sharding
                    .world()
                    .busy(|| output.push(trained, &mut *decoder, latents));
                written.map_err(failed)?;
            }
        }
        if let Some(bar) = bar {
            bar.finish();
        }
        match output {
            Some(output) => output.finish(self).map_err(failed),
            None => Ok(()),
        }
    }
}

/// The file under way, and the frames of its contact sheet.
struct Output {
    video: Option<Mp4Writer>,
    fps: f64,
    every: f64,
    pushed: usize,
    shown: Vec<Clip>,
}

impl Output {
    fn create(job: &Job, trained: &Trained) -> Outcome<Self> {
        let (width, height, fps) = (trained.bucket.width, trained.bucket.height, trained.fps());
        let video = match job.kind {
            Kind::Video => Some(Mp4Writer::create(&job.out, width, height, fps).or_run()?),
            _ => None,
        };
        let every = (job.frames as f64 / SHEET_FRAMES as f64).max(1.0);
        Ok(Self {
            video,
            fps,
            every,
            pushed: 0,
            shown: vec![],
        })
    }

    fn push(&mut self, trained: &Trained, decoder: &mut dyn Decode, latents: Tensor<5>) -> Outcome {
        for clip in trained.decode_next(decoder, latents) {
            for i in 0..clip.frames {
                let frame = clip.frame(i);
                if let Some(video) = &mut self.video {
                    video.push(frame).or_run()?;
                }
                if self.pushed as f64 >= self.shown.len() as f64 * self.every
                    && self.shown.len() < SHEET_FRAMES
                {
                    let (height, width) = (clip.height, clip.width);
                    let rgb = frame.to_vec();
                    self.shown.push(Clip {
                        frames: 1,
                        height,
                        width,
                        fps: self.fps,
                        rgb,
                    });
                }
                self.pushed += 1;
            }
        }
        Ok(())
    }

    fn finish(self, job: &Job) -> Outcome {
        let first = &self.shown[0];
        let (height, width) = (first.height, first.width);
        let write = |path: &Path, bytes: Vec<u8>| whole::write(path, &bytes).or_run();
        match job.kind {
            Kind::Png => write(&job.out, encode_png(&first.rgb, height, width).or_run()?),
            Kind::Jpeg => write(
                &job.out,
                encode_jpeg(&first.rgb, height, width, 95).or_run()?,
            ),
            Kind::Video => {
                let video = self.video.expect("a video was begun");
                video.finish().or_run()?;
                let frames = self.shown.len();
                let rgb = self
                    .shown
                    .iter()
                    .flat_map(|frame| frame.rgb.iter().copied())
                    .collect();
                let clip = Clip {
                    frames,
                    height,
                    width,
                    fps: self.fps,
                    rgb,
                };
                let scale = (96 / width).max(1);
                let rows = [(job.prompt.clone(), clip)];
                write(
                    &job.out.with_extension("png"),
                    contact_sheet(&rows, frames, scale).or_run()?,
                )
            }
        }
    }
}
