//! `kinora data encode`: latents of a whole data set, written once.

use super::console;
use crate::autoencoder;
use crate::cli::DataEncode;
use crate::config::{RunConfig, read};
use crate::device::{RankDevices, host};
use crate::failure::{Failure, OrInput, OrRun, Outcome};
use crate::ranks::Here;
use crate::whole as file;
use kinora_data::{Catalog, Manifest, ShardEntry};
use kinora_train::{Encode, EncodeReport, seconds_per_sample};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of the folder that says what it was made from.
const RECORD: &str = "encode.json";
/// The file that a job holds locked; it is the first to be made.
const LOCK: &str = ".lock";

/// What decides the latents: a job goes on only with the same.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    data: String,
    autoencoder: String,
    /// Filled when the job is done.
    report: Option<EncodeReport>,
}

pub(crate) fn encode(args: &DataEncode, here: &Here) -> Outcome {
    let config = read(&args.config.config, &args.config.changes.set)?;
    let data = config.need(&config.data, "data", "data encode")?;
    config.need(&config.autoencoder, "autoencoder", "data encode")?;
    if data.latents {
        return Err(Failure::input(
            "data.latents is set: what it names is encoded already\n  help: name the media in data.paths, and leave data.latents out",
        ));
    }
    let devices = RankDevices::open(&config)?;
    let ranks = here.ranks(&config)?;
    let console = console(args.quiet || !ranks.lead());
    if args.dry_run {
        let scratch = Scratch::new()?;
        return ranks
            .first(|| prepare(&scratch.0, args.quiet, &config))
            .map(|_| ());
    }
    let prepared = ranks.first(|| prepare(&args.out, args.quiet, &config))?;
    let (job, _lock) = match prepared {
        Some(None) => (None, None),
        Some(Some((job, lock))) => (Some(job), Some(lock)),
        None => (None, None),
    };
    // The other processes see from the folder whether the first found all of it done.
    if job.is_none() && done(&args.out) {
        return Ok(());
    }
    let job = match job {
        Some(job) => job,
        // The first process has made the folder.
        None => ranks.busy(|| open(&config, &args.out))?,
    };
    let total: u64 = job.catalog.samples().iter().sum();
    let world = config.mesh.ranks() as u64;
    let bar =
        Arc::new(console.progress(total.div_ceil(world), "encoding on the first rank, sample"));
    let (job, shown) = (Arc::new(job), bar.clone());
    let shared = job.clone();
    let report = ranks.run(devices, move |sharding, _| {
        let lead = sharding.rank() == 0;
        let progress = |seen| {
            if lead {
                shown.at(seen);
            }
        };
        shared.run(&sharding, &progress)
    })?;
    drop(bar);
    let Some(report) = report else {
        return Ok(());
    };
    for reason in report.reasons.iter().take(10) {
        eprintln!("left out {reason}");
    }
    let (samples, dropped) = (report.samples, report.dropped);
    write_record(&args.out, &job, Some(report))?;
    job.forget_pieces().or_run()?;
    say!(
        "encoded {samples} samples into {}, {dropped} left out",
        args.out.display()
    );
    say!(
        "train on them with:\n  --set data.paths='\"{}\"' --set data.latents=true",
        args.out.display()
    );
    Ok(())
}

/// A folder for what a dry run needs, which nobody shall find.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Outcome<Self> {
        let name = format!("kinora-encode-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).or_run()?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is small, and the system's to clear away.
        _ = fs::remove_dir_all(&self.0);
    }
}

/// Everything that one process alone does: the folder, its autoencoder, the estimate. `None` if all is
/// done already.
fn prepare(out: &Path, quiet: bool, config: &RunConfig) -> Outcome<Option<(Encode, File)>> {
    let (data, section) = (
        config.need(&config.data, "data", "data encode")?,
        config.need(&config.autoencoder, "autoencoder", "data encode")?,
    );
    let catalog = Arc::new(Catalog::open(data)?);
    let begun = out.join(LOCK).exists() || out.join(RECORD).exists();
    if !begun && out.is_dir() && fs::read_dir(out).or_run()?.next().is_some() {
        return Err(Failure::input(format!(
            "{} holds other files\n  help: give --out a folder of its own",
            out.display()
        )));
    }
    fs::create_dir_all(out).or_run()?;
    // Before anything else: what is found in the folder from now on is this verb's.
    let lock = lock(out)?;
    sweep(out)?;
    // The run's own autoencoder if it has one, else one that is fitted here and stays here.
    autoencoder::adopt(&config.run.out, out)?;
    let console = super::console(quiet);
    let coder = autoencoder::adopted_or_fit(out, section, &catalog, &host(), console)?;
    let job = Encode {
        catalog,
        identity: coder.identity,
        autoencoder: coder.autoencoder,
        out: out.to_path_buf(),
    };
    if out.join(RECORD).exists() {
        let json = fs::read(out.join(RECORD)).or_run()?;
        let was: Record = serde_json::from_slice(&json).or_input()?;
        let is = record(&job, None);
        if (&was.data, &was.autoencoder) != (&is.data, &is.autoencoder) {
            return Err(Failure::input(format!(
                "{} was begun with other data or settings:\n  it was {}, {}\n  it is {}, {}\n  help: restore them, or give another --out",
                out.display(),
                was.data,
                was.autoencoder,
                is.data,
                is.autoencoder
            )));
        }
        if let Some(report) = was.report.filter(|_| whole(out)) {
            say!(
                "{} is already encoded: {} samples",
                out.display(),
                report.samples
            );
            return Ok(None);
        }
    }
    write_record(out, &job, None)?;
    let samples: u64 = job.catalog.samples().iter().sum();
    let bytes = job.bytes().or_input()?;
    let seconds = seconds_per_sample(&job, &host()).or_run()? * samples as f64;
    say!(
        "{samples} samples become {:.1} MB of latents before compression, in about {} on {} ranks",
        bytes as f64 / 1e6,
        duration(seconds / config.mesh.ranks() as f64),
        config.mesh.ranks()
    );
    let left_out = job.catalog.left_out().total();
    if left_out > 0 {
        say!("{left_out} samples fit no bucket; kinora data inspect says why");
    }
    Ok(Some((job, lock)))
}

fn open(config: &RunConfig, out: &Path) -> Outcome<Encode> {
    let data = config.need(&config.data, "data", "data encode")?;
    let section = config.need(&config.autoencoder, "autoencoder", "data encode")?;
    let coder = autoencoder::read(out, section, &host())?;
    Ok(Encode {
        catalog: Arc::new(Catalog::open(data)?),
        identity: coder.identity,
        autoencoder: coder.autoencoder,
        out: out.to_path_buf(),
    })
}

/// Keeps a second process out of the folder, for as long as it is held.
fn lock(out: &Path) -> Outcome<File> {
    let path = out.join(LOCK);
    let file = File::create(&path).or_run()?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Failure::input(format!(
            "another process encodes into {}\n  help: wait for it, or give another --out",
            out.display()
        )),
        TryLockError::Error(error) => Failure::Run(error.into()),
    })?;
    Ok(file)
}

/// Removes what killed jobs left half written.
fn sweep(out: &Path) -> Outcome {
    for entry in fs::read_dir(out).or_run()? {
        let path = entry.or_run()?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.contains(".partial-") {
            fs::remove_file(&path).or_run()?;
        }
    }
    Ok(())
}

/// Whether the folder holds a report, and every shard of its manifest.
fn done(out: &Path) -> bool {
    let json = fs::read(out.join(RECORD)).ok();
    let record = json.and_then(|json| serde_json::from_slice::<Record>(&json).ok());
    record.is_some_and(|record| record.report.is_some()) && whole(out)
}

fn whole(out: &Path) -> bool {
    let there = |shard: &ShardEntry| {
        fs::metadata(out.join(&shard.name)).is_ok_and(|file| file.len() == shard.bytes)
    };
    Manifest::read(out)
        .ok()
        .flatten()
        .is_some_and(|manifest| manifest.shards.iter().all(there))
}

fn record(job: &Encode, report: Option<EncodeReport>) -> Record {
    Record {
        data: job.catalog.fingerprint(),
        autoencoder: job.identity.clone(),
        report,
    }
}

fn write_record(out: &Path, job: &Encode, report: Option<EncodeReport>) -> Outcome {
    let json = serde_json::to_vec_pretty(&record(job, report)).or_run()?;
    file::write(&out.join(RECORD), &json).or_run()
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
