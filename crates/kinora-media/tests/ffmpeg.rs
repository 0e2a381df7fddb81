//! FFmpeg beside the built-in decoder, and what only FFmpeg decodes. Files are made with the program
//! `ffmpeg`; where it is not installed, the tests say so and end.
#![cfg(feature = "ffmpeg")]

use std::path::Path;
use std::process::Command;

use kinora_media::{Clip, Decoder, Kind, MediaError, Window, decode, encode_mp4, probe};

/// A file of `ffmpeg`, or `None`, said aloud, where it or its encoder is not installed.
fn made(path: &Path, source: &str, options: &[&str]) -> Option<Vec<u8>> {
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-f", "lavfi", "-i", source])
        .args(options)
        .arg(path)
        .output();
    match made {
        Ok(made) if made.status.success() => Some(std::fs::read(path).unwrap()),
        Ok(made) => {
            let said = String::from_utf8_lossy(&made.stderr).into_owned();
            assert!(said.contains("Unknown encoder"), "{options:?}: {said}");
            eprintln!("SKIPPED: this ffmpeg lacks the encoder of {options:?}");
            None
        }
        Err(_) => {
            eprintln!("SKIPPED: ffmpeg is not installed, so no file was made with {options:?}");
            None
        }
    }
}

fn psnr(a: &Clip, b: &Clip) -> f64 {
    assert_eq!((a.frames, a.height, a.width), (b.frames, b.height, b.width));
    let error: f64 = a
        .rgb
        .iter()
        .zip(&b.rgb)
        .map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2))
        .sum();
    10.0 * (65025.0 * a.rgb.len() as f64 / error.max(1e-9)).log10()
}

#[test]
fn both_decoders_give_the_same_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let kinds: [&[&str]; 7] = [
        &["-bf", "3", "-g", "30"],
        &[
            "-bf",
            "3",
            "-x264-params",
            "b-pyramid=normal:open-gop=1:keyint=25",
        ],
        &[
            "-bf",
            "2",
            "-g",
            "12",
            "-movflags",
            "frag_keyframe+empty_moov",
        ],
        &[
            "-colorspace",
            "bt709",
            "-color_primaries",
            "bt709",
            "-color_trc",
            "bt709",
        ],
        &["-colorspace", "smpte170m", "-color_range", "pc"],
        &["-profile:v", "baseline", "-g", "10"],
        &["-tune", "zerolatency", "-slices", "4"],
    ];
    for (number, options) in kinds.into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.mp4"));
        let options = [&["-c:v", "libx264", "-pix_fmt", "yuv420p"], options].concat();
        let source = "testsrc2=s=98x66:r=24:d=3";
        let Some(bytes) = made(&path, source, &options) else {
            return;
        };
        let ours = Decoder::built_in().decode(&bytes).unwrap();
        let theirs = decode(&bytes).unwrap();
        assert_eq!(ours.frames, 72);
        // H.264 leaves a decoder no choice, and the rest is the same code.
        let close = psnr(&ours, &theirs);
        println!("{options:?}: {close:.1} dB");
        assert!(close > 70.0, "{options:?}: {close} dB");
        for threads in [2, 5] {
            assert_eq!(
                Decoder::with_threads(threads).decode(&bytes).unwrap(),
                theirs
            );
        }
        for window in [
            Window::frames(29, 4),
            Window::frames(71, 1),
            Window::time(0.4, 8.0, 12).sized([32, 32]),
            Window::time(1.9, 2.0, 3).sized([40, 64]),
        ] {
            let ours = Decoder::built_in().window(&bytes, window).unwrap();
            let theirs = Decoder::new().window(&bytes, window).unwrap();
            let close = psnr(&ours, &theirs);
            assert!(close > 70.0, "{options:?} {window:?}: {close} dB");
        }
    }
}

#[test]
fn the_writers_own_files_come_back_the_same() {
    for [height, width] in [[32, 32], [17, 33], [90, 70], [64, 65]] {
        let clip = Clip {
            frames: 5,
            height,
            width,
            fps: 8.0,
            rgb: (0..5 * height * width * 3)
                .map(|i| (i / 7 % 251) as u8)
                .collect(),
        };
        let bytes = encode_mp4(&clip).unwrap();
        assert_eq!(
            Decoder::built_in().decode(&bytes).unwrap(),
            decode(&bytes).unwrap()
        );
    }
}

/// Colour bars and a moving ramp, blurred, so that halved colour costs little.
const SOURCE: &str = "testsrc=s=128x96:r=25:d=2,format=gbrp,gblur=sigma=3";

#[test]
fn other_containers_and_codecs_are_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let reference = folder.path().join("reference.mp4");
    let Some(reference) = made(
        &reference,
        SOURCE,
        &["-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuv444p"],
    ) else {
        return;
    };
    let reference = decode(&reference).unwrap();
    assert_eq!(
        (reference.frames, reference.height, reference.width),
        (50, 96, 128)
    );
    // The name, the codec, and the least PSNR.
    let kinds: [(&str, &[&str], f64); 14] = [
        (
            "a.mkv",
            &["-c:v", "libx264", "-crf", "8", "-pix_fmt", "yuv420p"],
            24.0,
        ),
        (
            "b.mp4",
            &["-c:v", "libx264", "-crf", "8", "-pix_fmt", "yuv420p10le"],
            24.0,
        ),
        (
            "c.mp4",
            &["-c:v", "libx264", "-crf", "8", "-pix_fmt", "yuv422p"],
            24.0,
        ),
        (
            "d.mp4",
            &[
                "-c:v",
                "libx265",
                "-pix_fmt",
                "yuv420p",
                "-crf",
                "8",
                "-x265-params",
                "log-level=none",
            ],
            24.0,
        ),
        (
            "e.mov",
            &["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"],
            24.0,
        ),
        (
            "f.webm",
            &[
                "-c:v",
                "libvpx-vp9",
                "-pix_fmt",
                "yuv420p",
                "-crf",
                "10",
                "-b:v",
                "0",
            ],
            24.0,
        ),
        (
            "g.webm",
            &[
                "-c:v",
                "libvpx",
                "-crf",
                "4",
                "-b:v",
                "5M",
                "-auto-alt-ref",
                "1",
                "-lag-in-frames",
                "16",
            ],
            24.0,
        ),
        (
            "h.mp4",
            &[
                "-c:v",
                "libaom-av1",
                "-pix_fmt",
                "yuv420p10le",
                "-crf",
                "10",
                "-cpu-used",
                "8",
            ],
            24.0,
        ),
        ("i.avi", &["-c:v", "mpeg4", "-q:v", "2", "-bf", "2"], 30.0),
        (
            "j.ts",
            &["-c:v", "libx264", "-crf", "8", "-pix_fmt", "yuv420p"],
            24.0,
        ),
        (
            "k.mpg",
            &["-c:v", "mpeg2video", "-q:v", "2", "-bf", "2"],
            24.0,
        ),
        (
            "l.flv",
            &["-c:v", "libx264", "-crf", "8", "-pix_fmt", "yuv420p"],
            24.0,
        ),
        ("m.mkv", &["-c:v", "ffv1", "-pix_fmt", "gbrp"], 45.0),
        (
            "n.avi",
            &["-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"],
            24.0,
        ),
    ];
    for (name, options, least) in kinds {
        let Some(bytes) = made(&folder.path().join(name), SOURCE, options) else {
            continue;
        };
        let info = probe(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (info.frames, info.height, info.width),
            (50, 96, 128),
            "{name}"
        );
        assert!((info.fps - 25.0).abs() < 0.3, "{name}: {} fps", info.fps);
        assert!(
            (info.duration - 2.0).abs() < 0.05,
            "{name}: {} s",
            info.duration
        );
        let mp4 = name.ends_with("mp4") || name.ends_with("mov");
        assert_eq!(info.kind == Kind::Mp4, mp4, "{name}");
        let whole = decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let psnr = psnr(&whole, &reference);
        println!("{name} {psnr:.1} dB");
        assert!(psnr > least, "{name}: {psnr} dB");
        // The same frames from the middle, and by time.
        let mut decoder = Decoder::new();
        for (first, frames) in [(0, 3), (20, 5), (49, 1)] {
            let part = decoder.window(&bytes, Window::frames(first, frames));
            let part = part.unwrap_or_else(|error| panic!("{name} from {first}: {error}"));
            assert!(
                part == whole.sample(first, frames),
                "{name}: {frames} from {first}"
            );
        }
        let part = decoder.window(&bytes, Window::time(0.5, 10.0, 8)).unwrap();
        for (index, wanted) in [12, 15, 17, 20, 22, 25, 27, 30].into_iter().enumerate() {
            assert!(part.frame(index) == whole.frame(wanted), "{name}: {index}");
        }
        for length in (0..bytes.len()).step_by(bytes.len() / 12 + 1) {
            _ = decode(&bytes[..length]);
        }
    }
}

#[test]
fn bytes_that_name_other_files_open_none() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret.mp4");
    let clip = Clip {
        frames: 2,
        height: 32,
        width: 32,
        fps: 8.0,
        rgb: vec![9; 2 * 32 * 32 * 3],
    };
    std::fs::write(&secret, encode_mp4(&clip).unwrap()).unwrap();
    let secret = secret.display();
    for text in [
        format!("ffconcat version 1.0\nfile '{secret}'\n"),
        format!(" #EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n"),
        format!("v=0\nc=IN IP4 127.0.0.1\nm=video 1 RTP/AVP 96 {secret}\n"),
    ] {
        let error = decode(text.as_bytes()).unwrap_err();
        assert!(matches!(error, MediaError::Damaged { .. }), "{error}");
    }
}
