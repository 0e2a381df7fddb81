//! The thread that speaks with servers, and the patience it has with them.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::meter::Counters;
use super::{StoreError, StoreOptions};

/// A thread with a runtime, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    permits: Arc<Semaphore>,
}

impl Network {
    pub(crate) fn start(requests: usize) -> Result<Self, StoreError> {
        let failed = |error: std::io::Error| StoreError::System {
            object: "the thread that reads stores".into(),
            reason: error.to_string(),
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name("kinora-store".into())
            .spawn(move || {
                // The sender says so or is gone: either ends it.
                _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
            permits: Arc::new(Semaphore::new(requests)),
        })
    }

    /// Runs tasks on the thread and waits for all of them, or for the first error, which ends the
    /// others. None if they do not end within `limit`, though each has a deadline of its own.
    pub(crate) fn run<T, F>(
        &self,
        tasks: Vec<F>,
        limit: Duration,
    ) -> Option<Result<Vec<T>, StoreError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let end = Instant::now() + limit;
        let (done, results) = mpsc::channel();
        let count = tasks.len();
        let tasks: Vec<_> = tasks
            .into_iter()
            .enumerate()
            .map(|(index, task)| {
                let done = done.clone();
                // A caller that has given up does not listen any more.
                self.handle
                    .spawn(async move { _ = done.send((index, task.await)) })
            })
            .collect();
        drop(done);
        let abort = || tasks.iter().for_each(tokio::task::JoinHandle::abort);
        let mut values: Vec<Option<T>> = (0..count).map(|_| None).collect();
        for _ in 0..count {
            let left = end.saturating_duration_since(Instant::now());
            match results.recv_timeout(left) {
                Ok((index, Ok(value))) => values[index] = Some(value),
                Ok((_, Err(error))) => {
                    abort();
                    return Some(Err(error));
                }
                Err(_) => {
                    abort();
                    return None;
                }
            }
        }
        values.into_iter().collect::<Option<Vec<T>>>().map(Ok)
    }

    pub(crate) fn permits(&self) -> Arc<Semaphore> {
        self.permits.clone()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// Why an attempt failed.
pub(crate) enum Trouble {
    /// It may pass.
    Passing(String),
    /// It will not.
    Lasting(StoreError),
}

/// One request with all its repetitions.
pub(crate) struct Persistent {
    pub(crate) object: String,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) options: Arc<StoreOptions>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) start: Instant,
}

impl Persistent {
    /// Makes attempts until one succeeds or there is no use in further ones.
    pub(crate) async fn run<T, F>(self, mut attempt: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        let end = self.start + self.options.deadline();
        let left = || end.saturating_duration_since(Instant::now());
        let mut attempts = 0;
        let mut reason = "other requests took all the time".to_owned();
        while !left().is_zero() {
            // Nobody closes the semaphore, so a permit comes or the time is over.
            let Ok(permit) = timeout(left(), self.permits.acquire()).await else {
                break;
            };
            attempts += 1;
            self.counters.request();
            let patience = self.options.timeout().min(left());
            let answer = timeout(patience, attempt()).await;
            drop(permit);
            reason = match answer {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(Trouble::Lasting(error))) => return Err(error),
                Ok(Err(Trouble::Passing(reason))) => reason,
                Err(_) => format!("it was not complete within {:.1} s", patience.as_secs_f64()),
            };
            if attempts > self.options.retries {
                break;
            }
            let pause = pause(attempts);
            if pause >= left() {
                break;
            }
            tokio::time::sleep(pause).await;
            self.counters.retry();
        }
        Err(StoreError::Failed {
            object: self.object,
            from: self.from,
            to: self.to,
            attempts,
            seconds: self.start.elapsed().as_secs_f64(),
            reason: self.options.scrub(&reason),
        })
    }
}

const FIRST_PAUSE: f64 = 0.1;
const LONGEST_PAUSE: f64 = 10.0;

/// The pause before another attempt: twice as long each time, and half of it by chance, so that
/// many readers do not come back at once.
fn pause(attempts: u32) -> Duration {
    let whole = (FIRST_PAUSE * 2f64.powi(attempts as i32 - 1)).min(LONGEST_PAUSE);
    let chance = RandomState::new().hash_one(attempts) as f64 / u64::MAX as f64;
    Duration::from_secs_f64(whole * (0.5 + 0.5 * chance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        for (attempts, whole) in [(1, 0.1), (2, 0.2), (5, 1.6), (30, 10.0)] {
            for _ in 0..20 {
                let pause = pause(attempts).as_secs_f64();
                assert!(
                    (whole / 2.0..=whole).contains(&pause),
                    "{attempts}: {pause}"
                );
            }
        }
    }

    #[test]
    fn tasks_that_never_end_are_given_up() {
        let network = Network::start(2).unwrap();
        let tasks = vec![std::future::pending::<Result<(), StoreError>>()];
        assert!(network.run(tasks, Duration::from_millis(50)).is_none());
        let tasks: Vec<_> = (0..5).map(|i| async move { Ok(i) }).collect();
        let values = network.run(tasks, Duration::from_secs(10));
        assert_eq!(values, Some(Ok(vec![0, 1, 2, 3, 4])));
    }
}
