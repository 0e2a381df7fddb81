//! `kinora data inspect`: what a data set holds.

use super::storage;
use crate::cli::DataInspect;
use crate::config::read;
use crate::failure::{Failure, OrRun, Outcome};
use crate::verbs::{console, json};
use kinora_data::{Catalog, Columns, DataConfig, StoreOptions, Summary};
use kinora_ingest::{ColumnNames, Look, Sample, Searched, look};
use kinora_media::{Clip, Decoder, Kind, Window, contact_sheet, probe};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// What `--json` prints.
#[derive(Serialize)]
struct Inspected {
    #[serde(flatten)]
    look: Look,
    /// How the configuration's buckets take it.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    summary: Option<Buckets>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<Value>,
}

#[derive(Serialize)]
struct Buckets {
    buckets: Vec<kinora_data::BucketSummary>,
    left_out: kinora_data::LeftOut,
    captions: kinora_data::CaptionSummary,
}

pub(super) fn inspect(args: &DataInspect) -> Outcome {
    let config = match &args.data[..] {
        [path]
            if Path::new(path)
                .extension()
                .is_some_and(|extension| extension == "toml") =>
        {
            let config = read(Path::new(path), &args.changes.set)?;
            Some(config.need(&config.data, "data", "data inspect")?.clone())
        }
        _ if !args.changes.set.is_empty() => {
            return Err(Failure::input(
                "--set changes a configuration, and none is given\n  help: give a configuration in place of the data",
            ));
        }
        _ => None,
    };
    let searched = Searched {
        random: if args.sheet.is_some() {
            args.samples
        } else {
            0
        },
        seed: args.seed,
        key: args.sample.clone(),
    };
    let mut look = through(args, config.as_ref(), &searched)?;
    let mut samples = std::mem::take(&mut look.samples);
    let sample = match &args.sample {
        Some(key) if samples.len() <= searched.random && !found(&samples, key) => {
            return Err(Failure::input(format!(
                "no row has the key {key}\n  help: --sample also takes FILE:ROW, e.g. shard-00000.parquet:0"
            )));
        }
        Some(_) => Some(samples.remove(0)),
        None => None,
    };
    let sample = match sample {
        Some(sample) => Some(write_sample(&sample, &args.out)?),
        None => None,
    };
    if let Some(path) = &args.sheet {
        sheet(&samples, path)?;
    }
    if !args.json {
        match &sample {
            Some(sample) => say!("{}", pretty(sample)),
            None => look.lines().iter().for_each(|line| say!("{line}")),
        }
    }
    // Last, so that a configuration that does not fit the data hides nothing of what there is.
    let summary = match &config {
        Some(config) => Some(Catalog::open(config)?.summary()?),
        None => None,
    };
    if args.json {
        json(&Inspected {
            look,
            sample,
            summary: summary.map(|summary| Buckets {
                buckets: summary.buckets,
                left_out: summary.left_out,
                captions: summary.captions,
            }),
        });
    } else if let Some(summary) = &summary {
        buckets(summary);
    }
    Ok(())
}

fn through(args: &DataInspect, config: Option<&DataConfig>, searched: &Searched) -> Outcome<Look> {
    let (locations, columns, options) = match config {
        None => (
            args.data.clone(),
            Columns::default(),
            StoreOptions::default(),
        ),
        Some(config) => {
            let sets = config.all_sets();
            let columns = sets.first().map(|set| config.columns_of(set).clone());
            let paths = sets.into_iter().flat_map(|set| set.paths).collect();
            (paths, columns.unwrap_or_default(), config.store.clone())
        }
    };
    // What is not said otherwise is looked for under the usual names.
    let usual = Columns::default();
    let said = |name: String, usual: String| (name != usual).then_some(name);
    let names = ColumnNames {
        media: said(columns.media, usual.media),
        caption: said(columns.caption, usual.caption),
        ..ColumnNames::default()
    };
    let mut bar = None;
    let look = look(
        &locations,
        &storage(options),
        &names,
        searched,
        |done, total| {
            let bar =
                bar.get_or_insert_with(|| console(args.quiet).progress(total, "looking, row"));
            bar.at(done);
        },
    )?;
    if let Some(bar) = bar {
        bar.finish();
    }
    Ok(look)
}

fn found(samples: &[Sample], key: &str) -> bool {
    samples.first().is_some_and(|sample| {
        sample.place == key
            || sample
                .columns
                .values()
                .any(|value| value.as_str() == Some(key))
    })
}

fn buckets(summary: &Summary) {
    for bucket in &summary.buckets {
        say!(
            "bucket {}: {} samples, {:.1} steps of {} an epoch",
            bucket.bucket,
            bucket.samples,
            bucket.steps_per_epoch,
            bucket.bucket.batch
        );
    }
    let captions = &summary.captions;
    say!(
        "captions: {} to {} characters, {:.1} on average, {} empty",
        captions.shortest,
        captions.longest,
        captions.mean,
        captions.empty
    );
    let left_out = &summary.left_out;
    say!(
        "left out: {} too short, {} too slow, {} that fit no bucket, {} unreadable",
        left_out.too_short,
        left_out.too_slow,
        left_out.no_bucket,
        left_out.unreadable
    );
    for example in &left_out.examples {
        say!("  {example}");
    }
}

/// Writes a row's media and sound, and returns its columns with the names of these files.
fn write_sample(sample: &Sample, folder: &Path) -> Outcome<Value> {
    let key = sample
        .columns
        .get("key")
        .and_then(Value::as_str)
        .unwrap_or(&sample.place);
    let safe = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => letter,
        _ => '_',
    };
    let name: String = key.chars().map(safe).collect();
    let name = name.trim_start_matches('.');
    let mut columns = sample.columns.clone();
    if let Some(Value::String(text)) = columns.get("meta")
        && let Ok(meta) = serde_json::from_str(text)
    {
        columns.insert("meta".into(), meta);
    }
    std::fs::create_dir_all(folder).or_run()?;
    let mut write = |column: &str, extension: &str, bytes: &[u8]| {
        let full = match name.ends_with(&format!(".{extension}")) {
            true => name.to_owned(),
            false => format!("{name}.{extension}"),
        };
        let path = folder.join(full);
        columns.insert(column.into(), path.display().to_string().into());
        std::fs::write(path, bytes).or_run()
    };
    match &sample.media {
        Ok(bytes) => {
            let extension = match probe(bytes).map(|info| info.kind) {
                Ok(Kind::Mp4) => "mp4",
                Ok(Kind::Png) => "png",
                Ok(Kind::Jpeg) => "jpg",
                Ok(Kind::Gif) => "gif",
                Ok(Kind::WebP) => "webp",
                _ => "bin",
            };
            write("media_file", extension, bytes)?;
        }
        Err(reason) => {
            return Err(Failure::run(format!(
                "the media of {key} cannot be read: {reason}"
            )));
        }
    }
    if let Some(audio) = &sample.audio {
        let extension = match &audio[..] {
            [b'R', b'I', b'F', b'F', ..] => "wav",
            [b'O', b'g', b'g', b'S', ..] => "ogg",
            [b'f', b'L', b'a', b'C', ..] => "flac",
            [b'I', b'D', b'3', ..] | [0xff, ..] => "mp3",
            _ => "m4a",
        };
        write("audio_file", extension, audio)?;
    }
    Ok(Value::Object(columns))
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("strings and numbers")
}

/// Height of a picture on the sheet, and its greatest width.
const HEIGHT: usize = 128;
const WIDEST: usize = 384;
/// Frames of a video on the sheet.
const FRAMES: usize = 4;

fn sheet(samples: &[Sample], path: &Path) -> Outcome {
    let mut decoder = Decoder::new();
    let mut rows = Vec::new();
    for sample in samples {
        let clip = match &sample.media {
            Ok(bytes) => picture(&mut decoder, sample, bytes),
            Err(reason) => Err(reason.clone()),
        };
        match clip {
            Ok(clip) => rows.push((sample.caption.clone(), clip)),
            Err(reason) => {
                let grey = Clip {
                    frames: 1,
                    height: HEIGHT / 4,
                    width: HEIGHT,
                    fps: 0.0,
                    rgb: vec![128; HEIGHT / 4 * HEIGHT * 3],
                };
                rows.push((format!("{}: {reason}", sample.place), grey));
            }
        }
    }
    let png = contact_sheet(&rows, FRAMES, 1)
        .map_err(|error| Failure::input(format!("--sheet: {error}")))?;
    std::fs::write(path, png).map_err(|error| Failure::run(format!("{}: {error}", path.display())))
}

fn picture(decoder: &mut Decoder, sample: &Sample, bytes: &[u8]) -> Result<Clip, String> {
    let info = probe(bytes).map_err(|error| error.to_string())?;
    let width = (HEIGHT * info.width / info.height.max(1)).clamp(8, WIDEST);
    let number = |name: &str| sample.columns.get(name).and_then(Value::as_f64);
    let window = if info.frames == 1 {
        Window::frames(0, 1)
    } else {
        let start = number("start").unwrap_or(0.0);
        let duration = number("duration").filter(|&duration| duration > 0.0);
        let duration = duration.unwrap_or(info.duration - start);
        Window::time(start, FRAMES as f64 / duration.max(1e-3), FRAMES)
    };
    decoder
        .window(bytes, window.sized([HEIGHT, width]))
        .map_err(|error| error.to_string())
}
