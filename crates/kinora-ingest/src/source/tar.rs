//! Tar files as WebDataset has them: members whose names are equal up to the first dot belong to one
//! sample.
//!
//! The headers are read here and not by a library, because media must be found again by their place
//! in the file, and because a header from a stranger must not decide how much memory is taken.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use super::member::{Role, role, split};
use super::recognise;
use super::{Files, Fingerprint, Item, Items, Source, Words};
use crate::hold::Hold;
use crate::{IngestError, SourceKind};

/// Tar files, one after the other.
pub(crate) struct Tars {
    print: Fingerprint,
    files: Vec<Archive>,
}

struct Archive {
    path: Arc<Path>,
    name: String,
    /// Where the headers of each sample begin, and how many items come before it.
    samples: Vec<(u64, u64)>,
    items: u64,
    /// Members that belong to no media.
    ignored: u64,
    /// What ended it before its end.
    broken: Option<String>,
}

impl Tars {
    /// Reads all headers once.
    ///
    /// # Errors
    /// If there is no tar, or one cannot be opened.
    pub(crate) fn open(path: &Path) -> Result<Self, IngestError> {
        let mut files = Vec::new();
        let mut seen = Files::default();
        for path in recognise::files(path, "tar")? {
            let meta = path.metadata().map_err(IngestError::io(&path))?;
            seen.add(&path, &meta);
            files.push(Archive::open(&path)?);
        }
        let items = files.iter().map(|file| file.items).sum();
        let print = seen.fingerprint(path, SourceKind::Tar, items);
        Ok(Self { print, files })
    }
}

impl Source for Tars {
    fn print(&self) -> &Fingerprint {
        &self.print
    }

    fn from(&self, position: u64) -> Result<Items<'_>, IngestError> {
        let mut skip = position;
        let mut parts: Vec<Items<'_>> = Vec::new();
        for file in &self.files {
            if skip >= file.items {
                skip -= file.items;
                continue;
            }
            parts.push(file.from(std::mem::take(&mut skip))?);
        }
        Ok(Box::new(parts.into_iter().flatten()))
    }

    fn ignored(&self) -> Vec<String> {
        self.files
            .iter()
            .filter(|file| file.ignored > 0)
            .map(|file| {
                format!(
                    "{}: {} members without a picture or video",
                    file.name, file.ignored
                )
            })
            .collect()
    }
}

impl Archive {
    fn open(path: &Path) -> Result<Self, IngestError> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut archive = Self {
            path: path.into(),
            name,
            samples: Vec::new(),
            items: 0,
            ignored: 0,
            broken: None,
        };
        let mut groups = Groups::open(&archive.path, 0).map_err(IngestError::io(path))?;
        loop {
            match groups.next() {
                Ok(Some(group)) => {
                    let media = group.of(Role::Media).count() as u64;
                    if media == 0 {
                        archive.ignored += group.members.len() as u64;
                        continue;
                    }
                    archive.samples.push((group.start, archive.items));
                    archive.items += media;
                }
                Ok(None) => break,
                Err(reason) => {
                    archive.broken = Some(reason);
                    archive.items += 1;
                    break;
                }
            }
        }
        Ok(archive)
    }

    fn from(&self, position: u64) -> Result<Items<'_>, IngestError> {
        // The sample that holds the item; none if only the broken end is left.
        let at = self
            .samples
            .partition_point(|&(_, before)| before <= position);
        let whole = self.items - u64::from(self.broken.is_some());
        let end = self.broken.as_ref().map(|reason| {
            let reason = format!("{}: {reason}; what follows is lost", self.path.display());
            Item::broken(format!("{}/end", self.name), reason)
        });
        if position >= whole || at == 0 {
            return Ok(Box::new(end.into_iter()));
        }
        let (start, before) = self.samples[at - 1];
        let mut groups = Groups::open(&self.path, start).map_err(IngestError::io(&self.path))?;
        let items = std::iter::from_fn(move || {
            loop {
                let group = groups.next().ok().flatten()?;
                if group.of(Role::Media).next().is_some() {
                    return Some(self.items_of(&group));
                }
            }
        });
        let items = items
            .flatten()
            .skip((position - before) as usize)
            .take((whole - position) as usize);
        Ok(Box::new(items.chain(end)))
    }

    fn items_of(&self, group: &Group) -> Vec<Item> {
        let hold = |member: &Member| Hold::Span {
            path: self.path.clone(),
            at: member.at,
            size: member.size,
        };
        let first = |role| group.of(role).next().map(hold);
        group
            .of(Role::Media)
            .map(|member| Item {
                key: format!("{}/{}", self.name, member.name),
                media: hold(member),
                place: None,
                words: Words {
                    text: first(Role::Text),
                    json: first(Role::Json),
                    ..Words::default()
                },
                audio: first(Role::Sound),
            })
            .collect()
    }
}

/// The members of one sample.
struct Group {
    /// Where its first header begins.
    start: u64,
    members: Vec<Member>,
}

impl Group {
    fn of(&self, wanted: Role) -> impl Iterator<Item = &Member> {
        let is = move |member: &&Member| role(split(&member.name).1) == wanted;
        self.members.iter().filter(is)
    }
}

struct Member {
    name: String,
    at: u64,
    size: u64,
}

impl Member {
    /// The name up to the first dot of its last part.
    fn key(&self) -> &str {
        let last = self.name.rfind('/').map_or(0, |slash| slash + 1);
        match self.name[last..].find('.') {
            Some(dot) => &self.name[..last + dot],
            None => &self.name,
        }
    }
}

/// Members of one sample may not be more, lest a tar of equal names takes all memory.
const MOST_MEMBERS: usize = 1000;

/// Samples in the order of the file.
struct Groups {
    headers: Headers,
    pending: Option<(u64, Member)>,
}

impl Groups {
    fn open(path: &Path, at: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(at))?;
        Ok(Self {
            headers: Headers { file, at, size },
            pending: None,
        })
    }

    fn next(&mut self) -> Result<Option<Group>, String> {
        let first = match self.pending.take() {
            Some(first) => first,
            None => match self.headers.next()? {
                Some(first) => first,
                None => return Ok(None),
            },
        };
        let mut group = Group {
            start: first.0,
            members: vec![first.1],
        };
        // An error behind a whole sample is met again by the next call.
        let resume = self.headers.at;
        let mut at = resume;
        while group.members.len() < MOST_MEMBERS {
            match self.headers.next() {
                Ok(Some(next)) if next.1.key() == group.members[0].key() => {
                    group.members.push(next.1);
                    at = self.headers.at;
                }
                Ok(Some(next)) => {
                    self.pending = Some(next);
                    break;
                }
                Ok(None) => break,
                Err(_) => {
                    self.headers.at = at;
                    break;
                }
            }
        }
        Ok(Some(group))
    }
}

struct Headers {
    file: File,
    at: u64,
    size: u64,
}

const BLOCK: u64 = 512;
/// The longest name, and the most bytes of an extended header.
const LONGEST_NAME: u64 = 1 << 16;

impl Headers {
    /// The next regular file, with the place of its first header.
    fn next(&mut self) -> Result<Option<(u64, Member)>, String> {
        let start = self.at;
        let (mut name, mut size): (Option<String>, Option<u64>) = (None, None);
        loop {
            let Some(header) = self.block()? else {
                return Ok(None);
            };
            let length = match size.take() {
                Some(length) => length,
                None => number(&header[124..136]).ok_or("a header's size is no number")?,
            };
            let data = self.at;
            let end = data
                .checked_add(length)
                .filter(|&end| end <= self.size)
                .ok_or_else(|| format!("it ends inside the member at byte {data}"))?;
            self.at = end.next_multiple_of(BLOCK).min(self.size);
            match header[156] {
                b'L' => {
                    let long = self.part(data, length)?;
                    let text = String::from_utf8_lossy(&long);
                    name = Some(text.trim_end_matches('\0').to_owned());
                }
                b'x' => {
                    let records = self.part(data, length)?;
                    if let Some(path) = pax(&records, "path") {
                        name = Some(path);
                    }
                    size = pax(&records, "size").and_then(|size| size.parse().ok());
                }
                b'0' | 0 | b'7' => {
                    let name = name.take().unwrap_or_else(|| plain_name(&header));
                    if name.ends_with('/') {
                        continue;
                    }
                    let member = Member {
                        name: name.trim_start_matches("./").to_owned(),
                        at: data,
                        size: length,
                    };
                    return Ok(Some((start, member)));
                }
                // Folders, links and global headers hold no media.
                _ => name = None,
            }
        }
    }

    /// The next header; none at the end.
    fn block(&mut self) -> Result<Option<[u8; 512]>, String> {
        loop {
            if self.at >= self.size {
                return Ok(None);
            }
            let mut block = [0; 512];
            let read = self
                .file
                .seek(SeekFrom::Start(self.at))
                .and_then(|_| self.file.read_exact(&mut block));
            if let Err(error) = read {
                return Err(match error.kind() {
                    io::ErrorKind::UnexpectedEof => "it is cut off".into(),
                    _ => error.to_string(),
                });
            }
            let at = self.at;
            self.at += BLOCK;
            // Two empty blocks end a tar; but tars that were put behind each other go on.
            if block.iter().all(|&byte| byte == 0) {
                continue;
            }
            let sum: u64 = block
                .iter()
                .enumerate()
                .map(|(index, &byte)| {
                    if (148..156).contains(&index) {
                        32
                    } else {
                        u64::from(byte)
                    }
                })
                .sum();
            if number(&block[148..156]) != Some(sum) {
                return Err(format!("byte {at} is no header: its checksum is wrong"));
            }
            return Ok(Some(block));
        }
    }

    fn part(&mut self, at: u64, size: u64) -> Result<Vec<u8>, String> {
        if size > LONGEST_NAME {
            return Err(format!("a name or extended header of {size} bytes"));
        }
        let mut bytes = vec![0; size as usize];
        self.file
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}

/// A number of a header: octal digits, or binary if the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        let clear = high
            .iter()
            .enumerate()
            .all(|(i, &byte)| byte == if i == 0 { 0x80 } else { 0 });
        return clear.then(|| low.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)));
    }
    let text = field.split(|&byte| byte == 0).next()?;
    let text = std::str::from_utf8(text).ok()?.trim();
    if text.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(text, 8).ok()
}

/// The name in a plain header, with its prefix if it has one.
fn plain_name(header: &[u8; 512]) -> String {
    let text = |range: std::ops::Range<usize>| {
        let bytes = header[range]
            .split(|&byte| byte == 0)
            .next()
            .unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let (name, prefix) = (text(0..100), text(345..500));
    if header[257..262] == *b"ustar" && header[262] == 0 && !prefix.is_empty() {
        format!("{prefix}/{name}")
    } else {
        name
    }
}

/// A value of an extended header, whose records are "LENGTH KEY=VALUE\n".
fn pax(records: &[u8], key: &str) -> Option<String> {
    let mut rest = records;
    while let Some(space) = rest.iter().position(|&byte| byte == b' ') {
        let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
        let record = rest.get(space + 1..length)?;
        rest = &rest[length..];
        let text = String::from_utf8_lossy(record);
        if let Some((name, value)) = text.trim_end_matches('\n').split_once('=')
            && name == key
        {
            return Some(value.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(
            number(&[0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
            Some(1 << 32)
        );
        assert_eq!(number(b"12x4567\0"), None);
        assert_eq!(number(&[0xff; 12]), None);
    }

    #[test]
    fn extended_headers_are_read_and_lies_are_not_followed() {
        let records = b"30 mtime=1441974501.807031999\n19 path=a/long/one\n";
        assert_eq!(pax(records, "path").as_deref(), Some("a/long/one"));
        assert_eq!(pax(b"999 path=a\n", "path"), None);
        assert_eq!(pax(b"3 path=a\n", "path"), None);
    }

    #[test]
    fn samples_go_by_names_up_to_the_first_dot() {
        let member = |name: &str| Member {
            name: name.into(),
            at: 0,
            size: 0,
        };
        assert_eq!(member("a.b/c.left.png").key(), "a.b/c");
        assert_eq!(member("plain").key(), "plain");
    }
}
