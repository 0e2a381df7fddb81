//! Damaged shards, and memory: whatever a file claims, nothing panics and no memory is taken that the
//! file could not fill; and a long run takes no more than a short one.

#![expect(
    unsafe_code,
    reason = "an allocator that counts is the only way to see memory that is asked for but not used"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use kinora_data::{
    Bucket, Caption, Catalog, DataConfig, DataError, Loader, Part, Row, ShardOptions, ShardWriter,
    Stream, Wanted,
};
use kinora_media::encode_png;
use parquet::file::metadata::ParquetMetaDataReader;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    MOST.fetch_max(live, Relaxed);
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// The counters belong to one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The bytes that an action had allocated at most, beyond those before it.
fn most_of(act: impl FnOnce()) -> usize {
    let before = LIVE.load(Relaxed);
    MOST.store(before, Relaxed);
    act();
    MOST.load(Relaxed).saturating_sub(before)
}

fn picture(number: usize) -> Vec<u8> {
    let rgb: Vec<u8> = (0..24 * 24 * 3)
        .map(|i| (i * 7 + number * 31) as u8)
        .collect();
    encode_png(&rgb, 24, 24).unwrap()
}

fn write(folder: &Path, samples: usize) {
    let options = ShardOptions {
        rows_per_group: 8,
        ..ShardOptions::default()
    };
    let mut writer = ShardWriter::create(folder, options).unwrap();
    for number in 0..samples {
        let media = picture(number);
        let key = format!("{number}");
        let captions = [
            Caption {
                text: format!("picture {number}"),
                weight: 1.0,
            },
            Caption {
                text: "a picture".into(),
                weight: 0.5,
            },
        ];
        let row = Row::new(&key, &media, &captions, [1, 24, 24], 0.0);
        writer.push(&row).unwrap();
    }
    writer.finish().unwrap();
}

fn config(folder: &Path) -> DataConfig {
    DataConfig {
        max_bad: 1.0,
        workers: 0,
        ..DataConfig::new(
            vec![folder.to_str().unwrap().to_owned()],
            vec![Bucket::new(1, 24, 24, 8)],
        )
    }
}

/// Opens and reads a set, and says what became of it.
fn read(config: &DataConfig, steps: usize) -> Result<(), DataError> {
    let catalog = Arc::new(Catalog::open(config)?);
    let all = Wanted {
        media: true,
        audio: true,
        latents: true,
        text: true,
    };
    let mut stream = Stream::open(catalog, Part::WHOLE, 0, all)?;
    for _ in 0..steps {
        stream.next_step()?;
    }
    Ok(())
}

/// A generator of numbers that looks random and is the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % below
    }
}

#[test]
fn damage_never_panics_and_never_takes_memory_without_bound() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 24);
    fs::remove_file(folder.path().join("manifest.json")).unwrap();
    let path = folder.path().join("shard-00000.parquet");
    let whole = fs::read(&path).unwrap();
    let config = config(folder.path());
    read(&config, 3).unwrap();
    let metadata = u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().unwrap()) as usize;
    let footer = whole.len() - 8 - metadata;

    // The reader's own panics are caught, and would fill the screen.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut dice = Dice(1);
    let (mut refused, mut read_through, mut most) = (0, 0, 0);
    for round in 0..4000 {
        let mut damaged = whole.clone();
        match round % 8 {
            // Cut off.
            0 => damaged.truncate(dice.roll(whole.len())),
            // Another length of the footer.
            1 => {
                let at = whole.len() - 8 + dice.roll(4);
                damaged[at] = dice.roll(256) as u8;
            }
            // Large numbers, as Thrift writes them.
            2 | 3 => {
                let at = footer + dice.roll(metadata - 5);
                damaged[at..at + 5].copy_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]);
            }
            // Bytes of the footer.
            4 | 5 => {
                for _ in 0..1 + dice.roll(3) {
                    let at = footer + dice.roll(metadata);
                    damaged[at] = dice.roll(256) as u8;
                }
            }
            // Large numbers in pages and their headers.
            6 => {
                let at = 4 + dice.roll(footer - 9);
                damaged[at..at + 5].copy_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF, 0x07]);
            }
            // Bytes anywhere.
            _ => {
                for _ in 0..1 + dice.roll(4) {
                    let at = dice.roll(whole.len());
                    damaged[at] ^= 1 << dice.roll(8);
                }
            }
        }
        fs::write(&path, &damaged).unwrap();
        let taken = most_of(|| match read(&config, 3) {
            Ok(()) => read_through += 1,
            Err(DataError::Panic { message, .. }) => panic!("round {round}: {message}"),
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
        });
        if taken > most {
            most = taken;
            eprintln!("round {round}, kind {}: {} kB", round % 8, taken >> 10);
        }
    }
    std::panic::set_hook(hook);
    eprintln!(
        "{refused} refused, {read_through} read through, {} kB at most",
        most >> 10
    );
    assert!(refused > 500 && read_through > 500);
    assert!(most < 256 << 20, "{most} bytes");
}

/// A Thrift integer of the compact protocol.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

#[test]
fn pages_that_claim_gigabytes_are_refused_before_memory_is_taken() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 8);
    fs::remove_file(folder.path().join("manifest.json")).unwrap();
    let path = folder.path().join("shard-00000.parquet");
    let whole = fs::read(&path).unwrap();
    let file = fs::File::open(&path).unwrap();
    let metadata = ParquetMetaDataReader::new()
        .parse_and_finish(&file)
        .unwrap();
    let huge = varint(2 * (i32::MAX as u64));
    let mut tried = 0;
    for column in metadata.row_group(0).columns() {
        let start = column.byte_range().0 as usize;
        // Type, and bytes once decompressed: then the latter says two gigabytes, and so many bytes
        // behind it are gone that all else stays where it is. A dictionary's number of values is
        // three bytes behind the sizes.
        assert_eq!((whole[start], whole[start + 2]), (0x15, 0x15));
        let length = |at: usize| {
            whole[at..]
                .iter()
                .position(|byte| byte & 0x80 == 0)
                .unwrap()
                + 1
        };
        let grown = start + 3;
        let mut places = vec![grown];
        if column.dictionary_page_offset().is_some() {
            let stored = grown + length(grown) + 1;
            places.push(stored + length(stored) + 2);
        }
        for at in places {
            let mut damaged = whole[..at].to_vec();
            damaged.extend(&huge);
            // The header goes on behind the number; what is too much is taken off the page's data.
            let rest = at + length(at);
            damaged.extend(&whole[rest..]);
            let cut = rest + 60;
            damaged.drain(cut..cut + damaged.len() - whole.len());
            assert_eq!(damaged.len(), whole.len());
            fs::write(&path, &damaged).unwrap();
            let taken = most_of(|| _ = read(&config(folder.path()), 1));
            assert!(taken < 64 << 20, "{}: {taken} bytes", column.column_path());
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn twenty_epochs_take_no_more_memory_than_three() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 64);
    for workers in [0, 2] {
        let config = DataConfig {
            workers,
            ..config(folder.path())
        };
        let catalog = Arc::new(Catalog::open(&config).unwrap());
        let mut loader = Loader::open(catalog, Part::WHOLE, 0).unwrap();
        let mut epochs = |count: usize| {
            for _ in 0..count * 8 {
                loader.next().unwrap();
            }
        };
        epochs(2);
        let early = most_of(|| epochs(3));
        let late = most_of(|| epochs(17));
        eprintln!("{workers} workers: {early} bytes over 3 epochs, {late} over 17");
        assert!(late < early + (1 << 20), "{early} and then {late} bytes");
    }
}
