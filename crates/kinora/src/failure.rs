//! How a command ends when it does not succeed.

use kinora_ckpt::CkptError;
use kinora_comm::local::{RankFailure, What};
use kinora_data::DataError;
use kinora_shapes::ShapesError;
use kinora_shard::ShardError;
use kinora_train::TrainError;
use std::fmt;
use std::process::ExitCode;

/// Why a command ended, and whose move it is.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What the user gave does not work: exit code 2.
    Input(anyhow::Error),
    /// Something went wrong on the way: exit code 1.
    Run(anyhow::Error),
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A mistake in what the user gave, in words.
    pub(crate) fn input(text: impl Into<String>) -> Self {
        Self::Input(anyhow::Error::msg(text.into()))
    }

    /// Something that went wrong, in words.
    pub(crate) fn run(text: impl Into<String>) -> Self {
        Self::Run(anyhow::Error::msg(text.into()))
    }

    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Failure::Input(_) => ExitCode::from(2),
            Failure::Run(_) => ExitCode::from(1),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Input(error) | Failure::Run(error) => {
                let mut text = error.to_string();
                // Many errors name their cause themselves.
                for cause in error.chain().skip(1).map(ToString::to_string) {
                    if !text.contains(&cause) {
                        text = format!("{text}: {cause}");
                    }
                }
                f.write_str(&text)
            }
        }
    }
}

/// Marks errors as the user's to fix.
pub(crate) trait OrInput<T> {
    fn or_input(self) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> OrInput<T> for Result<T, E> {
    fn or_input(self) -> Outcome<T> {
        self.map_err(|error| Failure::Input(error.into()))
    }
}

/// Marks errors as those of the machine.
pub(crate) trait OrRun<T> {
    fn or_run(self) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> OrRun<T> for Result<T, E> {
    fn or_run(self) -> Outcome<T> {
        self.map_err(|error| Failure::Run(error.into()))
    }
}

impl From<CkptError> for Failure {
    fn from(error: CkptError) -> Self {
        match error {
            CkptError::Io { .. } => Failure::Run(error.into()),
            other => Failure::Input(other.into()),
        }
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Io { .. }
            | DataError::Write { .. }
            | DataError::Panic { .. }
            | DataError::Stalled { .. }
            | DataError::Ended { .. } => Failure::Run(error.into()),
            other => Failure::Input(other.into()),
        }
    }
}

impl From<ShapesError> for Failure {
    fn from(error: ShapesError) -> Self {
        match error {
            ShapesError::Io { .. } | ShapesError::Media(_) => Failure::Run(error.into()),
            ShapesError::Data(error) => error.into(),
            other => Failure::Input(other.into()),
        }
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Checkpoint(error) => error.into(),
            TrainError::Data(error) => error.into(),
            TrainError::Track(_)
            | TrainError::Comm(_)
            | TrainError::Shard(ShardError::Comm(_))
            | TrainError::Diverged { .. }
            | TrainError::OtherBatch { .. }
            | TrainError::Sample(_) => Failure::Run(error.into()),
            other => Failure::Input(other.into()),
        }
    }
}

impl From<RankFailure<TrainError>> for Failure {
    fn from(failure: RankFailure<TrainError>) -> Self {
        let RankFailure { rank, what, stuck } = failure;
        match what {
            What::Error(error) => match Failure::from(error) {
                Failure::Input(error) => Failure::Input(error),
                Failure::Run(error) => Failure::Run(error.context(format!("rank {rank}"))),
            },
            what => Failure::run(
                RankFailure::<String> {
                    rank,
                    what: match what {
                        What::Panic(text) => What::Panic(text),
                        What::Comm(error) => What::Comm(error),
                        What::Error(error) => What::Error(error.to_string()),
                    },
                    stuck,
                }
                .to_string(),
            ),
        }
    }
}
