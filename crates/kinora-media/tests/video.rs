//! Video through the encoder and back: colour, sizes, windows, and files that are damaged.

use kinora_media::{Clip, Decoder, Kind, MediaError, Mp4Writer, Window, decode, encode_mp4, probe};

const PALETTE: [(&str, [f64; 3]); 8] = [
    ("red", [0.85, 0.12, 0.12]),
    ("green", [0.10, 0.65, 0.20]),
    ("blue", [0.12, 0.22, 0.85]),
    ("yellow", [0.95, 0.85, 0.10]),
    ("white", [0.95, 0.95, 0.95]),
    ("purple", [0.60, 0.15, 0.70]),
    ("gray", [0.45, 0.45, 0.45]),
    ("black", [0.04, 0.04, 0.04]),
];

/// An antialiased disc that moves to the right.
fn disc(frames: usize, [height, width]: [usize; 2], front: [f64; 3], back: [f64; 3]) -> Clip {
    let mut rgb = Vec::new();
    let radius = height.min(width) as f64 / 5.0;
    for t in 0..frames {
        let x0 = width as f64 * (0.3 + 0.4 * t as f64 / frames as f64);
        for y in 0..height {
            for x in 0..width {
                let (dy, dx) = (y as f64 - height as f64 / 2.0, x as f64 - x0);
                let alpha = (0.5 + radius - dy.hypot(dx)).clamp(0.0, 1.0);
                let mix = |c: usize| (255.0 * (back[c] + alpha * (front[c] - back[c]))).round();
                rgb.extend((0..3).map(|c| mix(c) as u8));
            }
        }
    }
    Clip {
        frames,
        height,
        width,
        fps: 8.0,
        rgb,
    }
}

fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let error: f64 = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2))
        .sum();
    10.0 * (255.0f64.powi(2) * a.len() as f64 / error.max(1e-9)).log10()
}

#[test]
fn pure_colours_come_back() {
    for size in [[32, 32], [96, 128]] {
        for (name, colour) in PALETTE {
            let clip = disc(4, size, colour, colour);
            let back = decode(&encode_mp4(&clip).unwrap()).unwrap();
            let error = clip
                .rgb
                .iter()
                .zip(&back.rgb)
                .map(|(&a, &b)| f64::from(a.abs_diff(b)));
            let mean = error.sum::<f64>() / clip.rgb.len() as f64;
            assert!(mean < 3.0, "{name} at {size:?} is off by {mean} of 255");
        }
    }
}

#[test]
fn small_flat_shapes_survive_in_every_pair_of_colours() {
    let mut worst = f64::INFINITY;
    for (front_name, front) in PALETTE {
        for (back_name, back) in PALETTE {
            let clip = disc(16, [32, 32], front, back);
            let bytes = encode_mp4(&clip).unwrap();
            let back = decode(&bytes).unwrap();
            assert_eq!(
                (back.frames, back.height, back.width, back.fps),
                (16, 32, 32, 8.0)
            );
            let psnr = psnr(&clip.rgb, &back.rgb);
            assert!(psnr > 35.0, "{front_name} on {back_name}: {psnr} dB");
            worst = worst.min(psnr);
        }
    }
    println!("worst pair {worst:.1} dB");
}

#[test]
fn every_size_comes_back_as_it_was() {
    for (height, width) in [
        (1, 1),
        (2, 2),
        (3, 5),
        (17, 33),
        (63, 64),
        (64, 65),
        (65, 64),
        (99, 131),
        (120, 200),
    ] {
        let clip = disc(3, [height, width], PALETTE[3].1, PALETTE[6].1);
        let bytes = encode_mp4(&clip).unwrap();
        let info = probe(&bytes).unwrap();
        assert_eq!(
            (info.kind, info.frames, info.height, info.width, info.fps),
            (Kind::Mp4, 3, height, width, 8.0)
        );
        let back = decode(&bytes).unwrap();
        assert_eq!((back.height, back.width), (height, width));
        let psnr = psnr(&clip.rgb, &back.rgb);
        assert!(psnr > 30.0, "{height}x{width}: {psnr} dB");
    }
}

#[test]
fn rates_are_kept() {
    for fps in [0.5, 8.0, 23.976, 24.0, 30000.0 / 1001.0, 60.0] {
        let clip = Clip {
            fps,
            ..disc(7, [16, 16], PALETTE[0].1, PALETTE[7].1)
        };
        let info = probe(&encode_mp4(&clip).unwrap()).unwrap();
        assert!(
            (info.fps - fps).abs() < 1e-3,
            "{fps} came back as {}",
            info.fps
        );
    }
}

#[test]
fn equal_clips_give_equal_bytes() {
    let clip = disc(8, [32, 32], PALETTE[0].1, PALETTE[7].1);
    assert_eq!(encode_mp4(&clip).unwrap(), encode_mp4(&clip).unwrap());
}

#[test]
fn a_window_is_its_part_of_the_whole() {
    // Two seconds are 16 frames here, so that windows start behind a second and third sync frame.
    let clip = disc(50, [48, 80], PALETTE[5].1, PALETTE[4].1);
    let bytes = encode_mp4(&clip).unwrap();
    let whole = decode(&bytes).unwrap();
    let mut decoder = Decoder::new();
    for (start, frames) in [
        (0, 1),
        (0, 50),
        (15, 2),
        (16, 16),
        (31, 19),
        (33, 5),
        (49, 1),
    ] {
        let part = decoder
            .window(&bytes, Window::frames(start, frames))
            .unwrap();
        assert_eq!(
            part,
            whole.sample(start, frames),
            "{frames} frames from {start}"
        );
        let small = Window::frames(start, frames).sized([24, 24]);
        // Resized before it is converted to RGB, which rounds at other places.
        let small = decoder.window(&bytes, small).unwrap();
        assert_eq!((small.frames, small.height, small.width), (frames, 24, 24));
        let psnr = psnr(&small.rgb, &part.fit(24, 24).rgb);
        assert!(psnr > 40.0, "{frames} frames from {start}: {psnr} dB");
    }
    for (start, frames) in [(0, 51), (50, 1), (0, 0), (usize::MAX, 2)] {
        let error = decoder
            .window(&bytes, Window::frames(start, frames))
            .unwrap_err();
        assert!(
            matches!(error, MediaError::Window { have: 50, .. }),
            "{error}"
        );
    }
}

#[test]
fn a_used_decoder_gives_what_a_new_one_gives() {
    let clips = [
        disc(16, [32, 32], PALETTE[0].1, PALETTE[7].1),
        disc(9, [70, 90], PALETTE[1].1, PALETTE[6].1),
        disc(16, [32, 32], PALETTE[3].1, PALETTE[2].1),
    ];
    let files: Vec<Vec<u8>> = clips.iter().map(|clip| encode_mp4(clip).unwrap()).collect();
    let mut decoder = Decoder::new();
    for round in 0..3 {
        for bytes in &files {
            assert_eq!(
                decoder.decode(bytes).unwrap(),
                decode(bytes).unwrap(),
                "round {round}"
            );
            assert!(decoder.decode(&bytes[..bytes.len() - 40]).is_err());
        }
    }
}

#[test]
fn cut_files_are_errors_and_never_panics() {
    let bytes = encode_mp4(&disc(16, [32, 32], PALETTE[0].1, PALETTE[7].1)).unwrap();
    for length in (0..bytes.len()).step_by(97) {
        let error = decode(&bytes[..length]).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn damaged_bytes_never_panic() {
    let bytes = encode_mp4(&disc(4, [32, 32], PALETTE[0].1, PALETTE[7].1)).unwrap();
    let tables = bytes.windows(4).position(|name| name == b"mdat").unwrap();
    for at in 0..tables {
        for value in [0x00, 0x7F, 0xFF, bytes[at] ^ 0x10] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            _ = probe(&damaged);
            if let Ok(clip) = decode(&damaged) {
                assert_eq!(clip.rgb.len(), clip.frames * clip.height * clip.width * 3);
            }
        }
    }
}

#[test]
fn unknown_bytes_are_refused_by_name() {
    for (bytes, name) in [
        (&b"FLV\x01...."[..], "Flash"),
        (b"RIFF1234AVI ", "AVI"),
        (b"\x1A\x45\xDF\xA3", "Matroska"),
        (b"<html>", "web page"),
        (b"", "0 bytes"),
    ] {
        let error = decode(bytes).unwrap_err();
        assert!(matches!(error, MediaError::Unsupported { .. }));
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_file_is_whole_or_absent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    let clip = disc(5, [32, 48], PALETTE[1].1, PALETTE[4].1);
    let files = || std::fs::read_dir(folder.path()).unwrap().count();

    let mut writer = Mp4Writer::create(&path, 48, 32, 8.0).unwrap();
    writer.push(clip.frame(0)).unwrap();
    assert!(writer.push(&clip.rgb).is_err());
    assert!(!path.exists());
    drop(writer);
    assert_eq!(files(), 0);
    assert!(
        Mp4Writer::create(&path, 48, 32, 8.0)
            .unwrap()
            .finish()
            .is_err()
    );
    assert_eq!(files(), 0);

    let mut writer = Mp4Writer::create(&path, 48, 32, 8.0).unwrap();
    (0..5).for_each(|t| writer.push(clip.frame(t)).unwrap());
    writer.finish().unwrap();
    assert_eq!(files(), 1);
    assert_eq!(std::fs::read(&path).unwrap(), encode_mp4(&clip).unwrap());
    let bytes = std::fs::read(&path).unwrap();
    let place = |name: &[u8]| bytes.windows(4).position(|at| at == name).unwrap();
    assert!(place(b"moov") < place(b"mdat"));
}

#[test]
fn impossible_sizes_and_rates_are_errors() {
    for (width, height, fps) in [
        (0, 32, 8.0),
        (32, 0, 8.0),
        (5000, 100, 8.0),
        (3000, 3000, 8.0),
        (32, 32, 0.0),
        (32, 32, f64::NAN),
    ] {
        let clip = Clip {
            frames: 0,
            height,
            width,
            fps,
            rgb: Vec::new(),
        };
        let error = encode_mp4(&clip).unwrap_err();
        assert!(matches!(error, MediaError::Size { .. }), "{error}");
    }
}

#[test]
fn a_turned_picture_is_made_upright() {
    let clip = disc(3, [70, 96], PALETTE[3].1, PALETTE[2].1);
    let bytes = encode_mp4(&clip).unwrap();
    let flat = decode(&bytes).unwrap();
    let matrix = bytes.windows(4).position(|name| name == b"tkhd").unwrap() + 4 + 52;
    // The entries a, b, c and d of the track's matrix, and where its pixel (y, x) comes from.
    type From = fn(usize, usize, &Clip) -> (usize, usize);
    let turns: [([i32; 4], From); 3] = [
        ([0, 1, -1, 0], |y, x, flat| (flat.height - 1 - x, y)),
        ([-1, 0, 0, -1], |y, x, flat| {
            (flat.height - 1 - y, flat.width - 1 - x)
        }),
        ([0, -1, 1, 0], |y, x, flat| (x, flat.width - 1 - y)),
    ];
    for (entries, from) in turns {
        let mut turned = bytes.clone();
        for (entry, place) in entries.into_iter().zip([0, 4, 12, 16]) {
            turned[matrix + place..][..4].copy_from_slice(&(entry << 16).to_be_bytes());
        }
        let upright = decode(&turned).unwrap();
        let info = probe(&turned).unwrap();
        assert_eq!((info.height, info.width), (upright.height, upright.width));
        for y in 0..upright.height {
            for x in 0..upright.width {
                let (from_y, from_x) = from(y, x, &flat);
                let pixel = &upright.frame(1)[(y * upright.width + x) * 3..][..3];
                assert_eq!(
                    pixel,
                    &flat.frame(1)[(from_y * flat.width + from_x) * 3..][..3]
                );
            }
        }
    }
}

/// A file that x264 makes of a source, or `None`, said aloud, where ffmpeg is not installed.
fn x264(path: &std::path::Path, source: &str, options: &[&str]) -> Option<Vec<u8>> {
    let made = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", source])
        .args(options)
        .args(["-c:v", "libx264", "-pix_fmt", "yuv420p"])
        .arg(path)
        .status();
    let Ok(status) = made else {
        eprintln!("SKIPPED: ffmpeg is not installed, so no file of x264 was decoded");
        return None;
    };
    assert!(status.success());
    Some(std::fs::read(path).unwrap())
}

/// Files of another encoder: B-frames, an open group of pictures, fragments, a sound track. Runs
/// where ffmpeg is installed.
#[test]
fn files_of_x264_are_decoded_in_the_order_they_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let kinds: [&[&str]; 4] = [
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
        &["-f", "lavfi", "-i", "sine=d=3", "-c:a", "aac", "-g", "20"],
    ];
    for (number, options) in kinds.into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.mp4"));
        // Each frame is brighter than the one before it: 72 levels from black to white.
        let source = "nullsrc=s=96x64:r=24:d=3,geq=lum=20+3*N:cb=128:cr=128";
        let Some(bytes) = x264(&path, source, options) else {
            return;
        };
        let whole = decode(&bytes).unwrap();
        assert_eq!(
            (whole.frames, whole.height, whole.width),
            (72, 64, 96),
            "{options:?}"
        );
        assert!(
            (whole.fps - 24.0).abs() < 0.4,
            "{options:?}: {} fps",
            whole.fps
        );
        for t in 0..72 {
            let wanted = (4.0 + 3.0 * t as f64) * 255.0 / 219.0;
            let found = f64::from(whole.frame(t)[3 * (32 * 96 + 48)]);
            assert!(
                (found - wanted).abs() < 4.0,
                "{options:?}: frame {t} is {found}, not {wanted}"
            );
        }
        let mut decoder = Decoder::new();
        for (start, frames) in [(0, 3), (29, 4), (40, 16), (71, 1)] {
            let part = decoder
                .window(&bytes, Window::frames(start, frames))
                .unwrap();
            assert_eq!(part, whole.sample(start, frames), "{options:?}");
        }
        for length in (0..bytes.len()).step_by(97) {
            assert!(decode(&bytes[..length]).is_err() || options.contains(&"-movflags"));
        }
    }
}

/// What ffmpeg makes when nothing is said: B-frames in a pyramid, several references. One decoder
/// takes many such streams and parts of them, one after the other. Runs where ffmpeg is installed.
#[test]
fn one_decoder_takes_many_streams_with_b_frames() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("default.mp4");
    let Some(bytes) = x264(&path, "testsrc=s=64x48:r=12", &["-frames:v", "40"]) else {
        return;
    };
    let whole = decode(&bytes).unwrap();
    assert_eq!((whole.frames, whole.height, whole.width), (40, 48, 64));
    let mut decoder = Decoder::new();
    for round in 0..60 {
        let (start, frames) = [(0, 40), (24, 16), (7, 16), (39, 1)][round % 4];
        let window = Window::frames(start, frames);
        let part = decoder.window(&bytes, window);
        assert_eq!(part.unwrap(), whole.sample(start, frames), "round {round}");
    }
}
