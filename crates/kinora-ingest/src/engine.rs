//! The run: one thread reads, some work, and the caller's writes what they found in the order of the
//! source.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kinora_data::{MANIFEST, Media, Row, ShardWriter, StoreOptions};
use serde::Serialize;

use crate::journal::{DROPPED, Held, Journal, REPORT, State, is_shard};
use crate::read_ahead::ReadAhead;
use crate::report::SourceReport;
use crate::seen::Seen;
use crate::source::{self, Item, Source};
use crate::work::{Draft, Piece, Refusal, Stored, Worked, Worker};
use crate::{IngestConfig, IngestError, MediaPlace, Report, Rule};

/// How it is computed; changes no byte of the output.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that work.
    pub jobs: usize,
    /// Megabytes of media that may be under way.
    pub memory_mb: usize,
    /// How media at URLs are fetched.
    pub store: StoreOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            jobs: thread::available_parallelism().map_or(1, usize::from),
            memory_mb: 1024,
            store: StoreOptions::default(),
        }
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Items that are done.
    pub items: u64,
    /// All items.
    pub total: u64,
    /// Bytes of media that were read.
    pub bytes: u64,
    /// Rows.
    pub kept: u64,
    /// What was left out.
    pub dropped: u64,
}

/// An ingest that is done.
#[derive(Clone, Debug)]
pub struct Ingested {
    /// Whether there was anything left to do.
    pub fresh: bool,
    /// How many items were done when it began.
    pub resumed_at: u64,
    /// What came of it, as in the folder's `report.json`.
    pub report: Report,
}

/// Nothing takes longer than this; a film is decoded in minutes.
const STALL: Duration = Duration::from_secs(1800);

/// Makes a data set of some sources, or goes on with one that was stopped. The caller is told of the
/// progress after each item.
///
/// # Errors
/// If a source cannot be opened, the folder is in use for something else or for other settings, more
/// than [`IngestConfig::max_bad`] of the items are broken, or writing fails. What is done stays, and
/// the same call goes on.
pub fn ingest(
    sources: &[PathBuf],
    out: &Path,
    config: &IngestConfig,
    options: Options,
    mut progress: impl FnMut(Progress),
) -> Result<Ingested, IngestError> {
    config.validate()?;
    let opened = source::open(sources, config, out)?;
    let held = Held::open(out, config.media == MediaPlace::Uri)?;
    let prints = opened.iter().map(|source| source.print().clone()).collect();
    let listed = opened.iter().map(|source| SourceReport {
        path: source.print().path.clone(),
        kind: source.print().kind,
        items: source.print().items,
        ignored: source.ignored(),
    });
    let report = Report::new(listed.collect());
    let mut journal = Journal::new(config, prints, report);
    match held.journal()? {
        Some(earlier) => {
            let differences = earlier.differences(&journal);
            if !differences.is_empty() {
                return Err(IngestError::Other {
                    folder: out.to_path_buf(),
                    differences,
                });
            }
            journal = earlier;
        }
        None => held.save(&mut journal)?,
    }
    if journal.state.done {
        whole(out, &journal.state)?;
        return Ok(Ingested {
            fresh: false,
            resumed_at: journal.state.items,
            report: journal.state.report,
        });
    }
    let resumed_at = journal.state.items;
    clean(out, &journal.state)?;
    let total = opened.iter().map(|source| source.print().items).sum();
    let real = out.canonicalize().map_err(IngestError::io(out))?;
    let worker = Worker::new(config.clone(), &real, options.store.clone());
    let crew = Crew::start(opened, resumed_at, worker, &options);
    let mut output = Output::open(out, config, held, journal)?;
    let mut told = |state: &State| {
        progress(Progress {
            items: state.items,
            total,
            bytes: state.report.bytes,
            kept: state.report.kept,
            dropped: state.report.dropped_count(),
        });
    };
    told(&output.journal.state);
    for index in resumed_at..total {
        let worked = crew.next(index)?;
        output.item(worked, config.max_bad)?;
        crew.ahead.give(index);
        told(&output.journal.state);
    }
    crew.end();
    let report = output.finish()?;
    Ok(Ingested {
        fresh: true,
        resumed_at,
        report,
    })
}

/// Checks that what is done is still there.
fn whole(out: &Path, state: &State) -> Result<(), IngestError> {
    for shard in &state.shards {
        let path = out.join(&shard.name);
        let bytes = path.metadata().map(|meta| meta.len());
        if !matches!(bytes, Ok(bytes) if bytes == shard.bytes) {
            return Err(IngestError::config(
                format!("{} was written, and is gone or has changed", path.display()),
                "remove the whole folder and begin again",
            ));
        }
    }
    Ok(())
}

/// Removes what was written behind the journal.
fn clean(out: &Path, state: &State) -> Result<(), IngestError> {
    for entry in fs::read_dir(out).map_err(IngestError::io(out))? {
        let entry = entry.map_err(IngestError::io(out))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let done = state.shards.iter().any(|shard| shard.name == name);
        let end = name == MANIFEST || name == REPORT || name.starts_with(".manifest.json.partial");
        if is_shard(&name) && !done || end {
            fs::remove_file(entry.path()).map_err(IngestError::io(&entry.path()))?;
        }
    }
    Ok(())
}

/// The threads that read and work.
struct Crew {
    ahead: Arc<ReadAhead>,
    done: Mutex<Done>,
    threads: Vec<JoinHandle<()>>,
}

struct Done {
    receiver: Receiver<(u64, Worked)>,
    early: BTreeMap<u64, Worked>,
}

impl Crew {
    fn start(sources: Vec<Box<dyn Source>>, from: u64, worker: Worker, options: &Options) -> Self {
        let jobs = options.jobs.max(1);
        let ahead = Arc::new(ReadAhead::new(
            jobs * 8,
            (options.memory_mb.max(1) as u64) << 20,
        ));
        let (to_workers, items) = mpsc::channel();
        let (to_writer, receiver) = mpsc::channel();
        let mut threads = Vec::new();
        let reader = ahead.clone();
        let failed = to_writer.clone();
        threads.push(thread::spawn(move || {
            read(&sources, from, &reader, &to_workers, &failed)
        }));
        let items = Arc::new(Mutex::new(items));
        let worker = Arc::new(worker);
        for _ in 0..jobs {
            let (items, worker, to_writer) = (items.clone(), worker.clone(), to_writer.clone());
            threads.push(thread::spawn(move || {
                loop {
                    let next = items.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((index, item)) = next else { return };
                    if to_writer.send((index, worker.work(item))).is_err() {
                        return;
                    }
                }
            }));
        }
        Self {
            ahead,
            done: Mutex::new(Done {
                receiver,
                early: BTreeMap::new(),
            }),
            threads,
        }
    }

    /// The item of this number.
    fn next(&self, index: u64) -> Result<Worked, IngestError> {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(worked) = done.early.remove(&index) {
                return Ok(worked);
            }
            match done.receiver.recv_timeout(STALL) {
                Ok((at, worked)) => drop(done.early.insert(at, worked)),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(IngestError::Stalled {
                        seconds: STALL.as_secs(),
                        item: self.ahead.oldest(),
                    });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(IngestError::config(
                        format!("the source ended at item {index}"),
                        "it has changed meanwhile: begin again in another folder",
                    ));
                }
            }
        }
    }

    /// Waits for threads that have nothing left to do.
    fn end(mut self) {
        for thread in self.threads.drain(..) {
            // A panic was reported as a broken item, or as a source that ended.
            drop(thread.join());
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // After an error, threads end by themselves when they notice.
        self.ahead.stop();
    }
}

/// Reads the sources in order.
fn read(
    sources: &[Box<dyn Source>],
    from: u64,
    ahead: &ReadAhead,
    to_workers: &Sender<(u64, Item)>,
    to_writer: &Sender<(u64, Worked)>,
) {
    let names = prefixes(sources);
    let mut index = 0;
    for (source, name) in sources.iter().zip(&names) {
        let items = source.print().items;
        let end = index + items;
        let skip = from.saturating_sub(index).min(items);
        index += skip;
        if index == end {
            continue;
        }
        let mut rest = match source.from(skip) {
            Ok(rest) => rest,
            Err(error) => {
                // Each of its items is missing, so that the run goes on, or ends by max_bad.
                let reason = error.to_string();
                Box::new(std::iter::repeat_with(move || {
                    Item::broken("unreadable".into(), reason.clone())
                }))
            }
        };
        while index < end {
            let Some(mut item) = rest.next() else {
                let reason = "the source has become shorter".to_owned();
                let key = format!("{name}{index}");
                let worked = Worked {
                    key,
                    bytes: 0,
                    hash: None,
                    scenes: None,
                    outcome: Err(Refusal {
                        rule: Rule::Broken,
                        reason,
                    }),
                };
                let key = worked.key.clone();
                if !ahead.take(index, 0, &key) || to_writer.send((index, worked)).is_err() {
                    return;
                }
                index += 1;
                continue;
            };
            item.key.insert_str(0, name);
            if !ahead.take(index, item.size(), &item.key) || to_workers.send((index, item)).is_err()
            {
                return;
            }
            index += 1;
        }
    }
}

/// What comes before the keys of each source, if there are several.
fn prefixes(sources: &[Box<dyn Source>]) -> Vec<String> {
    if sources.len() == 1 {
        return vec![String::new()];
    }
    let mut names: Vec<String> = Vec::new();
    for source in sources {
        let path = Path::new(&source.print().path);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut name = format!("{stem}/");
        let mut number = 2;
        while names.contains(&name) {
            name = format!("{stem}-{number}/");
            number += 1;
        }
        names.push(name);
    }
    names
}

/// What is written.
struct Output {
    out: PathBuf,
    held: Held,
    journal: Journal,
    writer: ShardWriter,
    seen: Seen,
    dropped: BufWriter<File>,
    /// Bytes of `dropped`.
    length: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    rule: Rule,
    reason: &'a str,
}

impl Output {
    fn open(
        out: &Path,
        config: &IngestConfig,
        held: Held,
        journal: Journal,
    ) -> Result<Self, IngestError> {
        let state = &journal.state;
        let path = out.join(DROPPED);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let dropped = file
            .and_then(|mut file| {
                file.set_len(state.dropped)?;
                file.seek(SeekFrom::Start(state.dropped))?;
                Ok(file)
            })
            .map_err(IngestError::io(&path))?;
        let shards = state.shards.clone();
        Ok(Self {
            writer: ShardWriter::resume(out, config.shards.options(), shards)?,
            seen: Seen::open(&held.seen(), state.seen, config.duplicates)?,
            out: out.to_path_buf(),
            dropped: BufWriter::new(dropped),
            length: state.dropped,
            held,
            journal,
        })
    }

    fn report(&mut self) -> &mut Report {
        &mut self.journal.state.report
    }

    fn item(&mut self, worked: Worked, max_bad: f64) -> Result<(), IngestError> {
        // Scenes that a shard before the journal's end has taken.
        let skip = self.journal.state.parts;
        let Worked {
            key,
            bytes,
            hash,
            scenes,
            outcome,
        } = worked;
        match outcome {
            Err(Refusal { rule, reason }) => self.drop(rule, &key, &reason)?,
            Ok(pieces) => self.pieces(&key, hash, pieces, skip)?,
        }
        let state = &mut self.journal.state;
        (state.items, state.parts) = (state.items + 1, 0);
        state.report.items += 1;
        state.report.bytes += bytes;
        if let Some(scenes) = scenes {
            state.report.clips += 1;
            state.report.scenes.add(scenes as f64);
        }
        let (bad, tried) = (state.report.dropped_by(Rule::Broken), state.items);
        if tried >= 20 && bad > 4 && bad as f64 > max_bad * tried as f64 {
            return Err(IngestError::TooManyBad {
                bad,
                tried,
                limit: max_bad,
                examples: state.report.dropped[&Rule::Broken].examples.clone(),
            });
        }
        Ok(())
    }

    fn pieces(
        &mut self,
        key: &str,
        hash: Option<u64>,
        pieces: Vec<Piece>,
        skip: u64,
    ) -> Result<(), IngestError> {
        // An item of which a shard has taken something was no duplicate.
        if skip == 0
            && let Some(hash) = hash
            && self.seen.file(hash)
        {
            return self.drop(Rule::Duplicate, key, "its bytes were there before");
        }
        // Scenes of one clip are not compared with each other, so they are noted together.
        let mut pictures = Vec::new();
        for (number, piece) in (0..).zip(pieces) {
            let fits = match piece.made {
                Ok(draft) if self.seen.looks_like(draft.picture) => Err(Refusal {
                    rule: Rule::NearDuplicate,
                    reason: "it looks like an earlier one".into(),
                }),
                other => other,
            };
            if let Ok(draft) = &fits {
                pictures.push(draft.picture);
            }
            if number < skip {
                continue;
            }
            self.journal.state.parts = number + 1;
            match fits {
                Err(Refusal { rule, reason }) => self.drop(rule, &piece.key, &reason)?,
                Ok(draft) => self.keep(piece.key, &draft)?,
            }
        }
        pictures
            .into_iter()
            .for_each(|picture| self.seen.picture(picture));
        Ok(())
    }

    fn keep(&mut self, mut key: String, draft: &Draft) -> Result<(), IngestError> {
        if self.seen.key(&key) {
            key = format!("{key}~{}", self.journal.state.items);
            self.seen.key(&key);
        }
        let (media, mut bytes) = match &draft.media {
            Stored::Bytes(bytes) => (Media::Bytes(bytes), bytes.len()),
            Stored::Uri(uri, hash) => (
                Media::Uri {
                    uri,
                    hash: Some(*hash),
                },
                0,
            ),
        };
        bytes += draft.audio.as_ref().map_or(0, Vec::len);
        let row = Row {
            key: &key,
            media,
            captions: &draft.captions,
            frames: draft.frames,
            height: draft.height,
            width: draft.width,
            fps: draft.fps,
            start: draft.start,
            duration: draft.duration,
            audio: draft.audio.as_deref(),
            sound: draft.sound,
            latents: None,
            text: None,
            meta: Some(&draft.meta),
        };
        let report = self.report();
        let video = draft.frames > 1;
        report.kept += 1;
        report.images += u64::from(!video);
        report.sounds += u64::from(draft.sound.is_some());
        report.milliseconds += (draft.duration * 1e3).round() as u64;
        report.kept_bytes += bytes as u64;
        let times = video.then_some([draft.fps, draft.duration]);
        report.rows.picture([draft.height, draft.width], times);
        for caption in &draft.captions {
            report.rows.caption.add(caption.text.chars().count() as f64);
        }
        let before = self.writer.shards().len();
        self.writer.push(&row)?;
        if self.writer.shards().len() > before {
            self.save()?;
        }
        Ok(())
    }

    fn drop(&mut self, rule: Rule, key: &str, reason: &str) -> Result<(), IngestError> {
        self.report().drop(rule, key, reason);
        let mut line = serde_json::to_vec(&Line { key, rule, reason }).expect("strings");
        line.push(b'\n');
        self.length += line.len() as u64;
        let path = self.out.join(DROPPED);
        self.dropped
            .write_all(&line)
            .map_err(IngestError::io(&path))
    }

    /// Notes in the journal that all so far is done.
    fn save(&mut self) -> Result<(), IngestError> {
        let path = self.out.join(DROPPED);
        self.dropped
            .flush()
            .and_then(|()| self.dropped.get_ref().sync_data())
            .map_err(IngestError::io(&path))?;
        let state = &mut self.journal.state;
        state.seen = self.seen.save()?;
        state.dropped = self.length;
        state.shards = self.writer.shards().to_vec();
        self.held.save(&mut self.journal)
    }

    fn finish(mut self) -> Result<Report, IngestError> {
        let path = self.out.join(REPORT);
        let mut text = serde_json::to_string_pretty(self.report()).expect("strings and numbers");
        text.push('\n');
        fs::write(&path, text).map_err(IngestError::io(&path))?;
        self.dropped.flush().map_err(IngestError::io(&path))?;
        let manifest = self.writer.finish()?;
        let state = &mut self.journal.state;
        state.seen = self.seen.save()?;
        state.dropped = self.length;
        state.shards = manifest.shards;
        state.done = true;
        self.held.save(&mut self.journal)?;
        Ok(self.journal.state.report)
    }
}
