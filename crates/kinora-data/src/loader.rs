//! The loader: batches in order, decoded ahead by threads.
//!
//! The threads take steps in order and put what they made into a table, from which the caller takes
//! it in order again. So neither their number nor their timing changes a batch.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kinora_media::{Clip, Pcm};

use crate::ahead::read_ahead;
use crate::order::Order;
use crate::produce::{Produced, Producer};
use crate::record::{Encoded, Wanted};
use crate::rows::Rows;
use crate::{Bucket, Catalog, DataError, SampleId, Traffic};

/// Which of the data groups this is. Each takes its contiguous share of every batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

impl Part {
    /// All of every batch.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Its positions in a global batch.
    pub fn share(self, batch: usize) -> Range<usize> {
        batch * self.index / self.of..batch * (self.index + 1) / self.of
    }
}

/// One part's share of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The step.
    pub step: u64,
    /// The bucket, which gives the clips' size and the global batch.
    pub bucket: Bucket,
    /// The samples, by ascending position.
    pub samples: Vec<Sample>,
}

/// One sample of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its position in the global batch.
    pub position: u64,
    /// Which row it is.
    pub id: SampleId,
    /// How often the bucket's samples were all seen before.
    pub epoch: u64,
    /// The caption.
    pub caption: String,
    /// What it shows.
    pub content: Content,
    /// Its sound, if `data.audio` asks for it and it has some.
    pub sound: Option<Pcm>,
}

impl Sample {
    /// The pixels.
    ///
    /// # Panics
    /// If `data.latents` asked for latents instead.
    pub fn clip(&self) -> &Clip {
        match &self.content {
            Content::Clip(clip) => clip,
            Content::Latents(_) => panic!("{} was read as latents", self.id),
        }
    }
}

/// What a sample shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// The pixels, of the bucket's frames, height and width.
    Clip(Clip),
    /// The latents of those, `[C, T, H, W]`, read from the shard.
    Latents(Encoded),
}

/// A sample that could not be decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Skip {
    /// The step that wanted it.
    pub step: u64,
    /// Which row it is.
    pub id: SampleId,
    /// Why it could not be decoded.
    pub reason: String,
}

/// What was skipped so far.
#[derive(Clone, Debug, Default)]
pub struct Skipped {
    /// Samples tried.
    pub tried: u64,
    /// Samples that could not be decoded.
    pub bad: u64,
    /// The first of them.
    pub first: Vec<Skip>,
}

// Skips that are remembered, and samples before `max_bad` is checked.
const REMEMBERED: usize = 100;
const JUDGED_FROM: u64 = 20;
// Bad samples that stop no run, whatever their share: one among the first hundred says little.
const BAD_LUCK: f64 = 4.0;

/// Decodes one part's share of every step, ahead of its caller.
pub struct Loader {
    catalog: Arc<Catalog>,
    shared: Arc<Shared>,
    /// Decodes in the calling thread if there are no workers.
    inline: Option<Producer>,
    workers: Vec<JoinHandle<()>>,
    step: u64,
    ended: bool,
    skipped: Skipped,
    bad_shards: HashMap<Arc<str>, (u64, Skip)>,
}

struct Shared {
    state: Mutex<State>,
    /// Told when a batch is done.
    done: Condvar,
    /// Told when a batch was taken, or all is over.
    taken: Condvar,
    closed: AtomicBool,
}

struct State {
    order: Order,
    /// The step that the order gives next.
    next: u64,
    /// The step that the caller wants next.
    wanted: u64,
    ready: BTreeMap<u64, Result<Produced, DataError>>,
}

impl Shared {
    /// The state; a panic while it was held is reported by the step that panicked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// The longest that a batch may take. It bounds the wait for storage that never answers.
const DEADLINE: Duration = Duration::from_secs(600);
/// The longest that dropping a loader waits for its threads.
const FAREWELL: Duration = Duration::from_secs(30);

impl Loader {
    /// A loader of one part's share, from a step on.
    ///
    /// # Errors
    /// If a bucket's batch is smaller than the number of parts, or a thread cannot be started.
    pub fn open(catalog: Arc<Catalog>, part: Part, first_step: u64) -> Result<Self, DataError> {
        let config = catalog.config();
        if part.index >= part.of {
            return Err(DataError::config(
                format!("data group {} of {}", part.index, part.of),
                "groups are numbered from 0",
            ));
        }
        if let Some(bucket) = config.buckets.iter().find(|bucket| bucket.batch < part.of) {
            return Err(DataError::config(
                format!(
                    "the bucket of {bucket} has a batch of {}, but {} data groups share it",
                    bucket.batch, part.of
                ),
                format!("set its batch to {} or more", part.of),
            ));
        }
        let rows = Arc::new(Rows::new(catalog.clone(), part, Wanted::of(config)));
        let state = State {
            order: Order::at(catalog.clone(), first_step),
            next: first_step,
            wanted: first_step,
            ready: BTreeMap::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            done: Condvar::new(),
            taken: Condvar::new(),
            closed: AtomicBool::new(false),
        });
        let producer = || Producer::new(catalog.clone(), part, rows.clone());
        let mut loader = Self {
            inline: (config.workers == 0).then(producer),
            catalog: catalog.clone(),
            shared,
            workers: Vec::new(),
            step: first_step,
            ended: false,
            skipped: Skipped::default(),
            bad_shards: HashMap::new(),
        };
        for index in 0..config.workers {
            let (shared, producer) = (loader.shared.clone(), producer());
            let ahead = config.prefetch.max(1) as u64;
            let worker = thread::Builder::new()
                .name(format!("kinora-data-{index}"))
                .spawn(move || work(&shared, producer, ahead))
                .map_err(|source| DataError::Io {
                    path: "a decoding thread".into(),
                    source,
                })?;
            loader.workers.push(worker);
        }
        if config.workers > 0 {
            let (shared, order) = (loader.shared.clone(), Order::at(catalog, first_step));
            let reader = thread::Builder::new()
                .name("kinora-data-read".into())
                .spawn(move || read_ahead(&rows, order, &|| shared.is_closed()))
                .map_err(|source| DataError::Io {
                    path: "the reading thread".into(),
                    source,
                })?;
            loader.workers.push(reader);
        }
        Ok(loader)
    }

    /// What was asked of the data's stores so far.
    pub fn traffic(&self) -> Traffic {
        self.catalog.storage.traffic()
    }

    /// The next step's share.
    ///
    /// # Errors
    /// `TooManyBad`, `Panic` or `Stalled`; after an error the loader has ended.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Batch, DataError> {
        if self.ended {
            return Err(DataError::Ended { step: self.step });
        }
        let taken = self.take().and_then(|made| self.judge(made));
        match &taken {
            Ok(_) => self.step += 1,
            Err(_) => self.ended = true,
        }
        taken
    }

    /// What was skipped so far, in the batches that were taken.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// The catalog it reads.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    fn take(&mut self) -> Result<Produced, DataError> {
        if let Some(producer) = &mut self.inline {
            let draw = self.shared.lock().order.next();
            return guarded(self.step, || {
                producer.enter(&draw);
                producer.batch(&draw, &|| false)
            });
        }
        // A read that takes all the time it has is to be reported by itself.
        let patience = DEADLINE.max(self.catalog.config.store.deadline() * 2);
        let end = Instant::now() + patience;
        let mut state = self.shared.lock();
        loop {
            if let Some(made) = state.ready.remove(&self.step) {
                state.wanted = self.step + 1;
                self.shared.taken.notify_all();
                return made;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(DataError::Stalled {
                    step: self.step,
                    seconds: patience.as_secs(),
                });
            }
            let woken = self.shared.done.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Counts what was skipped, and stops if it is too much.
    fn judge(&mut self, made: Produced) -> Result<Batch, DataError> {
        let skipped = &mut self.skipped;
        skipped.tried += made.tried;
        skipped.bad += made.skips.len() as u64;
        for skip in made.skips {
            let shard = skip.id.shard.clone();
            self.bad_shards
                .entry(shard)
                .or_insert_with(|| (0, skip.clone()))
                .0 += 1;
            if skipped.first.len() < REMEMBERED {
                skipped.first.push(skip);
            }
        }
        let limit = self.catalog.config.max_bad;
        let allowed = (limit * skipped.tried as f64).max(BAD_LUCK);
        if skipped.tried >= JUDGED_FROM && skipped.bad as f64 > allowed {
            let worst = self
                .bad_shards
                .iter()
                .max_by(|(a, (a_bad, _)), (b, (b_bad, _))| (a_bad, b).cmp(&(b_bad, a)));
            if let Some((shard, (shard_bad, example))) = worst {
                return Err(DataError::TooManyBad {
                    bad: skipped.bad,
                    tried: skipped.tried,
                    limit,
                    shard: shard.to_string(),
                    shard_bad: *shard_bad,
                    example: example.id.clone(),
                    reason: example.reason.clone(),
                });
            }
        }
        Ok(made.batch)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.shared.taken.notify_all();
        let end = Instant::now() + FAREWELL;
        for worker in self.workers.drain(..) {
            while !worker.is_finished() && Instant::now() < end {
                self.shared.taken.notify_all();
                thread::sleep(Duration::from_millis(1));
            }
            // A thread that storage holds back for longer is left to end by itself.
            if worker.is_finished() {
                _ = worker.join();
            }
        }
    }
}

fn work(shared: &Shared, mut producer: Producer, ahead: u64) {
    loop {
        let mut state = shared.lock();
        while !shared.is_closed() && state.next >= state.wanted + ahead {
            // Waking now and then costs nothing, and no lost message can stop the thread.
            let woken = shared.taken.wait_timeout(state, Duration::from_secs(1));
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        if shared.is_closed() {
            return;
        }
        let step = state.next;
        state.next += 1;
        let draw = guarded(step, || {
            let draw = state.order.next();
            producer.enter(&draw);
            Ok(draw)
        });
        drop(state);
        let made =
            draw.and_then(|draw| guarded(step, || producer.batch(&draw, &|| shared.is_closed())));
        shared.lock().ready.insert(step, made);
        shared.done.notify_all();
    }
}

/// Does a part of a step, with a panic as an error.
fn guarded<T>(step: u64, act: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    // After a panic the loader ends, so nobody sees what it left half done.
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        Err(DataError::Panic {
            step,
            message: message(&*panic),
        })
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}
