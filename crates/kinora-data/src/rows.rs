//! Reading the rows that are needed, once, and within a bound of memory.
//!
//! A window's rows of a row group are read together when the first of them is wanted, or before, and
//! kept until they are taken: each is taken once. All buffers that rows lie in are counted. Where
//! the rest of a row group would not fit into `data.memory_mb` besides what is held already, only
//! the rows that a batch needs are read, in more requests. So what is held is at most that bound, and
//! the rows of the batch that each worker is at.
//!
//! Which rows are broken does not depend on which are read together: where reading several fails,
//! they are read in halves, down to single ones.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::basic::Compression;

use crate::catalog::Place;
use crate::footer::{self, Footers};
use crate::order::{Draw, Window};
use crate::record::{self, Record, Stored, Wanted};
use crate::store::{Storage, StoreError};
use crate::{Catalog, DataError, Part};

/// A row, or why it is broken.
pub(crate) type Row = Result<Record, String>;

/// A row as it was read, or why it is broken.
type ReadRow = Result<Stored, String>;

/// Rows of a group, by their number.
type Read = HashMap<u32, ReadRow>;

/// Reads rows for one part.
pub(crate) struct Rows {
    catalog: Arc<Catalog>,
    part: Part,
    wanted: Wanted,
    bound: u64,
    footers: Footers,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// The first step that no worker has been given.
    entered: u64,
    windows: HashMap<Key, Kept>,
}

/// A window: its pool and its first sample.
type Key = (usize, u64);

/// A window of which rows are still to come.
struct Kept {
    /// Rows of this part that are not taken yet.
    left: usize,
    groups: HashMap<u32, Arc<Mutex<Group>>>,
}

/// What a window wants of a row group.
#[derive(Default)]
struct Group {
    /// Rows that are neither read nor taken, ascending.
    wanted: Vec<u32>,
    /// Rows that were read and are not taken yet.
    read: Read,
    /// Why reading ahead failed.
    trouble: Option<StoreError>,
}

impl Rows {
    pub(crate) fn new(catalog: Arc<Catalog>, part: Part, wanted: Wanted) -> Self {
        let bound = (catalog.config.memory_mb as u64) << 20;
        Self {
            catalog,
            part,
            wanted,
            bound,
            footers: Footers::default(),
            held: Mutex::default(),
        }
    }

    pub(crate) fn storage(&self) -> &Arc<Storage> {
        &self.catalog.storage
    }

    /// The first step that no worker has been given.
    pub(crate) fn entered(&self) -> u64 {
        self.lock().entered
    }

    /// Notes that a worker is given a step. Steps are to be given in order.
    pub(crate) fn enter(&self, draw: &Draw) {
        let mut held = self.lock();
        held.entered = draw.step + 1;
        self.open_windows(&mut held, draw);
    }

    /// Reads what a later step wants, if no worker is at it yet and it fits into memory; else says
    /// false.
    pub(crate) fn ahead(&self, draw: &Draw) -> bool {
        {
            let mut held = self.lock();
            if draw.step < held.entered {
                return true;
            }
            self.open_windows(&mut held, draw);
        }
        for ((key, group), picks) in self.by_group(draw) {
            let Some(cell) = self.cell(key, group) else {
                continue;
            };
            let mut cell = lock(&cell);
            let rows = picks.iter().map(|&(_, row)| row);
            if rows.clone().all(|row| cell.read.contains_key(&row)) || cell.wanted.is_empty() {
                continue;
            }
            let wanted = cell.wanted.clone();
            match self.read_if_it_fits(group, &wanted) {
                Ok(Some(read)) => {
                    cell.wanted.clear();
                    cell.read.extend(read);
                }
                Ok(None) => return false,
                Err(DataError::Store(error)) => cell.trouble = Some(error),
                // The worker that wants it meets it again.
                Err(_) => {}
            }
        }
        true
    }

    /// This part's rows of a step that was entered, in the order of their positions.
    ///
    /// # Errors
    /// If a store fails. Rows that are broken themselves are values.
    pub(crate) fn batch(&self, draw: &Draw) -> Result<Vec<Row>, DataError> {
        let groups: Vec<_> = self.by_group(draw).into_iter().collect();
        let remote = |group: u32| {
            let shard = self.catalog.groups[group as usize].shard;
            self.catalog.shards[shard].store().is_remote()
        };
        let read = if groups.len() > 1 && groups.iter().all(|((_, group), _)| remote(*group)) {
            in_parallel(&groups, |((key, group), picks)| {
                self.take(*key, *group, picks)
            })
        } else {
            groups
                .iter()
                .map(|((key, group), picks)| self.take(*key, *group, picks))
                .collect()
        };
        let mut found: BTreeMap<usize, (u32, ReadRow)> = BTreeMap::new();
        for (((_, group), _), taken) in groups.iter().zip(read) {
            for (slot, row) in taken? {
                found.insert(slot, (*group, row));
            }
        }
        self.leave(draw);
        let found: Vec<_> = found.into_values().collect();
        self.complete(found)
    }

    /// Any row, read by itself.
    ///
    /// # Errors
    /// If a store fails.
    pub(crate) fn single(&self, place: Place) -> Result<Row, DataError> {
        let mut read = self.read(place.group, &[place.row])?;
        let row = read
            .remove(&place.row)
            .unwrap_or_else(|| Err("it was not read".into()));
        let mut rows = self.complete(vec![(place.group, row)])?;
        Ok(rows.swap_remove(0))
    }

    /// Rows of a group, ascending, read together.
    ///
    /// # Errors
    /// If a store fails.
    pub(crate) fn several(&self, group: u32, places: &[Place]) -> Result<Vec<Row>, DataError> {
        let rows: Vec<u32> = places.iter().map(|place| place.row).collect();
        let mut read = self.read(group, &rows)?;
        let take = |row: &u32| {
            let stored = read.remove(row);
            (
                group,
                stored.unwrap_or_else(|| Err("it was not read".into())),
            )
        };
        self.complete(rows.iter().map(take).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }

    /// This part's rows of a step: by window and group, their position and row.
    fn by_group(&self, draw: &Draw) -> BTreeMap<(Key, u32), Vec<(usize, u32)>> {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for position in self.part.share(draw.picks.len()) {
            let pick = &draw.picks[position];
            let key = (pick.window.pool, pick.window.first);
            let group = groups.entry((key, pick.place.group)).or_default();
            group.push((position, pick.place.row));
        }
        groups
    }

    fn cell(&self, key: Key, group: u32) -> Option<Arc<Mutex<Group>>> {
        self.lock().windows.get(&key)?.groups.get(&group).cloned()
    }

    /// Notes which rows are to come of the windows that a step meets for the first time.
    fn open_windows(&self, held: &mut Held, draw: &Draw) {
        for position in self.part.share(draw.picks.len()) {
            let pick = &draw.picks[position];
            let key = (pick.window.pool, pick.window.first);
            held.windows.entry(key).or_insert_with(|| {
                let places = &pick.window.places;
                let from = places.iter().position(|place| *place == pick.place);
                self.open(&pick.window, from.unwrap_or(0))
            });
        }
    }

    fn open(&self, window: &Window, from: usize) -> Kept {
        let bucket = self.catalog.bucket_of(window.pool);
        let share = self.part.share(self.catalog.config.buckets[bucket].batch);
        let mut wanted: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut left = 0;
        for (place, position) in window.places.iter().zip(&window.positions).skip(from) {
            if share.contains(position) {
                wanted.entry(place.group).or_default().push(place.row);
                left += 1;
            }
        }
        let group = |mut wanted: Vec<u32>| {
            wanted.sort_unstable();
            Arc::new(Mutex::new(Group {
                wanted,
                ..Group::default()
            }))
        };
        let groups = wanted
            .into_iter()
            .map(|(number, wanted)| (number, group(wanted)))
            .collect();
        Kept { left, groups }
    }

    /// Forgets windows of which all rows are taken.
    fn leave(&self, draw: &Draw) {
        let mut held = self.lock();
        for position in self.part.share(draw.picks.len()) {
            let window = &draw.picks[position].window;
            let key = (window.pool, window.first);
            if let Some(kept) = held.windows.get_mut(&key) {
                kept.left -= 1;
                if kept.left == 0 {
                    held.windows.remove(&key);
                }
            }
        }
    }

    /// Takes rows of a group, reading what is not read yet.
    fn take(
        &self,
        key: Key,
        group: u32,
        picks: &[(usize, u32)],
    ) -> Result<Vec<(usize, ReadRow)>, DataError> {
        let cell = self.cell(key, group).unwrap_or_default();
        let mut cell = lock(&cell);
        if let Some(error) = cell.trouble.take() {
            return Err(error.into());
        }
        let missing: HashSet<u32> = picks
            .iter()
            .map(|&(_, row)| row)
            .filter(|row| !cell.read.contains_key(row))
            .collect();
        if !missing.is_empty() {
            let mut wanted = std::mem::take(&mut cell.wanted);
            wanted.extend(&missing);
            wanted.sort_unstable();
            wanted.dedup();
            let read = match self.read_if_it_fits(group, &wanted)? {
                Some(read) => read,
                None => {
                    let (now, later): (Vec<u32>, _) =
                        wanted.into_iter().partition(|row| missing.contains(row));
                    cell.wanted = later;
                    self.read(group, &now)?
                }
            };
            cell.read.extend(read);
        }
        Ok(picks
            .iter()
            .map(|&(slot, row)| {
                let stored = cell.read.remove(&row);
                (
                    slot,
                    stored.unwrap_or_else(|| Err("it was not read".into())),
                )
            })
            .collect())
    }

    /// Reads rows of a group if they fit into memory.
    fn read_if_it_fits(&self, group: u32, rows: &[u32]) -> Result<Option<Read>, DataError> {
        let meter = &self.storage().meter;
        // The cheaper question first: it is asked again and again while there is no room.
        if meter.held() >= self.bound {
            return Ok(None);
        }
        let place = &self.catalog.groups[group as usize];
        let shard = &self.catalog.shards[place.shard];
        let footer = self.footers.get(place.shard, shard)?;
        let names = self.names(group, &footer);
        let part = footer::Part {
            group: place.index,
            names: &names,
            rows: Some(rows),
        };
        let ranges = footer::ranges(shard, &footer, part, footer::Pages::All)?;
        let bytes = ranges.iter().map(|range| range.end - range.start).sum();
        // Compressed pages grow; the footer says to how much all of them do.
        let bytes = grown(&footer, place.index, bytes);
        let Some(hold) = meter.try_hold(bytes, self.bound) else {
            return Ok(None);
        };
        let read = self.read(group, rows)?;
        drop(hold);
        Ok(Some(read))
    }

    fn names(&self, group: u32, footer: &ArrowReaderMetadata) -> Vec<&str> {
        let set = &self.catalog.sets[self.catalog.groups[group as usize].set];
        let columns = self.catalog.config.columns_of(set);
        record::wanted(footer.schema(), columns, self.wanted)
    }

    /// Reads rows of a group, given in ascending order; each is then a value.
    fn read(&self, group: u32, rows: &[u32]) -> Result<Read, DataError> {
        let mut found = HashMap::with_capacity(rows.len());
        self.read_into(group, rows, &mut found)?;
        Ok(found)
    }

    fn read_into(&self, group: u32, rows: &[u32], found: &mut Read) -> Result<(), DataError> {
        if rows.is_empty() {
            return Ok(());
        }
        let error = match self.read_together(group, rows) {
            Ok(read) => {
                found.extend(rows.iter().copied().zip(read));
                return Ok(());
            }
            // A store that fails says nothing about the rows.
            Err(error @ DataError::Store(_)) => return Err(error),
            Err(error) => error,
        };
        if let [row] = rows {
            found.insert(*row, Err(first_line(&error)));
            return Ok(());
        }
        let (first, second) = rows.split_at(rows.len() / 2);
        self.read_into(group, first, found)?;
        self.read_into(group, second, found)
    }

    fn read_together(&self, group: u32, rows: &[u32]) -> Result<Vec<ReadRow>, DataError> {
        let place = &self.catalog.groups[group as usize];
        let shard = &self.catalog.shards[place.shard];
        let footer = self.footers.get(place.shard, shard)?;
        let names = self.names(group, &footer);
        let set = &self.catalog.sets[place.set];
        let columns = self.catalog.config.columns_of(set);
        let compressed = compressed(&footer, place.index, &columns.media);
        let meter = &self.storage().meter;
        let mut read = Vec::with_capacity(rows.len());
        let part = footer::Part {
            group: place.index,
            names: &names,
            rows: Some(rows),
        };
        footer::read(shard, &footer, part, |batch| {
            read.extend(record::rows(batch, columns, meter, compressed));
            Ok(())
        })?;
        Ok(read)
    }

    /// Fetches the media that rows only name.
    fn complete(&self, rows: Vec<(u32, ReadRow)>) -> Result<Vec<Row>, DataError> {
        let fetch = |(group, row): &(u32, ReadRow)| {
            let Ok(Stored {
                uri: Some(uri),
                hash,
                ..
            }) = row
            else {
                return Ok(None);
            };
            let shard = self.catalog.groups[*group as usize].shard;
            match self.catalog.shards[shard].store().media(uri) {
                Ok(media) => {
                    let checked = hash.map_or(Ok(()), |hash| record::check_hash(&media, hash));
                    let named = |reason| format!("{uri}: {reason}");
                    Ok(Some(checked.map(|()| media).map_err(named)))
                }
                // A store that does not answer says nothing about the sample: replacing it would make
                // batches depend on the network.
                Err(error @ (StoreError::Failed { .. } | StoreError::System { .. })) => {
                    Err(DataError::Store(error))
                }
                Err(error) => Ok(Some(Err(first_line(&error)))),
            }
        };
        let named = rows
            .iter()
            .filter(|(_, row)| row.as_ref().is_ok_and(|row| row.uri.is_some()))
            .count();
        let media: Vec<_> = if named > 1 {
            in_parallel(&rows, fetch)
        } else {
            rows.iter().map(fetch).collect()
        };
        rows.into_iter()
            .zip(media)
            .map(|((_, row), media)| {
                let row = match (row, media?) {
                    (Err(reason), _) | (Ok(_), Some(Err(reason))) => Err(reason),
                    (Ok(stored), Some(Ok(media))) => Ok(Record {
                        media,
                        ..stored.record
                    }),
                    (Ok(stored), None) if self.wanted.media && stored.record.media.is_empty() => {
                        Err("it has no media".to_owned())
                    }
                    (Ok(stored), None) => Ok(stored.record),
                };
                Ok(row)
            })
            .collect()
    }
}

/// Whether a column's values come out of other buffers than they were read into.
fn compressed(footer: &ArrowReaderMetadata, group: usize, name: &str) -> bool {
    let columns = footer.metadata().row_group(group).columns();
    columns.iter().any(|column| {
        let root = column.column_path().parts().first();
        root.is_some_and(|root| root == name)
            && !matches!(column.compression(), Compression::UNCOMPRESSED)
    })
}

/// Bytes of a group's pages once they are decompressed.
fn grown(footer: &ArrowReaderMetadata, group: usize, bytes: u64) -> u64 {
    let group = footer.metadata().row_group(group);
    let stored = group.compressed_size().max(1) as f64;
    let ratio = group.total_byte_size().max(0) as f64 / stored;
    bytes.max((bytes as f64 * ratio) as u64)
}

const AT_ONCE: usize = 16;

/// Does the same with each of some values, in threads that wait for a store most of the time.
fn in_parallel<T: Sync, R: Send>(values: &[T], act: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let act = &act;
    let size = values.len().div_ceil(AT_ONCE).max(1);
    thread::scope(|scope| {
        let threads: Vec<_> = values
            .chunks(size)
            .map(|values| scope.spawn(move || values.iter().map(act).collect::<Vec<R>>()))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| match thread.join() {
                Ok(results) => results,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic leaves half done ends the loader, which nobody reads from then.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn first_line(error: &impl ToString) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
