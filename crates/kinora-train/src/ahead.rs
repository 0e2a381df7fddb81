//! The next batch of latents, made by a thread of its own while the ranks compute.

use crate::source::encode;
use crate::{LatentBatch, TrainError};
use burn::tensor::Device;
use kinora_data::{DataError, Loader, Skip};
use kinora_models::autoencoder::Autoencoder;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// A batch, and the samples that were skipped on the way to it.
type Made = Result<(LatentBatch, Vec<Skip>), TrainError>;

/// A thread that loads and encodes batches ahead of its caller.
pub(crate) struct Ahead {
    made: Receiver<Made>,
}

impl Ahead {
    /// Starts the thread. It ends after its first error, or when this is dropped, behind the batch
    /// that it is at.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn start(
        mut loader: Loader,
        autoencoder: Arc<dyn Autoencoder>,
        device: Device,
        mut step: u64,
    ) -> Result<Self, TrainError> {
        // One batch waits here while the next is made: more would only take memory.
        let (give, made) = sync_channel::<Made>(1);
        let body = move || {
            let mut named = 0;
            loop {
                // After a panic the thread ends, so nobody sees what it left half done.
                let next = catch_unwind(AssertUnwindSafe(|| {
                    let batch = loader.next()?;
                    let skipped = loader.skipped();
                    let skips = skipped.first[named..].to_vec();
                    named = skipped.first.len();
                    let latents = encode(&batch, skipped.bad, &*autoencoder, &device)?;
                    Ok((latents, skips))
                }));
                let next = next.unwrap_or_else(|panic| {
                    let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                    let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
                    let message = message.unwrap_or_default();
                    Err(DataError::Panic { step, message }.into())
                });
                step += 1;
                let last = next.is_err();
                if give.send(next).is_err() || last {
                    return;
                }
            }
        };
        let started = thread::Builder::new()
            .name("kinora-encode".into())
            .spawn(body);
        started.map_err(|source| DataError::Io {
            path: "an encoding thread".into(),
            source,
        })?;
        Ok(Self { made })
    }

    /// The next batch. The loader's deadline bounds the wait.
    ///
    /// # Errors
    /// Those of the data.
    ///
    /// # Panics
    /// If it is called again behind an error.
    pub(crate) fn next(&self) -> Made {
        self.made.recv().expect("the thread sends until an error")
    }
}
