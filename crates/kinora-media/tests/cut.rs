//! Pieces of videos, against the videos that they were cut from. Runs where ffmpeg is installed.

use std::path::Path;
use std::process::Command;

use kinora_media::{Clip, MediaError, Window, audio, cut, decode, encode_mp4, probe};

const PICTURE: &str = "testsrc=s=96x64:r=24:d=6,noise=alls=20:all_seed=5";
const NOISE: &str = "anoisesrc=d=6:c=pink:r=48000:seed=7:a=0.5";

/// A file that ffmpeg makes, or `None`, said aloud, where it is not installed.
fn made(path: &Path, options: &[&str]) -> Option<Vec<u8>> {
    let made = Command::new("ffmpeg")
        .args([
            "-v", "error", "-y", "-f", "lavfi", "-i", PICTURE, "-f", "lavfi", "-i", NOISE,
        ])
        .args([
            "-c:v", "libx264", "-preset", "fast", "-pix_fmt", "yuv420p", "-c:a", "aac",
        ])
        .args(options)
        .arg(path)
        .output();
    let Ok(made) = made else {
        eprintln!("SKIPPED: ffmpeg is not installed, so no file of another encoder was cut");
        return None;
    };
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    Some(std::fs::read(path).unwrap())
}

/// How many frames ffmpeg decodes, without a word.
fn ffmpeg_frames(path: &Path) -> usize {
    let decoded = Command::new("ffmpeg")
        .args(["-v", "warning", "-i"])
        .arg(path)
        .args(["-map", "0", "-f", "null", "-"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&decoded.stderr);
    assert!(decoded.status.success() && said.is_empty(), "{said}");
    let probed = Command::new("ffprobe")
        .args(["-v", "warning", "-count_frames", "-select_streams", "v"])
        .args(["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
        .arg(path)
        .output()
        .unwrap();
    assert!(
        probed.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&probed.stderr)
    );
    String::from_utf8_lossy(&probed.stdout)
        .trim()
        .trim_end_matches(',')
        .parse()
        .unwrap()
}

/// Cuts a piece and holds it against the whole; returns the piece.
fn check(bytes: &[u8], whole: &Clip, [start, end]: [f64; 2], path: &Path) -> Vec<u8> {
    let piece = cut(bytes, start, end).unwrap();
    let clip = decode(&piece.bytes).unwrap();
    let at = start - piece.start;
    let first = (at * whole.fps).round() as usize;
    assert!(
        (at * whole.fps - first as f64).abs() < 1e-3,
        "it begins at second {at}"
    );
    assert!(piece.start >= 0.0);
    assert_eq!(
        clip,
        Clip {
            fps: clip.fps,
            ..whole.sample(first, clip.frames)
        }
    );
    assert!((clip.fps - whole.fps).abs() < 1e-6, "{} fps", clip.fps);
    // All that is wanted is there, and little behind it.
    let wanted = ((end * whole.fps - 1e-6).ceil() as usize).min(whole.frames);
    let extra = (first + clip.frames).checked_sub(wanted).unwrap();
    assert!(extra <= 8, "{extra} frames too many");
    let names: Vec<usize> = [b"moov", b"mdat"]
        .iter()
        .map(|name| piece.bytes.windows(4).position(|at| at == *name).unwrap())
        .collect();
    assert!(names[0] < names[1]);
    if let Some(sound) = audio(bytes, start, Some(end - start)).unwrap() {
        let own = audio(&piece.bytes, piece.start, Some(end - start))
            .unwrap()
            .unwrap();
        let [a, b] = [&sound, &own].map(|sound| sound.samples.len());
        assert!(a.abs_diff(b) <= 2, "{a} samples became {b}");
        // The decoder's own state is the same one or two packets before, up to rounding.
        let apart = sound
            .samples
            .iter()
            .zip(&own.samples)
            .map(|(a, b)| (a - b).abs());
        let apart = apart.fold(0.0, f32::max);
        assert!(apart < 1e-5, "the sound is off by {apart}");
    }
    std::fs::write(path, &piece.bytes).unwrap();
    assert_eq!(ffmpeg_frames(path), clip.frames);
    piece.bytes
}

#[test]
fn pieces_are_what_they_were_in_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let piece = folder.path().join("piece.mp4");
    let kinds: [&[&str]; 6] = [
        &["-bf", "3", "-g", "30", "-movflags", "faststart"],
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
            "-bf",
            "2",
            "-g",
            "48",
            "-movflags",
            "frag_keyframe+delay_moov+default_base_moof",
            "-frag_duration",
            "700000",
        ],
        &["-bf", "0", "-g", "20", "-c:a", "libmp3lame"],
        &[
            "-bf",
            "3",
            "-g",
            "30",
            "-an",
            "-movflags",
            "negative_cts_offsets",
        ],
    ];
    for (number, options) in kinds.into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.mp4"));
        let Some(bytes) = made(&path, options) else {
            return;
        };
        let whole = decode(&bytes).unwrap();
        assert_eq!(whole.frames, 144);
        println!("{options:?}");
        for span in [
            [0.0, 6.0],
            [0.0, 1.0],
            [1.3, 2.7],
            [2.5, 2.54],
            [3.0, 4.0],
            [5.9, 9.0],
        ] {
            check(&bytes, &whole, span, &piece);
        }
        let first = cut(&bytes, 1.0, 5.0).unwrap();
        let part = decode(&first.bytes).unwrap();
        let second = check(
            &first.bytes,
            &part,
            [first.start + 0.5, first.start + 3.0],
            &piece,
        );
        let third = cut(&second, 0.2, 1.4).unwrap();
        let part = decode(&second).unwrap();
        check(&second, &part, [0.2, 1.4], &piece);
        assert!(third.bytes.len() <= second.len() + 64);
    }
}

#[test]
fn a_small_clip_keeps_its_size_its_turn_and_its_time() {
    let rgb: Vec<u8> = (0..60 * 30 * 40 * 3u32)
        .map(|i| (i / 3600 * 4 + i % 120) as u8)
        .collect();
    let clip = Clip {
        frames: 60,
        height: 30,
        width: 40,
        fps: 30000.0 / 1001.0,
        rgb,
    };
    let mut bytes = encode_mp4(&clip).unwrap();
    let matrix = bytes.windows(4).position(|name| name == b"tkhd").unwrap() + 4 + 52;
    for (entry, place) in [0i32, 1, -1, 0].into_iter().zip([0, 4, 12, 16]) {
        bytes[matrix + place..][..4].copy_from_slice(&(entry << 16).to_be_bytes());
    }
    let whole = decode(&bytes).unwrap();
    assert_eq!((whole.height, whole.width), (40, 30));
    let error = cut(&bytes, 2.1, 3.0).unwrap_err();
    assert!(error.to_string().contains("2.002 seconds"), "{error}");
    let piece = cut(&bytes, 1.0, 1.5).unwrap();
    let info = probe(&piece.bytes).unwrap();
    assert_eq!((info.height, info.width), (40, 30));
    assert!((info.fps - clip.fps).abs() < 1e-6);
    let part = decode(&piece.bytes).unwrap();
    let first = ((1.0 - piece.start) * clip.fps).round() as usize;
    assert_eq!(part.rgb, whole.sample(first, part.frames).rgb);
}

#[test]
fn a_varying_rate_keeps_each_frames_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vary.mp4");
    // Twelve frames a second at first, twenty-four later.
    let options = [
        "-an",
        "-vf",
        "select='gte(t,3)+not(mod(n,2))'",
        "-vsync",
        "vfr",
        "-g",
        "10",
        "-bf",
        "2",
    ];
    let Some(bytes) = made(&path, &options) else {
        return;
    };
    let mut decoder = kinora_media::Decoder::new();
    for [start, end] in [[1.0, 4.0], [2.5, 3.5], [3.2, 5.0]] {
        let piece = cut(&bytes, start, end).unwrap();
        let frames = ((end - start) * 24.0) as usize;
        let wanted = decoder
            .window(&bytes, Window::time(start, 24.0, frames))
            .unwrap();
        let found = decoder
            .window(&piece.bytes, Window::time(piece.start, 24.0, frames))
            .unwrap();
        assert_eq!(wanted, found, "{start} to {end}");
    }
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let clip = Clip {
        frames: 8,
        height: 16,
        width: 16,
        fps: 8.0,
        rgb: vec![7; 8 * 16 * 16 * 3],
    };
    let bytes = encode_mp4(&clip).unwrap();
    for [start, end] in [
        [0.5, 0.5],
        [-1.0, 1.0],
        [f64::NAN, 1.0],
        [0.0, f64::INFINITY],
        [1.5, 2.0],
    ] {
        let error = cut(&bytes, start, end).unwrap_err();
        assert!(
            matches!(error, MediaError::Size { .. }),
            "{start} to {end}: {error}"
        );
    }
    assert!(cut(&bytes[..bytes.len() - 9], 0.0, 1.0).is_err());
    assert!(cut(b"\x89PNG\r\n\x1a\n", 0.0, 1.0).is_err());
}
