//! Sources from strangers: mutated tars, tables and Parquet files end in broken items or an error,
//! never in a panic, and take no memory beyond their own size.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use kinora_ingest::{IngestConfig, Options, ingest};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::{images, png, put, run};
use tempfile::tempdir;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(
    unsafe_code,
    reason = "an allocator that counts is the only way to see a peak"
)]
// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps the allocator's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the allocator's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What an ingest of a small source may take, whatever its bytes say: decoders and writers included.
const MOST: usize = 160 << 20;

#[derive(Clone, Debug)]
enum Change {
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    /// Overwrites some bytes with the largest numbers.
    Huge(usize, usize),
    Repeat(usize, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        6 => (any::<usize>(), 1..=255u8).prop_map(|(at, bits)| Change::Flip(at, bits)),
        1 => any::<usize>().prop_map(Change::Cut),
        2 => (any::<usize>(), prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        3 => (any::<usize>(), 1..12usize).prop_map(|(at, length)| Change::Huge(at, length)),
        1 => (any::<usize>(), 1..600usize).prop_map(|(at, length)| Change::Repeat(at, length)),
    ];
    prop::collection::vec(change, 1..6)
}

fn apply(bytes: &mut Vec<u8>, changes: &[Change]) {
    for change in changes {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        match change {
            Change::Flip(at, bits) => bytes[at % length] ^= bits,
            Change::Cut(at) => bytes.truncate(at % length),
            Change::Insert(at, more) => {
                drop(bytes.splice(at % length..at % length, more.iter().copied()))
            }
            Change::Huge(at, count) => {
                let from = at % length;
                bytes[from..(from + count).min(length)].fill(0xff);
            }
            Change::Repeat(at, count) => {
                let from = at % length;
                let part = bytes[from..(from + count).min(length)].to_vec();
                bytes.splice(from..from, part);
            }
        }
    }
}

/// Ingests mutations of a file.
fn mutate(name: &str, original: &[u8], beside: &Path, cases: u32) {
    let config = IngestConfig {
        max_bad: 1.0,
        ..IngestConfig::default()
    };
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let source = beside.join(name);
    let result = runner.run(&changes(), |changes| {
        let mut bytes = original.to_vec();
        apply(&mut bytes, &changes);
        fs::write(&source, bytes).unwrap();
        let out = tempdir().unwrap();
        PEAK.store(HELD.load(Ordering::Relaxed), Ordering::Relaxed);
        let before = HELD.load(Ordering::Relaxed);
        let options = Options {
            jobs: 1,
            memory_mb: 8,
            ..Options::default()
        };
        // An error is as good as a result.
        drop(ingest(
            std::slice::from_ref(&source),
            &out.path().join("out"),
            &config,
            options,
            |_| {},
        ));
        let peak = PEAK.load(Ordering::Relaxed) - before;
        prop_assert!(peak < MOST, "it took {} MB", peak >> 20);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{name}: {error}");
    }
}

/// As many cases as asked for by hand: KINORA_CASES=20000 cargo test --release -p kinora-ingest strange
fn cases(usual: u32) -> u32 {
    option_env!("KINORA_CASES")
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(usual)
}

#[test]
fn mutated_sources_end_in_broken_items_or_errors() {
    let place = tempdir().unwrap();
    let media = place.path().join("media");
    for index in 0..4 {
        put(&media.join(format!("{index}.png")), png(index, 24, 32));
    }
    let lines: String = (0..4)
        .map(|index| format!("{{\"path\": \"media/{index}.png\", \"caption\": \"a {index}\", \"captions\": [\"b\", {{\"text\": \"c\", \"weight\": 2}}], \"n\": {index}}}\n"))
        .collect();
    mutate("list.jsonl", lines.as_bytes(), place.path(), cases(200));
    let rows: String = (0..4)
        .map(|index| format!("media/{index}.png,\"a \"\"{index}\"\"\nb\",x\n"))
        .collect();
    mutate(
        "list.csv",
        format!("path,caption,other\n{rows}").as_bytes(),
        place.path(),
        cases(200),
    );

    let mut tar = tar::Builder::new(Vec::new());
    for index in 0..4 {
        for (extension, bytes) in [("png", png(index, 24, 32)), ("txt", b"words".to_vec())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            let name = format!(
                "{}/{index}.{extension}",
                "long".repeat(if index == 2 { 40 } else { 1 })
            );
            tar.append_data(&mut header, name, &bytes[..]).unwrap();
        }
    }
    mutate(
        "a.tar",
        &tar.into_inner().unwrap(),
        place.path(),
        cases(200),
    );

    let source = place.path().join("images");
    images(&source, 6);
    let out = place.path().join("set");
    run(&source, &out, &IngestConfig::default(), 1).unwrap();
    let shard = fs::read(out.join("shard-00000.parquet")).unwrap();
    mutate("a.parquet", &shard, place.path(), cases(200));
}
