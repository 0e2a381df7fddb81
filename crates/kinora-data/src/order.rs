//! The order of samples: a pure function of seed and step, the same for any number of ranks and
//! workers.
//!
//! Each step draws images or videos, and then a bucket in proportion to the batches it holds, so
//! that all buckets of a kind go through their samples at the same pace. A bucket's samples come
//! epoch by epoch, each once. An epoch shuffles the row groups, takes a few at a time as a window,
//! and shuffles the rows of the window: so reading stays within a few row groups.

use std::sync::Arc;

use kinora_mesh::rng::Stream;

use crate::Catalog;
use crate::catalog::Place;
use crate::mixture::{Mixture, Slot};

/// The order of a catalog's samples, from some step on.
#[derive(Debug)]
pub(crate) struct Order {
    catalog: Arc<Catalog>,
    kinds: Kinds,
    step: u64,
    /// How many batches of each bucket lie before the step.
    drawn: Vec<u64>,
    /// Which data set each of a bucket's samples comes from.
    mixtures: Vec<Mixture>,
    /// Where each pool is in its epoch.
    epochs: Vec<Option<Epoch>>,
}

/// What a step takes.
#[derive(Debug)]
pub(crate) struct Draw {
    pub(crate) step: u64,
    pub(crate) bucket: usize,
    /// The samples of the global batch.
    pub(crate) picks: Vec<Pick>,
}

/// One sample of a step.
#[derive(Clone, Debug)]
pub(crate) struct Pick {
    pub(crate) epoch: u64,
    pub(crate) place: Place,
    pub(crate) window: Arc<Window>,
}

/// Samples that are shuffled among each other.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) pool: usize,
    /// The first sample's number in the endless sequence of the pool's epochs.
    pub(crate) first: u64,
    pub(crate) places: Vec<Place>,
    /// The position of each in its global batch.
    pub(crate) positions: Vec<usize>,
}

impl Order {
    /// The order from a step on. Replays the buckets of the steps before it, some twenty million a
    /// second.
    pub(crate) fn at(catalog: Arc<Catalog>, step: u64) -> Self {
        let kinds = Kinds::of(&catalog);
        let seed = catalog.config.seed;
        let stream = Stream::new(seed, "data/bucket");
        let mut drawn = vec![0; catalog.config.buckets.len()];
        for earlier in 0..step {
            drawn[kinds.draw(stream, earlier)] += 1;
        }
        let mixtures = (0..drawn.len())
            .map(|bucket| {
                let stream = Stream::new(seed, "data/mixture").at(bucket as u64);
                Mixture::new(&catalog.shares(bucket), stream)
            })
            .collect();
        let epochs = catalog.pools.iter().map(|_| None).collect();
        Self {
            catalog,
            kinds,
            step,
            drawn,
            mixtures,
            epochs,
        }
    }

    /// What the next step takes.
    pub(crate) fn next(&mut self) -> Draw {
        let step = self.step;
        self.step += 1;
        let bucket = self
            .kinds
            .draw(Stream::new(self.catalog.config.seed, "data/bucket"), step);
        let batch = self.catalog.config.buckets[bucket].batch as u64;
        let first = self.drawn[bucket] * batch;
        self.drawn[bucket] += 1;
        let picks = (first..first + batch)
            .map(|at| {
                let slot = self.mixtures[bucket].slot(at);
                self.pick(bucket, slot)
            })
            .collect();
        Draw {
            step,
            bucket,
            picks,
        }
    }

    fn pick(&mut self, bucket: usize, slot: Slot) -> Pick {
        let Slot { set, index } = slot;
        let catalog = &self.catalog;
        let pool = catalog.pool(bucket, set);
        let epoch = index / catalog.pools[pool].samples();
        let current = match &mut self.epochs[pool] {
            Some(current) if current.number == epoch => current,
            slot => slot.insert(Epoch::new(catalog, pool, epoch)),
        };
        let batch = catalog.config.buckets[bucket].batch as u64;
        let mixture = &mut self.mixtures[bucket];
        let position = |index| (mixture.find(Slot { set, index }) % batch) as usize;
        let window = current.window(catalog, index, position);
        let place = window.places[(index - window.first) as usize];
        Pick {
            epoch,
            place,
            window,
        }
    }
}

/// How a step chooses its bucket.
#[derive(Debug)]
struct Kinds {
    image_ratio: f64,
    /// For images and for videos: the buckets, and the sum of the weights up to each.
    buckets: [Vec<(usize, f64)>; 2],
}

impl Kinds {
    fn of(catalog: &Catalog) -> Self {
        let mut buckets = [Vec::new(), Vec::new()];
        let mut totals = [0.0; 2];
        for (index, bucket) in catalog.config.buckets.iter().enumerate() {
            let kind = usize::from(!bucket.is_image());
            totals[kind] += catalog.shares(index).iter().sum::<f64>() / bucket.batch as f64;
            buckets[kind].push((index, totals[kind]));
        }
        let share = totals[0] / (totals[0] + totals[1]);
        Self {
            image_ratio: catalog.config.image_ratio.unwrap_or(share),
            buckets,
        }
    }

    fn draw(&self, stream: Stream, step: u64) -> usize {
        let stream = stream.at(step);
        let kind = usize::from(stream.uniform(0) >= self.image_ratio);
        let buckets = &self.buckets[kind];
        let (last, total) = buckets[buckets.len() - 1];
        let at = stream.uniform(1) * total;
        buckets
            .iter()
            .find(|(_, sum)| at < *sum)
            .map_or(last, |&(bucket, _)| bucket)
    }
}

/// One epoch of a pool.
#[derive(Debug)]
struct Epoch {
    number: u64,
    pool: usize,
    /// The row groups, shuffled.
    groups: Vec<u32>,
    /// Of each window, its first group's position in `groups` and its first sample's number; one
    /// more entry for the end.
    starts: Vec<(usize, u64)>,
    current: Option<(usize, Arc<Window>)>,
}

// A window is filled until it has this many groups and rows, but not beyond this many bytes. It is
// part of the definition of the order.
const WINDOW_GROUPS: usize = 4;
const WINDOW_ROWS: u64 = 1024;
const WINDOW_BYTES: u64 = 128 << 20;

impl Epoch {
    fn new(catalog: &Catalog, pool: usize, number: u64) -> Self {
        let members = &catalog.pools[pool];
        let stream = Stream::new(catalog.config.seed, "data/groups")
            .at(pool as u64)
            .at(number);
        let order = stream.permutation(members.groups.len());
        let groups: Vec<u32> = order.iter().map(|&at| members.groups[at]).collect();
        let mut sample = number * members.samples();
        let mut starts = vec![(0, sample)];
        let (mut count, mut rows, mut bytes) = (0, 0, 0);
        for (position, &at) in order.iter().enumerate() {
            let group_bytes = catalog.groups[members.groups[at] as usize].bytes;
            let full = count >= WINDOW_GROUPS && rows >= WINDOW_ROWS;
            if count > 0 && (full || bytes + group_bytes > WINDOW_BYTES) {
                starts.push((position, sample));
                (count, rows, bytes) = (0, 0, 0);
            }
            let group_rows = members.before[at + 1] - members.before[at];
            count += 1;
            rows += group_rows;
            bytes += group_bytes;
            sample += group_rows;
        }
        starts.push((groups.len(), sample));
        Self {
            number,
            pool,
            groups,
            starts,
            current: None,
        }
    }

    /// The window that holds sample `at` of the endless sequence. `position` tells which position of a
    /// global batch takes a sample.
    fn window(
        &mut self,
        catalog: &Catalog,
        at: u64,
        position: impl FnMut(u64) -> usize,
    ) -> Arc<Window> {
        let index = self.starts.partition_point(|&(_, first)| first <= at) - 1;
        match &self.current {
            Some((current, window)) if *current == index => window.clone(),
            _ => {
                let window = Arc::new(self.shuffle(catalog, index, position));
                self.current = Some((index, window.clone()));
                window
            }
        }
    }

    fn shuffle(
        &self,
        catalog: &Catalog,
        index: usize,
        position: impl FnMut(u64) -> usize,
    ) -> Window {
        let [(from, first), (to, _)] = [self.starts[index], self.starts[index + 1]];
        let rows: Vec<Place> = self.groups[from..to]
            .iter()
            .flat_map(|&group| catalog.places(self.pool, group))
            .collect();
        let order = Stream::new(catalog.config.seed, "data/rows")
            .at(self.pool as u64)
            .at(self.number)
            .at(index as u64)
            .permutation(rows.len());
        let positions = (first..first + rows.len() as u64).map(position).collect();
        let places = order.into_iter().map(|at| rows[at]).collect();
        Window {
            pool: self.pool,
            first,
            places,
            positions,
        }
    }
}
