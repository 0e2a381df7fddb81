//! What was seen before: bytes, pictures and names.
//!
//! Everything remembered goes into a log too, from which a run that goes on rebuilds it.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::IngestError;
use crate::config::Duplicates;

/// The memory of a run: about 20 bytes for each name and each file, and what
/// [`Duplicates::remember`] says for each picture.
pub(crate) struct Seen {
    files: HashSet<u64>,
    keys: HashSet<u64>,
    near: Option<Near>,
    rules: Duplicates,
    path: PathBuf,
    log: File,
    pending: Vec<u8>,
    length: u64,
}

const FILE: u8 = 0;
const KEY: u8 = 1;
const PICTURE: u8 = 2;
/// A tag and a number.
const ENTRY: usize = 9;

impl Seen {
    /// Rebuilds what the first `length` bytes of a log say, and cuts off the rest.
    pub(crate) fn open(path: &Path, length: u64, rules: Duplicates) -> Result<Self, IngestError> {
        let log = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(IngestError::io(path))?;
        let mut seen = Self {
            files: HashSet::new(),
            keys: HashSet::new(),
            near: rules.near.map(|bits| Near::new(bits, rules.remember)),
            rules,
            path: path.to_path_buf(),
            log,
            pending: Vec::new(),
            length,
        };
        seen.replay(length).map_err(IngestError::io(path))?;
        Ok(seen)
    }

    fn replay(&mut self, length: u64) -> std::io::Result<()> {
        let mut reader = BufReader::new(self.log.try_clone()?);
        let mut entry = [0; ENTRY];
        for _ in 0..length / ENTRY as u64 {
            reader.read_exact(&mut entry)?;
            let [tag, number @ ..] = entry;
            let number = u64::from_le_bytes(number);
            match tag {
                FILE => drop(self.files.insert(number)),
                KEY => drop(self.keys.insert(number)),
                _ => {
                    if let Some(near) = &mut self.near {
                        near.add(number);
                    }
                }
            }
        }
        self.log.set_len(length)?;
        self.log.seek(SeekFrom::Start(length))?;
        Ok(())
    }

    /// Notes a file's hash; whether it was there before, and duplicates are unwanted.
    pub(crate) fn file(&mut self, hash: u64) -> bool {
        if !self.rules.exact {
            return false;
        }
        let new = self.files.insert(hash);
        if new {
            self.note(FILE, hash);
        }
        !new
    }

    /// Notes a name; whether it was there before.
    pub(crate) fn key(&mut self, key: &str) -> bool {
        let hash = xxh3_64(key.as_bytes());
        let new = self.keys.insert(hash);
        if new {
            self.note(KEY, hash);
        }
        !new
    }

    /// Whether a picture looks like an earlier one.
    pub(crate) fn looks_like(&self, picture: u64) -> bool {
        self.near.as_ref().is_some_and(|near| near.holds(picture))
    }

    /// Notes a picture.
    pub(crate) fn picture(&mut self, picture: u64) {
        if let Some(near) = &mut self.near {
            near.add(picture);
            self.note(PICTURE, picture);
        }
    }

    fn note(&mut self, tag: u8, number: u64) {
        self.pending.push(tag);
        self.pending.extend(number.to_le_bytes());
    }

    /// Writes what is new to the log; the length of the log.
    pub(crate) fn save(&mut self) -> Result<u64, IngestError> {
        self.log
            .write_all(&self.pending)
            .and_then(|()| self.log.sync_data())
            .map_err(IngestError::io(&self.path))?;
        self.length += self.pending.len() as u64;
        self.pending.clear();
        Ok(self.length)
    }
}

/// Pictures by their perceptual hashes.
///
/// Hashes that differ in at most `bits` bits are equal in at least one of `bits + 1` bands, so only
/// those are compared. Half of the memory is forgotten when it is full.
struct Near {
    bits: u32,
    half: usize,
    old: Bands,
    new: Bands,
}

#[derive(Default)]
struct Bands {
    hashes: Vec<u64>,
    /// Band and its value, to places in `hashes`.
    places: HashMap<(u8, u64), Vec<u32>>,
}

impl Near {
    fn new(bits: u32, remember: usize) -> Self {
        Self {
            bits,
            half: remember.clamp(1, u32::MAX as usize),
            old: Bands::default(),
            new: Bands::default(),
        }
    }

    fn bands(bits: u32, hash: u64) -> impl Iterator<Item = (u8, u64)> {
        let count = bits + 1;
        (0..count).map(move |band| {
            let (from, to) = (64 * band / count, 64 * (band + 1) / count);
            let mask = if to - from == 64 {
                u64::MAX
            } else {
                (1 << (to - from)) - 1
            };
            (band as u8, hash >> from & mask)
        })
    }

    fn add(&mut self, hash: u64) {
        if self.new.hashes.len() == self.half {
            self.old = std::mem::take(&mut self.new);
        }
        let place = self.new.hashes.len() as u32;
        self.new.hashes.push(hash);
        for band in Self::bands(self.bits, hash) {
            self.new.places.entry(band).or_default().push(place);
        }
    }

    fn holds(&self, hash: u64) -> bool {
        let near = |bands: &Bands| {
            Self::bands(self.bits, hash).any(|band| {
                let places = bands.places.get(&band);
                let mut places = places.into_iter().flatten();
                places.any(|&place| (bands.hashes[place as usize] ^ hash).count_ones() <= self.bits)
            })
        };
        near(&self.new) || near(&self.old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_hashes_are_found_as_by_comparing_all() {
        let mut state = 1u64;
        let mut random = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            xxh3_64(&state.to_le_bytes())
        };
        for bits in [0, 1, 4, 10] {
            let mut near = Near::new(bits, 1000);
            let hashes: Vec<u64> = (0..300).map(|_| random()).collect();
            hashes.iter().for_each(|&hash| near.add(hash));
            for index in 0..300 {
                let mut other = hashes[index];
                for _ in 0..index % 14 {
                    other ^= 1 << (random() % 64);
                }
                let expected = hashes
                    .iter()
                    .any(|hash| (hash ^ other).count_ones() <= bits);
                assert_eq!(near.holds(other), expected, "{bits} bits");
            }
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut near = Near::new(0, 10);
        (0..25).for_each(|hash| near.add(hash));
        assert!(near.holds(24) && near.holds(10) && !near.holds(9));
    }

    #[test]
    fn a_log_brings_it_all_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seen");
        let rules = Duplicates {
            near: Some(2),
            ..Duplicates::default()
        };
        let mut seen = Seen::open(&path, 0, rules).unwrap();
        assert!(!seen.file(7) && !seen.key("a"));
        seen.picture(0xff);
        let length = seen.save().unwrap();
        assert!(!seen.file(8) && !seen.key("b"));
        seen.save().unwrap();
        drop(seen);
        let mut seen = Seen::open(&path, length, rules).unwrap();
        assert!(seen.file(7) && seen.key("a") && seen.looks_like(0xfe));
        assert!(!seen.file(8) && !seen.key("b") && !seen.looks_like(0));
    }
}
