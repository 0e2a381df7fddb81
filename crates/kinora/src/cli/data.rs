//! The command line of `kinora data`.

use super::{Changes, ConfigArgs};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    /// Make a data set of media and captions that you have
    Ingest(Box<Ingest>),
    /// Make a data set of moving shapes with captions
    #[command(subcommand)]
    Make(Make),
    /// Show what a data set holds, and how the configuration's buckets take it
    Inspect(DataInspect),
    /// Write the latents of a data set once, so that training need not decode or encode
    Encode(DataEncode),
    /// Check that a data set is whole: its files against the manifest, its media against their hashes
    Check(DataCheck),
}

#[derive(Args, Debug)]
#[command(after_help = "\
A source is a folder of media (any depth) with captions beside them (X.txt, X.json), a table (.jsonl,
.csv, .tsv) that names media, tar files as WebDataset has them, or Parquet files of any schema. Clips
are cut into scenes. The same command goes on after any end, with the same result.

  kinora data ingest photos --out datasets/photos
  kinora data ingest films films.jsonl --out datasets/films --min-side 256 --max-seconds 16
  kinora data ingest hf/train --out datasets/hf --media-column image --caption-column text
  kinora data ingest films --out datasets/films --config configs/ingest.toml

The folder gets shard-*.parquet, manifest.json, report.json (what was kept and dropped, and why) and
dropped.jsonl (all that was dropped).")]
pub(crate) struct Ingest {
    /// Where media and captions lie; one or several
    #[arg(required = true, value_name = "SRC")]
    pub(crate) sources: Vec<PathBuf>,
    /// The folder to make
    #[arg(long, short, value_name = "FOLDER")]
    pub(crate) out: PathBuf,
    /// Settings: a TOML file with a table [ingest], like configs/ingest.toml; the options below come
    /// on top
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What the sources are, if it is not to be recognised: folder, table, tar or parquet
    #[arg(long, value_name = "KIND", value_parser = ["folder", "table", "tar", "parquet"])]
    pub(crate) kind: Option<String>,
    /// Threads that probe, look, cut and hash; as many as there are cores
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Megabytes of media that may be under way
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    pub(crate) memory: usize,
    /// The column or field that holds the media or their path
    #[arg(long, value_name = "NAME")]
    pub(crate) media_column: Option<String>,
    /// The column or field that holds the caption
    #[arg(long, value_name = "NAME")]
    pub(crate) caption_column: Option<String>,
    /// Keep clips whole, instead of cutting them into scenes
    #[arg(long)]
    pub(crate) no_cut: bool,
    /// Split longer scenes evenly
    #[arg(long, value_name = "S")]
    pub(crate) max_seconds: Option<f64>,
    /// Leave out shorter videos and scenes
    #[arg(long, value_name = "S")]
    pub(crate) min_seconds: Option<f64>,
    /// Leave out what has a shorter side than this
    #[arg(long, value_name = "PIXELS")]
    pub(crate) min_side: Option<usize>,
    /// Leave out what looks like an earlier one: so many bits of 64 may differ; 4 is usual
    #[arg(long, value_name = "BITS")]
    pub(crate) near: Option<u32>,
    /// Leave the media where they are, below the folder, and write their places only
    #[arg(long)]
    pub(crate) uri: bool,
    /// Leave sound out
    #[arg(long)]
    pub(crate) no_audio: bool,
    /// Keep media without a caption; theirs is empty
    #[arg(long)]
    pub(crate) uncaptioned: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Make {
    /// Moving coloured shapes, in Parquet shards of MP4, PNG and JPEG
    Shapes(Shapes),
}

#[derive(Args, Debug)]
pub(crate) struct Shapes {
    /// The folder to make
    #[arg(long, short)]
    pub(crate) out: PathBuf,
    /// Videos
    #[arg(long, default_value_t = 3000)]
    pub(crate) videos: u64,
    /// Images
    #[arg(long, default_value_t = 1500)]
    pub(crate) images: u64,
    /// How far from the middle objects are placed, in pixels of a 32-pixel frame: 3 is easy, 99 is
    /// anywhere they fit
    #[arg(long, default_value_t = 3.0)]
    pub(crate) freedom: f64,
    /// Frames of a video
    #[arg(long, default_value_t = 16)]
    pub(crate) frames: usize,
    /// Height and width in pixels
    #[arg(long, default_value_t = 32)]
    pub(crate) size: usize,
    /// Other seeds draw other samples
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DataEncode {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The folder that gets the shards of latents, and the autoencoder that made them
    #[arg(long, short)]
    pub(crate) out: PathBuf,
    /// Say how many samples, bytes and seconds it would be, and end
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DataInspect {
    /// Data folders, Parquet files or URLs; or the configuration of a run, which adds its buckets
    #[arg(required = true, value_name = "DATA")]
    pub(crate) data: Vec<String>,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// Write a contact sheet of samples drawn by chance here (.png)
    #[arg(long, value_name = "FILE")]
    pub(crate) sheet: Option<PathBuf>,
    /// How many samples the sheet shows
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub(crate) samples: usize,
    /// Other seeds draw other samples
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Print the row with this key, or at this FILE:ROW, and write its media into --out
    #[arg(long, value_name = "KEY")]
    pub(crate) sample: Option<String>,
    /// The folder for the sample's media
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(crate) out: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DataCheck {
    /// Data folders, Parquet files or URLs
    #[arg(required = true, value_name = "DATA")]
    pub(crate) data: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}
