//! Reading the rows that are needed, once: a window's rows of a row group are read together, when
//! the first of them is wanted, and kept while the window is in use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use parquet::arrow::arrow_reader::ArrowReaderMetadata;

use crate::catalog::Place;
use crate::order::Window;
use crate::{Catalog, DataError, Part, shard};

/// The media and caption of a row, or why they cannot be read.
pub(crate) type Row = Result<Arc<Record>, String>;

/// A row of a shard.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) media: Vec<u8>,
    pub(crate) caption: String,
}

/// Reads rows for one part, and keeps those of the latest windows.
pub(crate) struct Rows {
    catalog: Arc<Catalog>,
    part: Part,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    clock: u64,
    windows: Vec<Kept>,
    footers: Vec<(usize, Arc<ArrowReaderMetadata>)>,
}

struct Kept {
    pool: usize,
    first: u64,
    used: u64,
    groups: HashMap<u32, Arc<OnceLock<Result<Block, String>>>>,
}

/// Rows of a row group by their number.
type Block = HashMap<u32, Arc<Record>>;

// The window in use, and the next one while batches are read ahead.
const WINDOWS_A_POOL: usize = 2;
const FOOTERS: usize = 8;

impl Rows {
    pub(crate) fn new(catalog: Arc<Catalog>, part: Part) -> Self {
        Self {
            catalog,
            part,
            held: Mutex::default(),
        }
    }

    /// A row of a window.
    pub(crate) fn of_window(&self, window: &Window, place: Place) -> Row {
        let cell = self.cell(window, place.group);
        let block = cell.get_or_init(|| {
            let rows = self.share(window, place.group);
            self.read(place.group, &rows)
                .map_err(|error| first_line(&error))
        });
        let block = block.as_ref().map_err(Clone::clone)?;
        block
            .get(&place.row)
            .cloned()
            .ok_or_else(|| "it has no media".to_owned())
    }

    /// Any row, read by itself.
    pub(crate) fn single(&self, place: Place) -> Row {
        let block = self
            .read(place.group, &[place.row])
            .map_err(|error| first_line(&error))?;
        block
            .get(&place.row)
            .cloned()
            .ok_or_else(|| "it has no media".to_owned())
    }

    fn cell(&self, window: &Window, group: u32) -> Arc<OnceLock<Result<Block, String>>> {
        // A panic elsewhere leaves the list as it was between two calls, which is sound.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.clock += 1;
        let used = held.clock;
        let same = |kept: &&mut Kept| kept.pool == window.pool && kept.first == window.first;
        if let Some(kept) = held.windows.iter_mut().find(same) {
            kept.used = used;
            return kept.groups.entry(group).or_default().clone();
        }
        let of_pool = |kept: &&Kept| kept.pool == window.pool;
        if held.windows.iter().filter(of_pool).count() >= WINDOWS_A_POOL {
            let oldest = held
                .windows
                .iter()
                .filter(of_pool)
                .map(|kept| kept.used)
                .min();
            held.windows.retain(|kept| Some(kept.used) != oldest);
        }
        let mut groups = HashMap::new();
        let cell = Arc::<OnceLock<_>>::default();
        groups.insert(group, cell.clone());
        held.windows.push(Kept {
            pool: window.pool,
            first: window.first,
            used,
            groups,
        });
        cell
    }

    /// The rows of a group that this part will want from a window, ascending.
    fn share(&self, window: &Window, group: u32) -> Vec<u32> {
        let bucket = self.catalog.bucket_of(window.pool);
        let share = self.part.share(self.catalog.config.buckets[bucket].batch);
        let mut rows: Vec<u32> = window
            .places
            .iter()
            .zip(&window.positions)
            .filter(|(place, position)| place.group == group && share.contains(position))
            .map(|(place, _)| place.row)
            .collect();
        rows.sort_unstable();
        rows
    }

    /// Reads rows of a group, given in ascending order. Rows without media are left out.
    fn read(&self, group: u32, rows: &[u32]) -> Result<Block, DataError> {
        let group = &self.catalog.groups[group as usize];
        let path = &self.catalog.shards[group.shard].path;
        let set = &self.catalog.sets[group.set];
        let columns = self.catalog.config.columns_of(set);
        let footer = self.footer(group.shard)?;
        let mut block = Block::with_capacity(rows.len());
        let mut numbers = rows.iter();
        let names = [columns.media.as_str(), &columns.caption];
        shard::read(path, &footer, group.index, &names, Some(rows), |batch| {
            let media = shard::media(batch, &columns.media);
            for (row, bytes) in media.into_iter().flatten().enumerate() {
                let (Some(&number), Some(bytes)) = (numbers.next(), bytes) else {
                    continue;
                };
                let caption = shard::caption(batch, &columns.caption, row);
                block.insert(
                    number,
                    Arc::new(Record {
                        media: bytes.to_vec(),
                        caption,
                    }),
                );
            }
            Ok(())
        })?;
        Ok(block)
    }

    fn footer(&self, shard: usize) -> Result<Arc<ArrowReaderMetadata>, DataError> {
        let lock = || self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, footer)) = lock().footers.iter().find(|(at, _)| *at == shard) {
            return Ok(footer.clone());
        }
        let footer = Arc::new(shard::footer(&self.catalog.shards[shard].path, true)?);
        let mut held = lock();
        if held.footers.len() >= FOOTERS {
            held.footers.remove(0);
        }
        held.footers.push((shard, footer.clone()));
        Ok(footer)
    }
}

fn first_line(error: &DataError) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
