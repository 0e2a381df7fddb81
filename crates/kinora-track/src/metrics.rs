//! `metrics.jsonl`: one JSON object a line, a line a step, each step once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::TrackError;

const FILE: &str = "metrics.jsonl";

/// The file, open at its end.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
}

/// What a resumed run found in the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) kept: usize,
    pub(crate) dropped: usize,
}

impl Metrics {
    /// Opens the file of a run that starts anew (`None`) or goes on behind a step.
    ///
    /// A new run sets the file of an older one aside, under the first free of `metrics.1.jsonl`,
    /// `metrics.2.jsonl` ... A resumed one drops the rows of later steps, and lines that a killed
    /// write left torn.
    pub(crate) fn open(dir: &Path, resume_step: Option<u64>) -> Result<(Self, Kept), TrackError> {
        fs::create_dir_all(dir).map_err(TrackError::io("create", dir))?;
        let path = dir.join(FILE);
        let kept = match resume_step {
            Some(step) if path.exists() => truncate(dir, &path, step)?,
            Some(_) => Kept::default(),
            None => {
                set_aside(dir, &path)?;
                Kept::default()
            }
        };
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(TrackError::io("open", &path))?;
        Ok((Self { path, file }, kept))
    }

    /// Appends a line in one write, so that a reader sees whole lines.
    pub(crate) fn append(&mut self, line: &str) -> Result<(), TrackError> {
        let line = format!("{line}\n");
        self.file
            .write_all(line.as_bytes())
            .map_err(TrackError::io("write", &self.path))
    }

    /// Returns when the disk has all lines.
    pub(crate) fn sync(&self) -> Result<(), TrackError> {
        self.file
            .sync_all()
            .map_err(TrackError::io("sync", &self.path))
    }
}

/// The step of a row, if it is one.
pub(crate) fn step_of(row: &Value) -> Option<u64> {
    row.as_object()?.get("step")?.as_u64()
}

fn set_aside(dir: &Path, path: &Path) -> Result<(), TrackError> {
    let holds_rows = fs::metadata(path).is_ok_and(|file| file.len() > 0);
    if !holds_rows {
        return Ok(());
    }
    let aside = (1..)
        .map(|n| dir.join(format!("metrics.{n}.jsonl")))
        .find(|aside| !aside.exists())
        .expect("some number is free");
    fs::rename(path, aside).map_err(TrackError::io("rename", path))
}

/// Rewrites the file without the rows behind `step`. The old one stands until the new is whole.
fn truncate(dir: &Path, path: &Path, step: u64) -> Result<Kept, TrackError> {
    let next = dir.join(format!(".{FILE}.partial"));
    let from = File::open(path).map_err(TrackError::io("open", path))?;
    let to = File::create(&next).map_err(TrackError::io("create", &next))?;
    let mut to = BufWriter::new(to);
    let kept = copy_rows(BufReader::new(from), &mut to, step);
    let kept = kept.map_err(TrackError::io("copy to", &next))?;
    to.get_ref()
        .sync_all()
        .map_err(TrackError::io("sync", &next))?;
    fs::rename(&next, path).map_err(TrackError::io("rename", &next))?;
    Ok(kept)
}

fn copy_rows(from: impl BufRead, to: &mut impl Write, step: u64) -> io::Result<Kept> {
    let mut kept = Kept::default();
    for line in from.split(b'\n') {
        let line = line?;
        let row = serde_json::from_slice(&line).ok();
        if row.as_ref().and_then(step_of).is_some_and(|at| at <= step) {
            to.write_all(&line)?;
            to.write_all(b"\n")?;
            kept.kept += 1;
        } else {
            kept.dropped += 1;
        }
    }
    to.flush()?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, resume_step: Option<u64>) -> (Metrics, Kept) {
        Metrics::open(dir, resume_step).unwrap()
    }

    #[test]
    fn a_resumed_file_has_each_step_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let (mut metrics, _) = open(dir.path(), None);
        for step in 1..=5 {
            metrics
                .append(&format!("{{\"step\":{step},\"loss\":0.5}}"))
                .unwrap();
        }
        metrics.append("{\"step\":6,\"lo").unwrap();
        drop(metrics);
        let (mut metrics, kept) = open(dir.path(), Some(3));
        assert_eq!(
            kept,
            Kept {
                kept: 3,
                dropped: 3
            }
        );
        metrics.append("{\"step\":4}").unwrap();
        metrics.sync().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let steps: Vec<u64> = text
            .lines()
            .map(|line| step_of(&serde_json::from_str(line).unwrap()).unwrap())
            .collect();
        assert_eq!(steps, [1, 2, 3, 4]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_line_without_an_end_is_not_glued_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, b"{\"step\":1}\n{\"step\":2}\n\xff\xfe{\"st").unwrap();
        let (mut metrics, kept) = open(dir.path(), Some(2));
        assert_eq!(
            kept,
            Kept {
                kept: 2,
                dropped: 1
            }
        );
        metrics.append("{\"step\":3}").unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n"
        );
    }

    #[test]
    fn a_new_run_sets_the_old_file_aside() {
        let dir = tempfile::tempdir().unwrap();
        for run in 0..3 {
            let (mut metrics, _) = open(dir.path(), None);
            metrics
                .append(&format!("{{\"step\":1,\"run\":{run}}}"))
                .unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(read("metrics.1.jsonl").contains("\"run\":0"));
        assert!(read("metrics.2.jsonl").contains("\"run\":1"));
        assert!(read(FILE).contains("\"run\":2"));
    }
}
