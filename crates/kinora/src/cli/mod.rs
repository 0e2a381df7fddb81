//! The command line.

mod data;

pub(crate) use data::{Data, DataCheck, DataEncode, DataInspect, Ingest, Make, Shapes};

use crate::model::Names;
use clap::{Args, Parser, Subcommand};
use kinora_shard::DeviceKind;
use std::ffi::OsString;
use std::path::PathBuf;

/// Train and run flow-matching video transformers, on one CPU or sharded.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Exit codes: 0 done, 1 something failed on the way, 2 the input does not work,
70 a rank hung and had to be ended. Of launched ranks: the code of the first that failed.

Start here:  kinora train configs/quickstart.toml"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Train a model, or go on with a run that was stopped
    Train(Train),
    /// Make a video, or an image, from a prompt
    Generate(Generate),
    /// Score a run's videos with rules that need no learning
    Eval(Eval),
    /// Start the ranks of train, generate, eval or verify as processes, here or on several machines
    Launch(Launch),
    /// Estimate the memory, messages and time of a mesh and plan, without starting anything
    Plan(Plan),
    /// Prove that the plan computes what one rank does: a small model of the same cut, sharded and whole
    Verify(Verify),
    /// Write a run's weights, or other people's, as files that other programs read
    Convert(Convert),
    /// Make a data set, of your own media or of shapes, or look into one
    #[command(subcommand)]
    Data(Data),
    /// Show what a run has done, and check its newest checkpoint
    Inspect(Inspect),
    /// Show what this machine has and lacks
    Doctor(Doctor),
}

/// A configuration file and changes to it.
#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    /// The run's configuration
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) changes: Changes,
}

#[derive(Args, Debug)]
pub(crate) struct Changes {
    /// Change a setting, e.g. --set train.steps=200 or --set 'plan.seq=["tp"]'
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Train {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Convert {
    /// The folder of a run, or weights: a .safetensors or .pth file, or a folder of them
    pub(crate) from: PathBuf,
    /// Where to: a .safetensors file, or a folder of files of at most 5 GB with an index
    #[arg(long, short)]
    pub(crate) out: PathBuf,
    /// Whose names and shapes the tensors get. Adapters get the names that diffusers or ComfyUI reads
    #[arg(long, value_enum, default_value = "diffusers")]
    pub(crate) names: Names,
    /// What numbers are written as: bf16, f16 or f32
    #[arg(long, default_value = "bf16")]
    pub(crate) dtype: String,
    /// What the weights are of, e.g. wan-2.1-t2v-1.3b; a run knows it
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Of a run that trained adapters: write the whole model, with the adapters added to it
    #[arg(long)]
    pub(crate) merge: bool,
    /// Replace what is there
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Generate {
    /// The folder of a run
    pub(crate) run: PathBuf,
    /// What to show
    #[arg(long, short)]
    pub(crate) prompt: String,
    /// Where to: .mp4 for a video (a contact sheet, .png, is written beside it), .png or .jpg for an
    /// image
    #[arg(long, short)]
    pub(crate) out: PathBuf,
    /// The length of the video; longer than trained is made of overlapping windows
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) seconds: Option<f64>,
    /// Other seeds make other videos
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Steps of the solver, instead of the configuration's
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    /// Strength of the prompt, instead of the configuration's; 1 is none
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) guidance: Option<f64>,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Eval {
    /// The folder of a run
    pub(crate) run: PathBuf,
    /// Prompts with held-out combinations, and as many without
    #[arg(long, default_value_t = 104)]
    pub(crate) prompts: usize,
    /// Other seeds draw other prompts and other noise
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Write a contact sheet of some of the videos here (.png)
    #[arg(long)]
    pub(crate) sheet: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Without launch, ranks are threads of one process. Launched, each is a process of its own, with the
same results. Lines are printed with the rank before them, but for the results of rank 0. When a
rank fails, the others are ended, and the exit code is its own; when the launcher is ended, so are
all ranks.

  kinora launch train configs/quickstart.toml             as many ranks as the mesh holds, here
  kinora launch -n 2 generate runs/quickstart -p TEXT -o a.mp4
  kinora launch --mpi train configs/quickstart.toml       started and connected by MPI
  kinora launch --hosts a,b -n 4 train big.toml           4 ranks on each of two machines
  mpirun -n 2 kinora train configs/quickstart.toml        the same without launch

For MPI the program must be built with --features mpi. On other machines it must lie at the same
path, and all must see the same run and data folders.")]
pub(crate) struct Launch {
    /// How many ranks to start, with --hosts on each; without it, as many as the mesh holds
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) ranks: Option<usize>,
    /// Let mpirun start and connect the ranks
    #[arg(long)]
    pub(crate) mpi: bool,
    /// Start ranks on these machines, by mpirun
    #[arg(long, value_name = "HOST,HOST", value_delimiter = ',')]
    pub(crate) hosts: Vec<String>,
    /// What every rank runs: train, generate, eval or verify --here, with its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "VERB"
    )]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Ranks: the configured mesh with more or fewer data groups
    #[arg(long, value_name = "N")]
    pub(crate) gpus: Option<usize>,
    /// The device: a name of configs/hardware, or a file like those; cpu is the default for up to
    /// eight ranks of the configuration, h100-sxm for more and with --gpus
    #[arg(long, value_name = "NAME")]
    pub(crate) hardware: Option<String>,
    /// Rank the plans of as many ranks that fit in memory, and print the fastest for the configuration
    #[arg(long)]
    pub(crate) search: bool,
    /// Estimate the generation of one sample, instead of a training step
    #[arg(long)]
    pub(crate) generate: bool,
    /// Show how each weight is cut, over which ranks its gradient is summed, and the bytes of each rank
    #[arg(long, conflicts_with = "search")]
    pub(crate) weights: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// With the ranks, transport, device and precision of the configuration, instead of threads that
    /// compute in 64 bits
    #[arg(long)]
    pub(crate) here: bool,
    /// As --here, on this device, and beside one rank on the CPU: proves the device's arithmetic too
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceKind>,
    /// Name this many of the tensors that differ most
    #[arg(long, default_value_t = 5)]
    pub(crate) show: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// The folder of a run
    pub(crate) run: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
