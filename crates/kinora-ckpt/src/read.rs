//! Reading any box of any tensor, wherever its bytes were cut.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::manifest::{self, FileEntry, Manifest, TensorEntry};
use crate::region::{Region, runs, volume};
use crate::{CkptError, Dtype, folder};

/// Named tensors of which any box can be read: a sharded checkpoint, or a plain file to import.
pub trait TensorSource {
    /// The names of the tensors, sorted.
    fn names(&self) -> Vec<&str>;

    /// The shape of a whole tensor.
    ///
    /// # Errors
    /// [`CkptError::Missing`].
    fn shape(&self, name: &str) -> Result<&[usize], CkptError>;

    /// The kind of number in a tensor.
    ///
    /// # Errors
    /// [`CkptError::Missing`].
    fn dtype(&self, name: &str) -> Result<Dtype, CkptError>;

    /// The elements of a box of a tensor, row-major, little endian. Only their bytes are read.
    ///
    /// # Errors
    /// [`CkptError::Missing`], [`CkptError::Outside`] when the box leaves the tensor, and
    /// [`CkptError::Io`].
    fn read(&self, name: &str, offset: &[usize], extent: &[usize]) -> Result<Vec<u8>, CkptError>;

    /// The elements of a whole tensor.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_whole(&self, name: &str) -> Result<Vec<u8>, CkptError> {
        let shape = self.shape(name)?;
        self.read(name, &vec![0; shape.len()], shape)
    }

    /// Checks that a whole tensor has the shape that the model gives it.
    ///
    /// # Errors
    /// [`CkptError::Missing`] and [`CkptError::Shape`].
    fn expect_shape(&self, name: &str, wanted: &[usize]) -> Result<(), CkptError> {
        let found = self.shape(name)?;
        if found == wanted {
            return Ok(());
        }
        Err(CkptError::Shape {
            name: name.to_owned(),
            wanted: wanted.to_vec(),
            found: found.to_vec(),
        })
    }
}

impl<S: TensorSource + ?Sized> TensorSource for &S {
    fn names(&self) -> Vec<&str> {
        (**self).names()
    }

    fn shape(&self, name: &str) -> Result<&[usize], CkptError> {
        (**self).shape(name)
    }

    fn dtype(&self, name: &str) -> Result<Dtype, CkptError> {
        (**self).dtype(name)
    }

    fn read(&self, name: &str, offset: &[usize], extent: &[usize]) -> Result<Vec<u8>, CkptError> {
        (**self).read(name, offset, extent)
    }
}

/// A whole checkpoint on the disk.
#[derive(Debug)]
pub struct Checkpoint {
    step: u64,
    meta: Value,
    entries: Vec<FileEntry>,
    index: Index,
}

impl Checkpoint {
    /// Opens a checkpoint's folder: reads its manifest, and looks that each file is there and as
    /// long as it was. The bytes themselves are [`verify`](Self::verify)'s.
    ///
    /// # Errors
    /// [`CkptError::Torn`] for a folder that is not a whole checkpoint, [`CkptError::Truncated`],
    /// [`CkptError::Io`].
    pub fn open(path: &Path) -> Result<Self, CkptError> {
        let torn = |what: String, help: String| {
            let path = path.to_path_buf();
            CkptError::Torn { path, what, help }
        };
        let elsewhere = "remove the folder and go on from the checkpoint before it".to_owned();
        let at = path.join(manifest::FILE);
        let text = match fs::read(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let help = match folder::latest(path) {
                    Ok(Some(newest)) => format!("open {}", newest.display()),
                    _ => "give the folder of a checkpoint, such as checkpoints/step-00000500"
                        .to_owned(),
                };
                return Err(torn(format!("it has no {}", manifest::FILE), help));
            }
            text => text.map_err(CkptError::io("read", &at))?,
        };
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| {
            torn(
                format!("its manifest cannot be read ({error})"),
                elsewhere.clone(),
            )
        })?;
        if let Some(fault) = manifest.fault() {
            return Err(torn(fault, elsewhere));
        }
        let mut files = Vec::with_capacity(manifest.files.len());
        for entry in &manifest.files {
            let file = path.join(&entry.name);
            let found = match fs::metadata(&file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(torn(format!("{} is missing", entry.name), elsewhere));
                }
                metadata => metadata.map_err(CkptError::io("read", &file))?.len(),
            };
            if found != entry.bytes {
                return Err(CkptError::Truncated {
                    path: file,
                    expected: entry.bytes,
                    found,
                });
            }
            files.push(file);
        }
        let index = Index {
            path: path.to_path_buf(),
            files,
            tensors: manifest.tensors,
        };
        Ok(Self {
            step: manifest.step,
            meta: manifest.meta,
            entries: manifest.files,
            index,
        })
    }

    /// The step after which it was saved.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What the saver kept beside the tensors.
    pub fn meta(&self) -> &Value {
        &self.meta
    }

    /// Reads every byte and compares checksums.
    ///
    /// # Errors
    /// [`CkptError::Corrupt`] for the first file whose bytes have changed, [`CkptError::Truncated`],
    /// [`CkptError::Io`].
    pub fn verify(&self) -> Result<(), CkptError> {
        self.verify_share(0, 1)
    }

    /// Verifies every `of`-th file, from number `share`: so many ranks divide the work.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_share(&self, share: usize, of: usize) -> Result<(), CkptError> {
        let files = self.entries.iter().zip(&self.index.files);
        for (entry, path) in files.skip(share).step_by(of) {
            let (bytes, crc32) = checksum(path).map_err(CkptError::io("read", path))?;
            let path = path.clone();
            if bytes != entry.bytes {
                return Err(CkptError::Truncated {
                    path,
                    expected: entry.bytes,
                    found: bytes,
                });
            }
            if crc32 != entry.crc32 {
                return Err(CkptError::Corrupt {
                    path,
                    expected: entry.crc32,
                    found: crc32,
                });
            }
        }
        Ok(())
    }

    /// A line for people: step, tensors, elements of each dtype, bytes, files.
    pub fn summary(&self) -> String {
        let mut elements: BTreeMap<Dtype, usize> = BTreeMap::new();
        for tensor in self.index.tensors.values() {
            *elements.entry(tensor.dtype).or_default() += volume(&tensor.shape);
        }
        let elements: Vec<String> = elements
            .iter()
            .map(|(dtype, count)| format!("{count} {dtype}"))
            .collect();
        let bytes: u64 = self.entries.iter().map(|entry| entry.bytes).sum();
        format!(
            "step {}: {} tensors ({}), {:.1} MB in {} files",
            self.step,
            self.index.tensors.len(),
            elements.join(", "),
            bytes as f64 / 1e6,
            self.entries.len()
        )
    }
}

impl TensorSource for Checkpoint {
    fn names(&self) -> Vec<&str> {
        self.index.names()
    }

    fn shape(&self, name: &str) -> Result<&[usize], CkptError> {
        Ok(&self.index.find(name)?.shape)
    }

    fn dtype(&self, name: &str) -> Result<Dtype, CkptError> {
        Ok(self.index.find(name)?.dtype)
    }

    fn read(&self, name: &str, offset: &[usize], extent: &[usize]) -> Result<Vec<u8>, CkptError> {
        self.index.read(name, offset, extent)
    }
}

/// Which box of which tensor lies where in which file.
#[derive(Debug)]
pub(crate) struct Index {
    /// What the user named: the folder of a checkpoint, or a file.
    pub(crate) path: PathBuf,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) tensors: BTreeMap<String, TensorEntry>,
}

impl Index {
    pub(crate) fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    pub(crate) fn find(&self, name: &str) -> Result<&TensorEntry, CkptError> {
        self.tensors.get(name).ok_or_else(|| {
            let count = self.tensors.len();
            let hint = match self.nearest(name) {
                Some(near) => format!("it holds {count} tensors; the nearest name is {near}"),
                None => "it holds no tensor".to_owned(),
            };
            CkptError::Missing {
                name: name.to_owned(),
                path: self.path.clone(),
                hint,
            }
        })
    }

    /// The name that shares the longest beginning and end with `name`.
    fn nearest(&self, name: &str) -> Option<&str> {
        let alike = |other: &str| {
            let equal = |(a, b): &(u8, u8)| a == b;
            let begin = name.bytes().zip(other.bytes()).take_while(equal).count();
            let end = name
                .bytes()
                .rev()
                .zip(other.bytes().rev())
                .take_while(equal)
                .count();
            begin + end
        };
        self.tensors
            .keys()
            .map(String::as_str)
            .max_by_key(|other| alike(other))
    }

    pub(crate) fn read(
        &self,
        name: &str,
        offset: &[usize],
        extent: &[usize],
    ) -> Result<Vec<u8>, CkptError> {
        let wanted = self.inside(name, offset, extent)?;
        let mut out = vec![0; wanted.volume() * self.find(name)?.dtype.size()];
        self.read_into(name, &wanted, &mut out, &mut Opened::default())?;
        Ok(out)
    }

    /// The box, if it is one of the tensor.
    pub(crate) fn inside(
        &self,
        name: &str,
        offset: &[usize],
        extent: &[usize],
    ) -> Result<Region, CkptError> {
        let tensor = self.find(name)?;
        let wanted = Region::new(offset, extent);
        if !wanted.fits(&tensor.shape) {
            return Err(CkptError::Outside {
                name: name.to_owned(),
                region: wanted.to_string(),
                shape: tensor.shape.clone(),
            });
        }
        Ok(wanted)
    }

    /// Reads a box that is [`inside`](Self::inside) the tensor into as many bytes as it has.
    pub(crate) fn read_into(
        &self,
        name: &str,
        wanted: &Region,
        out: &mut [u8],
        opened: &mut Opened,
    ) -> Result<(), CkptError> {
        let tensor = self.find(name)?;
        let size = tensor.dtype.size();
        for stored in &tensor.boxes {
            let Some(part) = stored.region.intersect(wanted) else {
                continue;
            };
            // A box without elements meets nothing, but one without dimensions meets everything.
            if part.volume() == 0 {
                continue;
            }
            let path = &self.files[stored.file];
            let file = opened.file(stored.file, path)?;
            let mut gather = Gather::new(|at, bytes| read_exact_at(file, at, bytes), out);
            runs(&part, &stored.region, wanted, |from, to, len| {
                gather.run(stored.begin + (from * size) as u64, to * size, len * size)
            })
            .and_then(|()| gather.flush())
            .map_err(CkptError::io("read", path))?;
        }
        Ok(())
    }
}

/// The file that was read last, which stays open for the next box.
#[derive(Default)]
pub(crate) struct Opened(Option<(usize, File)>);

impl Opened {
    fn file(&mut self, number: usize, path: &Path) -> Result<&File, CkptError> {
        if self.0.as_ref().is_none_or(|(open, _)| *open != number) {
            let file = File::open(path).map_err(CkptError::io("open", path))?;
            self.0 = Some((number, file));
        }
        Ok(&self.0.as_ref().expect("it was opened above").1)
    }
}

/// Fills `bytes` from byte `at` of a file.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    // One call of the system where seeking and reading are two: columns are short.
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

/// Fills `bytes` from byte `at` of a file.
#[cfg(not(unix))]
pub(crate) fn read_exact_at(mut file: &File, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(bytes)
}

/// Gaps up to this length are read and dropped: the disk reads whole pages anyway.
const GAP: u64 = 4096;
/// The longest stretch that is read to be scattered.
const SPAN: u64 = 4 << 20;

/// Fetches ascending runs of a file into their places, near ones with one read.
struct Gather<'a, F> {
    fetch: F,
    out: &'a mut [u8],
    /// Begin and end, in the file, of the runs that wait.
    span: (u64, u64),
    /// File position, place in `out` and length of each run that waits.
    waiting: Vec<(u64, usize, usize)>,
    scratch: Vec<u8>,
}

impl<'a, F: FnMut(u64, &mut [u8]) -> io::Result<()>> Gather<'a, F> {
    fn new(fetch: F, out: &'a mut [u8]) -> Self {
        Self {
            fetch,
            out,
            span: (0, 0),
            waiting: Vec::new(),
            scratch: Vec::new(),
        }
    }

    fn run(&mut self, from: u64, to: usize, len: usize) -> io::Result<()> {
        let end = from + len as u64;
        let near = from <= self.span.1 + GAP && end - self.span.0 <= SPAN;
        if self.waiting.is_empty() || !near {
            self.flush()?;
            self.span.0 = from;
        }
        self.span.1 = end;
        self.waiting.push((from, to, len));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let (begin, end) = self.span;
        match self.waiting[..] {
            [] => {}
            [(from, to, len)] => (self.fetch)(from, &mut self.out[to..to + len])?,
            _ => {
                self.scratch.resize((end - begin) as usize, 0);
                (self.fetch)(begin, &mut self.scratch)?;
                for &(from, to, len) in &self.waiting {
                    let at = (from - begin) as usize;
                    self.out[to..to + len].copy_from_slice(&self.scratch[at..at + len]);
                }
            }
        }
        self.waiting.clear();
        Ok(())
    }
}

/// The length and the CRC-32 of a file's bytes.
fn checksum(path: &Path) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let mut crc = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, crc.finalize())),
            Ok(n) => {
                crc.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gathers runs out of `file`, and returns the bytes and the reads that it took.
    fn gather(file: &[u8], runs: &[(u64, usize, usize)], n: usize) -> (Vec<u8>, Vec<(u64, usize)>) {
        let mut out = vec![0; n];
        let mut reads = Vec::new();
        let fetch = |at: u64, bytes: &mut [u8]| {
            reads.push((at, bytes.len()));
            bytes.copy_from_slice(&file[at as usize..at as usize + bytes.len()]);
            Ok(())
        };
        let mut gather = Gather::new(fetch, &mut out);
        for &(from, to, len) in runs {
            gather.run(from, to, len).unwrap();
        }
        gather.flush().unwrap();
        (out, reads)
    }

    #[test]
    fn near_runs_are_one_read_and_far_ones_are_not() {
        let file: Vec<u8> = (0..20_000).map(|i| (i % 251) as u8).collect();
        let at = |i: usize| file[i];
        let (out, reads) = gather(
            &file,
            &[(10, 2, 2), (12, 0, 2), (100, 4, 1), (9_000, 5, 1)],
            6,
        );
        assert_eq!(out, [at(12), at(13), at(10), at(11), at(100), at(9_000)]);
        assert_eq!(reads, [(10, 91), (9_000, 1)]);
    }

    #[test]
    fn a_span_stays_within_its_limit() {
        let file = vec![7; 3 * SPAN as usize];
        let half = SPAN as usize / 2 + 1;
        let runs: Vec<_> = (0..5)
            .map(|i| ((i * half) as u64, i * half, half))
            .collect();
        let (out, reads) = gather(&file, &runs, 5 * half);
        assert!(out.iter().all(|&byte| byte == 7));
        assert_eq!(reads.len(), 5);
    }
}
