//! `kinora data`: making and looking into data sets.

mod check;
mod ingest;
mod inspect;
mod make;

pub(crate) use make::make_if_missing;

use crate::cli::Data;
use crate::failure::{Failure, Outcome};
use crate::ranks::Here;
use kinora_data::{Storage, StoreOptions};
use kinora_ingest::IngestError;
use std::sync::Arc;

pub(crate) fn data(args: &Data, here: &Here) -> Outcome {
    match args {
        Data::Ingest(args) => ingest::ingest(args),
        Data::Make(args) => make::make(args),
        Data::Inspect(args) => inspect::inspect(args),
        Data::Check(args) => check::check(args),
        Data::Encode(args) => super::encode::encode(args, here),
    }
}

/// How stores are reached, with the credentials that the environment holds.
fn store_options(mut options: StoreOptions) -> StoreOptions {
    let ours = ["AWS_", "GOOGLE_", "AZURE_"];
    options.environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| ours.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    options
}

fn storage(options: StoreOptions) -> Arc<Storage> {
    Storage::new(store_options(options))
}

impl From<IngestError> for Failure {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Data(error) => error.into(),
            IngestError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Failure::Input(error.into())
            }
            IngestError::Io { .. } | IngestError::Busy(_) | IngestError::Stalled { .. } => {
                Failure::Run(error.into())
            }
            error => Failure::Input(error.into()),
        }
    }
}
