//! Files that are damaged by chance: sound, cutting and looking end in an error or in something
//! sound, without a panic and within bounded memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

use kinora_media::{Analysis, Clip, analyse, audio, audio_info, cut, encode_mp4};
use proptest::prelude::*;

/// Counts what is held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe by its nature")]
mod counting {
    use super::*;

    // SAFETY: every call goes on to the system's allocator as it came.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
            PEAK.fetch_max(held, Relaxed);
            // SAFETY: the caller keeps to the contract of `alloc`.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            HELD.fetch_sub(layout.size(), Relaxed);
            // SAFETY: the caller keeps to the contract of `dealloc`.
            unsafe { System.dealloc(pointer, layout) }
        }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by the test that measures, since memory is counted for the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes that a call may hold beyond what was there before it.
const MOST: usize = 64 << 20;

/// Small files: of this crate, and where ffmpeg is installed (it says so where not) of others.
fn files() -> &'static [Vec<u8>] {
    static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let rgb: Vec<u8> = (0..12 * 16 * 16 * 3u32)
            .map(|i| (i / 768 * 20 + i % 48) as u8)
            .collect();
        let own = Clip {
            frames: 12,
            height: 16,
            width: 16,
            fps: 8.0,
            rgb,
        };
        let mut files = vec![encode_mp4(&own).unwrap()];
        let folder = tempfile::tempdir().unwrap();
        let picture = ["-f", "lavfi", "-i", "testsrc=s=32x32:r=8:d=2"];
        let sound = ["-f", "lavfi", "-i", "anoisesrc=d=2:r=8000:a=0.3"];
        let codecs = [
            "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "2", "-g", "6",
        ];
        let both = [&picture[..], &sound, &codecs].concat();
        for (name, options) in [
            ("plain.mp4", [&both[..], &["-c:a", "aac"]].concat()),
            (
                "fragments.mp4",
                [
                    &both[..],
                    &["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"],
                ]
                .concat(),
            ),
            (
                "mp3.mp4",
                [&both[..], &["-ar", "16000", "-c:a", "libmp3lame"]].concat(),
            ),
            (
                "flac.mp4",
                [&both[..], &["-c:a", "flac", "-strict", "-2"]].concat(),
            ),
            ("alone.m4a", [&sound[..], &["-c:a", "aac"]].concat()),
            ("alone.mp3", [&sound[..], &["-c:a", "libmp3lame"]].concat()),
            ("alone.ogg", [&sound[..], &["-c:a", "libvorbis"]].concat()),
            ("alone.flac", [&sound[..], &["-c:a", "flac"]].concat()),
            ("alone.wav", [&sound[..], &["-c:a", "pcm_s16le"]].concat()),
        ] {
            let path = folder.path().join(name);
            let made = Command::new("ffmpeg")
                .args(["-v", "error"])
                .args(&options)
                .arg(&path)
                .status();
            if made.is_err() {
                eprintln!(
                    "SKIPPED: ffmpeg is not installed, so only files of this crate were damaged"
                );
                return files;
            }
            assert!(made.unwrap().success(), "{name}");
            files.push(std::fs::read(&path).unwrap());
        }
        files
    })
}

/// One thing that happens to a file.
#[derive(Clone, Debug)]
enum Harm {
    Flip(usize, u8),
    Set(usize, u32),
    Cut(usize, usize),
    Insert(usize, Vec<u8>),
    End(usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    // Half of all harm is done to the first two kilobytes, where the tables are.
    let place = prop_oneof![0..2048usize, any::<usize>()];
    let word = prop_oneof![
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(0x7FFF_FFFF),
        Just(0x100_0000),
        any::<u32>()
    ];
    prop_oneof![
        (place.clone(), any::<u8>()).prop_map(|(at, mask)| Harm::Flip(at, mask)),
        (place.clone(), word).prop_map(|(at, word)| Harm::Set(at, word)),
        (place.clone(), 1..200usize).prop_map(|(at, count)| Harm::Cut(at, count)),
        (place.clone(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, new)| Harm::Insert(at, new)),
        place.prop_map(Harm::End),
    ]
}

fn harmed(file: &[u8], harms: &[Harm]) -> Vec<u8> {
    let mut file = file.to_vec();
    for harm in harms {
        let length = file.len().max(1);
        match harm {
            Harm::Flip(at, mask) => {
                if let Some(byte) = file.get_mut(at % length) {
                    *byte ^= mask;
                }
            }
            Harm::Set(at, word) => {
                if let Some(bytes) = file
                    .get_mut(at % length..)
                    .and_then(|b| b.first_chunk_mut())
                {
                    *bytes = word.to_be_bytes();
                }
            }
            Harm::Cut(at, count) => {
                let from = (at % length).min(file.len());
                let to = (from + count).min(file.len());
                file.drain(from..to);
            }
            Harm::Insert(at, new) => {
                let at = (at % length).min(file.len());
                file.splice(at..at, new.iter().copied());
            }
            Harm::End(at) => file.truncate(at % length),
        }
    }
    file
}

/// Runs everything, and returns by how much memory grew at most.
fn run(file: &[u8]) -> usize {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    _ = audio_info(file);
    for (start, seconds) in [(0.0, 5.0), (0.9, 0.3)] {
        if let Ok(Some(sound)) = audio(file, start, Some(seconds)) {
            let most = f64::from(sound.rate) * f64::from(sound.channels) * seconds;
            assert!(sound.samples.len() as f64 <= most + 64.0);
            assert_eq!(sound.samples.len() % usize::from(sound.channels), 0);
        }
    }
    if let Ok(piece) = cut(file, 0.4, 1.1) {
        assert!(
            piece.bytes.len() < 4 * file.len() + 65_536,
            "{}",
            piece.bytes.len()
        );
        _ = cut(&piece.bytes, 0.1, 0.5);
        _ = audio(&piece.bytes, 0.0, Some(1.0));
    }
    _ = analyse(
        file,
        &Analysis {
            side: 16,
            ..Analysis::default()
        },
    );
    PEAK.load(Relaxed) - before
}

#[test]
fn damaged_files_neither_panic_nor_take_much_memory() {
    let _alone = ALONE.lock();
    let cases = std::env::var("KINORA_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: cases.unwrap_or(600),
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let mut most = 0;
    for file in files() {
        most = most.max(run(file));
    }
    let peak = AtomicUsize::new(most);
    let given = (0..files().len(), prop::collection::vec(harm(), 1..4));
    let result = runner.run(&given, |(file, harms)| {
        let grown = run(&harmed(&files()[file], &harms));
        peak.fetch_max(grown, Relaxed);
        prop_assert!(grown < MOST, "{} bytes", grown);
        Ok(())
    });
    println!("memory grew by {} KiB at most", peak.load(Relaxed) >> 10);
    result.unwrap();
}

/// By how much memory grows at most while something is done.
fn growth(work: impl FnOnce()) -> usize {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    PEAK.load(Relaxed) - before
}

#[test]
fn memory_goes_by_what_is_asked_for_and_not_by_the_length_of_the_file() {
    let _alone = ALONE.lock();
    let clip = |frames: usize| {
        let rgb = (0..frames * 64 * 64 * 3)
            .map(|at| (at / 12_288 * 3 + at % 192) as u8)
            .collect();
        let (height, width, fps) = (64, 64, 24.0);
        encode_mp4(&Clip {
            frames,
            height,
            width,
            fps,
            rgb,
        })
        .unwrap()
    };
    let [short, long] = [100, 1600].map(|frames| {
        let bytes = clip(frames);
        growth(|| {
            let footage = analyse(&bytes, &Analysis::default()).unwrap();
            let found: usize = footage.scenes.iter().map(|scene| scene.frames).sum();
            assert_eq!(found, frames);
        })
    });
    println!("looking at 100 frames takes {short} bytes, at 1600 frames {long}");
    // Tables, times and hashes; a picture of this size has 12,288 bytes.
    assert!(long < short + 1500 * 400, "{short} became {long}");

    // Two minutes of 16-bit sound, two channels at 44,100 per second.
    let samples = 120 * 44_100 * 2u32;
    let mut wav = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x02\0".to_vec();
    wav[4..8].copy_from_slice(&(36 + 2 * samples).to_le_bytes());
    wav.extend(44_100u32.to_le_bytes());
    wav.extend((44_100u32 * 4).to_le_bytes());
    wav.extend(b"\x04\0\x10\0data");
    wav.extend((2 * samples).to_le_bytes());
    wav.extend((0..samples).flat_map(|at| ((at % 9973) as i16).to_le_bytes()));
    let grown = growth(|| {
        let sound = audio(&wav, 100.0, Some(0.1)).unwrap().unwrap();
        let first = 100 * 44_100 * 2;
        assert_eq!(sound.samples.len(), 8_820);
        for (at, &sample) in (first..).zip(&sound.samples) {
            assert_eq!(sample, (at % 9973) as f32 / 32_768.0);
        }
    });
    println!("a tenth of a second from two minutes takes {grown} bytes");
    assert!(grown < 1 << 20, "{grown}");
}
