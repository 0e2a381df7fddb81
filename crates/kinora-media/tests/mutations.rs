//! Files from strangers: real small files with bytes flipped, cut, inserted, and lengths blown up. Each
//! ends in a clip or an error, and never in a panic or in unbounded memory.
//!
//! `KINORA_MUTATIONS` sets the number of mutations of each file (300).

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::io::Cursor;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::codecs::gif::GifEncoder;
use image::codecs::webp::WebPEncoder;
use image::{Delay, ExtendedColorType, Frame, RgbaImage};
use kinora_media::{Clip, Decoder, Window, encode_jpeg, encode_mp4, encode_png, probe};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Bytes of Rust's heap in use, and their peak. Memory of the codecs in C and C++ is not counted.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator that counts has to be one")]
// SAFETY: all is passed on to the system's allocator, with the same layouts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

fn add(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Bytes that decoding a small broken file may take on Rust's heap at any moment: the largest picture
/// that is let through takes 256 MiB, and decoders need some of that again.
const PEAK_LIMIT: usize = 900 << 20;

/// One change of a file.
#[derive(Clone, Debug)]
enum Change {
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    /// A number of four bytes becomes huge, or nearly zero.
    Length(usize, u32),
    /// A part is repeated elsewhere.
    Copy(usize, usize, usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let place = |at: usize| at % bytes.len();
        match *self {
            Self::Flip(at, mask) => {
                let at = place(at);
                bytes[at] ^= mask;
            }
            Self::Cut(at) => bytes.truncate(place(at)),
            Self::Insert(at, ref more) => {
                let at = place(at);
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = place(at);
                let end = (at + count).min(bytes.len());
                bytes.drain(at..end);
            }
            Self::Length(at, value) => {
                let at = place(at);
                for (byte, new) in bytes[at..].iter_mut().zip(value.to_be_bytes()) {
                    *byte = new;
                }
            }
            Self::Copy(from, to, count) => {
                let (from, to) = (place(from), place(to));
                let part = bytes[from..(from + count).min(bytes.len())].to_vec();
                for (byte, new) in bytes[to..].iter_mut().zip(part) {
                    *byte = new;
                }
            }
        }
    }
}

fn changes(length: usize) -> impl Strategy<Value = Vec<Change>> {
    // The tables and headers are at the beginning, and matter most.
    let at = prop_oneof![0..length.min(64), 0..length.min(1200), 0..length];
    let value = prop_oneof![
        Just(u32::MAX),
        Just(0x7FFF_FFFF),
        Just(0x1000_0000),
        Just(0x0000_FFFF),
        Just(0),
        Just(1),
        any::<u32>()
    ];
    let change = prop_oneof![
        4 => (at.clone(), 1u8..).prop_map(|(at, mask)| Change::Flip(at, mask)),
        1 => at.clone().prop_map(Change::Cut),
        1 => (at.clone(), prop::collection::vec(any::<u8>(), 1..16))
            .prop_map(|(at, more)| Change::Insert(at, more)),
        1 => (at.clone(), 1usize..40).prop_map(|(at, count)| Change::Remove(at, count)),
        3 => (at.clone(), value).prop_map(|(at, value)| Change::Length(at, value)),
        1 => (at.clone(), at, 1usize..64).prop_map(|(from, to, count)| Change::Copy(from, to, count)),
    ];
    prop::collection::vec(change, 1..4)
}

/// Mutates a file many times, and decodes each of the results.
fn survive(name: &str, original: &[u8]) {
    let whole = probe(original).unwrap_or_else(|error| panic!("{name}: {error}"));
    let cases = std::env::var("KINORA_MUTATIONS").map_or(300, |text| text.parse().unwrap());
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    // The same mutations each time; other numbers of them begin alike.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let decoders = RefCell::new((Decoder::new(), Decoder::built_in()));
    PEAK.store(NOW.load(Ordering::Relaxed), Ordering::Relaxed);
    let (sound, tried) = (Cell::new(0), Cell::new(0));
    let done = runner.run(&changes(original.len()), |changes| {
        let mut bytes = original.to_vec();
        changes.iter().for_each(|change| change.apply(&mut bytes));
        tried.set(tried.get() + 1);
        let (decoder, built_in) = &mut *decoders.borrow_mut();
        if let Ok(info) = probe(&bytes) {
            prop_assert!(info.height * info.width > 0 && info.fps.is_finite());
            for window in [
                Window::frames(0, 1).sized([16, 16]),
                Window::frames(info.frames - 1, 1).sized([8, 24]),
                Window::time(0.1, 10.0, 3),
            ] {
                _ = built_in.window(&bytes, window);
                if let Ok(clip) = decoder.window(&bytes, window) {
                    prop_assert_eq!(clip.rgb.len(), clip.frames * clip.height * clip.width * 3);
                    sound.set(sound.get() + 1);
                }
            }
        }
        Ok(())
    });
    let peak = PEAK.load(Ordering::Relaxed) >> 20;
    println!(
        "{name}: {} mutations of {} frames in {} bytes, {} windows came out, peak {peak} MiB",
        tried.get(),
        whole.frames,
        original.len(),
        sound.get()
    );
    if let Err(error) = done {
        panic!("{name}: {error}");
    }
    assert!(peak < PEAK_LIMIT >> 20, "{name}: {peak} MiB");
}

fn picture(height: usize, width: usize, shift: usize) -> Vec<u8> {
    (0..height * width * 3)
        .map(|i| ((i / 3 % width * 5 + i / 3 / width * 3 + i % 3 * 60 + shift * 9) % 256) as u8)
        .collect()
}

fn clip() -> Clip {
    let rgb: Vec<u8> = (0..12).flat_map(|t| picture(48, 80, t)).collect();
    Clip {
        frames: 12,
        height: 48,
        width: 80,
        fps: 8.0,
        rgb,
    }
}

fn rgba(shift: usize) -> RgbaImage {
    let pixels = picture(20, 30, shift);
    RgbaImage::from_fn(30, 20, |x, y| {
        let at = (y as usize * 30 + x as usize) * 3;
        let alpha = if x + y < 10 { 0 } else { 255 };
        image::Rgba([pixels[at], pixels[at + 1], pixels[at + 2], alpha])
    })
}

/// All in one test, because the peak of memory is the whole program's.
#[test]
fn broken_files_end_in_errors_and_bounded_memory() {
    survive("own MP4", &encode_mp4(&clip()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    for (name, options) in [
        ("b-frames.mp4", &["-bf", "3", "-pix_fmt", "yuv420p"][..]),
        (
            "fragments.mp4",
            &[
                "-movflags",
                "frag_keyframe+empty_moov",
                "-g",
                "6",
                "-pix_fmt",
                "yuv420p",
            ],
        ),
        #[cfg(feature = "ffmpeg")]
        ("deep.mp4", &["-pix_fmt", "yuv444p10le"]),
        #[cfg(feature = "ffmpeg")]
        ("matroska.mkv", &["-pix_fmt", "yuv420p"]),
        #[cfg(feature = "ffmpeg")]
        ("transport.ts", &["-pix_fmt", "yuv420p"]),
    ] {
        let path = folder.path().join(name);
        let made = Command::new("ffmpeg")
            .args([
                "-v",
                "error",
                "-f",
                "lavfi",
                "-i",
                "testsrc=s=96x64:r=12:d=1",
                "-c:v",
                "libx264",
            ])
            .args(options)
            .arg(&path)
            .status();
        match made {
            Ok(status) => {
                assert!(status.success());
                survive(name, &std::fs::read(&path).unwrap());
            }
            Err(_) => eprintln!("SKIPPED: ffmpeg is not installed, so {name} was not mutated"),
        }
    }
    survive("PNG", &encode_png(&picture(40, 60, 0), 40, 60).unwrap());
    survive(
        "JPEG",
        &encode_jpeg(&picture(40, 60, 0), 40, 60, 80).unwrap(),
    );
    let mut gif = Vec::new();
    {
        let mut encoder = GifEncoder::new(&mut gif);
        for shift in 0..4 {
            let delay = Delay::from_numer_denom_ms(80, 1);
            let frame = Frame::from_parts(rgba(shift), 0, 0, delay);
            encoder.encode_frame(frame).unwrap();
        }
    }
    survive("GIF", &gif);
    let mut still = Cursor::new(Vec::new());
    WebPEncoder::new_lossless(&mut still)
        .encode(rgba(1).as_raw(), 30, 20, ExtendedColorType::Rgba8)
        .unwrap();
    let still = still.into_inner();
    survive("WebP", &still);
    let frame = |delay: u8| {
        let mut body = vec![0; 16];
        (body[6], body[9], body[12]) = (29, 19, delay);
        body.extend(&still[12..]);
        [&b"ANMF"[..], &(body.len() as u32).to_le_bytes(), &body].concat()
    };
    let head = b"VP8X\x0a\0\0\0\x12\0\0\0\x1d\0\0\x13\0\0ANIM\x06\0\0\0\xFF\xFF\xFF\xFF\0\0";
    let body = [&b"WEBP"[..], head, &frame(40), &frame(80), &frame(60)].concat();
    let moving = [&b"RIFF"[..], &(body.len() as u32).to_le_bytes(), &body].concat();
    survive("moving WebP", &moving);
}
