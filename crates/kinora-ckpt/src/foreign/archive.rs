//! The table of a zip archive whose entries are stored as they are, which is what `torch.save` writes.
//!
//! Layout: PKWARE's APPNOTE 6.3.10, sections 4.3.7 (local headers), 4.3.12 (the central directory),
//! 4.3.14 to 4.3.16 (its end, and Zip64's) and 4.5.3 (Zip64's extra field).

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::CkptError;
use crate::read::read_exact_at;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;

/// The longest table that is believed: a model of 10,000 tensors has one of a megabyte.
const LONGEST_TABLE: u64 = 64 << 20;
const AGAIN: &str = "download the file again";

/// An open archive.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    file: File,
    entries: BTreeMap<String, Entry>,
    /// Where the entries end and the table begins.
    table: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where its local header begins.
    header: u64,
    bytes: u64,
    /// Neither compressed nor encrypted.
    stored: bool,
}

impl Archive {
    /// Reads the table.
    ///
    /// # Errors
    /// [`CkptError::Format`] when it is damaged; [`CkptError::Io`].
    pub(super) fn open(path: &Path) -> Result<Self, CkptError> {
        let file = File::open(path).map_err(CkptError::io("open", path))?;
        let length = file.metadata().map_err(CkptError::io("read", path))?.len();
        let bytes = |at: u64, count: u64| {
            let mut bytes = vec![0; count as usize];
            read_exact_at(&file, at, &mut bytes).map_err(CkptError::io("read", path))?;
            Ok::<_, CkptError>(bytes)
        };
        // The end has 22 bytes and a comment of at most 65535.
        let tail_at = length.saturating_sub(22 + 65_535);
        let tail = bytes(tail_at, length - tail_at)?;
        let cut = || {
            let what =
                format!("it is a zip archive of {length} bytes without its table at the end");
            CkptError::format(path, what, AGAIN)
        };
        let end = (0..tail.len().saturating_sub(21)).rev().find(|&at| {
            u32_at(&tail, at) == Some(END)
                && u16_at(&tail, at + 20).is_some_and(|n| at + 22 + n as usize == tail.len())
        });
        let end = end.ok_or_else(cut)?;
        let mut count = u64::from(u16_at(&tail, end + 10).ok_or_else(cut)?);
        let mut size = u64::from(u32_at(&tail, end + 12).ok_or_else(cut)?);
        let mut table = u64::from(u32_at(&tail, end + 16).ok_or_else(cut)?);
        let mut before = tail_at + end as u64;
        if count == 0xffff || size == 0xffff_ffff || table == 0xffff_ffff {
            let locator = end.checked_sub(20).ok_or_else(cut)?;
            let at = u64_at(&tail, locator + 8).ok_or_else(cut)?;
            let fits = at.checked_add(56).is_some_and(|end| end <= before);
            if u32_at(&tail, locator) != Some(LOCATOR_64) || !fits {
                return Err(cut());
            }
            let end = bytes(at, 56)?;
            if u32_at(&end, 0) != Some(END_64) {
                return Err(cut());
            }
            count = u64_at(&end, 32).ok_or_else(cut)?;
            size = u64_at(&end, 40).ok_or_else(cut)?;
            table = u64_at(&end, 48).ok_or_else(cut)?;
            before = at;
        }
        if size > LONGEST_TABLE || table.checked_add(size).is_none_or(|end| end > before) {
            let what = format!("its table would be {size} bytes at {table} of {length}");
            return Err(CkptError::format(path, what, AGAIN));
        }
        let entries = entries(&bytes(table, size)?, count, table)
            .map_err(|(what, help)| CkptError::format(path, what, help))?;
        let path = path.to_path_buf();
        Ok(Self {
            path,
            file,
            entries,
            table,
        })
    }

    /// The names of the entries.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Where an entry's bytes begin in the file, and how many they are; `None` if there is no such.
    ///
    /// # Errors
    /// [`CkptError::Format`] when its header is not there, its bytes leave the file or are compressed.
    pub(super) fn place(&self, name: &str) -> Result<Option<(u64, u64)>, CkptError> {
        let Some(&entry) = self.entries.get(name) else {
            return Ok(None);
        };
        let Entry { header, bytes, .. } = entry;
        if !entry.stored {
            let what = format!("its entry {name} is compressed or encrypted");
            let help = "save it with torch.save, which stores tensors as they are";
            return Err(CkptError::format(&self.path, what, help));
        }
        let bad = || {
            let what = format!("its entry {name} of {bytes} bytes is not where its table says");
            CkptError::format(&self.path, what, AGAIN)
        };
        let mut local = [0; 30];
        if header.checked_add(30).is_none_or(|end| end > self.table) {
            return Err(bad());
        }
        read_exact_at(&self.file, header, &mut local).map_err(CkptError::io("read", &self.path))?;
        let lengths = u16_at(&local, 26).zip(u16_at(&local, 28)).ok_or_else(bad)?;
        let begin = header + 30 + u64::from(lengths.0) + u64::from(lengths.1);
        let fits = begin
            .checked_add(bytes)
            .is_some_and(|end| end <= self.table);
        if u32_at(&local, 0) != Some(LOCAL) || !fits {
            return Err(bad());
        }
        Ok(Some((begin, bytes)))
    }

    /// The bytes of an entry of at most `limit`.
    ///
    /// # Errors
    /// As [`place`](Self::place), and [`CkptError::Format`] when it is longer.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, CkptError> {
        let Some((begin, bytes)) = self.place(name)? else {
            return Ok(None);
        };
        if bytes > limit {
            let what =
                format!("its entry {name} has {bytes} bytes, where at most {limit} are usual");
            return Err(CkptError::format(&self.path, what, AGAIN));
        }
        let mut out = vec![0; bytes as usize];
        read_exact_at(&self.file, begin, &mut out).map_err(CkptError::io("read", &self.path))?;
        Ok(Some(out))
    }
}

/// Reads the table: 46 bytes an entry, its name, its extra fields and a comment.
fn entries(
    table: &[u8],
    count: u64,
    limit: u64,
) -> Result<BTreeMap<String, Entry>, (String, &'static str)> {
    let mut entries = BTreeMap::new();
    let mut at = 0;
    for number in 0..count {
        let damaged = || (format!("entry {number} of its table is damaged"), AGAIN);
        if u32_at(table, at) != Some(CENTRAL) {
            return Err(damaged());
        }
        let short = |i: usize| u16_at(table, at + i).ok_or_else(damaged);
        let long = |i: usize| u32_at(table, at + i).map(u64::from).ok_or_else(damaged);
        let (flags, method) = (short(8)?, short(10)?);
        let (packed, whole, header) = (long(20)?, long(24)?, long(42)?);
        let name_at = at + 46;
        let extra_at = name_at + short(28)? as usize;
        let comment_at = extra_at + short(30)? as usize;
        at = comment_at + short(32)? as usize;
        let name = table.get(name_at..extra_at).ok_or_else(damaged)?;
        let name = std::str::from_utf8(name).map_err(|_| damaged())?;
        let extra = table.get(extra_at..comment_at).ok_or_else(damaged)?;
        let [whole, packed, header] = widen(extra, [whole, packed, header]).ok_or_else(damaged)?;
        if header > limit {
            return Err(damaged());
        }
        let entry = Entry {
            header,
            bytes: whole,
            stored: flags & 1 == 0 && method == 0 && packed == whole,
        };
        if entries.insert(name.to_owned(), entry).is_some() {
            return Err((format!("it has two entries {name}"), AGAIN));
        }
    }
    Ok(entries)
}

/// Takes the numbers that did not fit 32 bits from Zip64's extra field, where only those are.
fn widen(mut extra: &[u8], mut numbers: [u64; 3]) -> Option<[u64; 3]> {
    if numbers.iter().all(|&n| n != 0xffff_ffff) {
        return Some(numbers);
    }
    loop {
        let (id, length) = (u16_at(extra, 0)?, u16_at(extra, 2)? as usize);
        let field = extra.get(4..4 + length)?;
        if id == 1 {
            let wide = numbers.iter_mut().filter(|n| **n == 0xffff_ffff);
            for (i, number) in wide.enumerate() {
                *number = u64_at(field, i * 8)?;
            }
            return Some(numbers);
        }
        extra = &extra[4 + length..];
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
