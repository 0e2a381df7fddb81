//! Sound, against what another decoder makes of the same files. Runs where ffmpeg is installed.

use std::path::Path;
use std::process::Command;

use kinora_media::{MediaError, Pcm, audio, audio_info};

/// Noise that rises and falls, so that any shift and any swapped channel shows.
const NOISE: &str = "anoisesrc=d=3:c=pink:r=44100:seed=7:a=0.5,pan=stereo|c0=c0|c1=-0.5*c0,volume='0.6+0.4*sin(5*t)':eval=frame";
const PICTURE: &str = "testsrc=s=64x48:r=24:d=3";

/// Runs ffmpeg; `false`, said aloud, where it is not installed.
fn ffmpeg(arguments: &[&str]) -> bool {
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-y"])
        .args(arguments)
        .output();
    let Ok(made) = made else {
        eprintln!("SKIPPED: ffmpeg is not installed, so no sound of another encoder was decoded");
        return false;
    };
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{arguments:?}: {said}");
    true
}

/// The samples that ffmpeg decodes of a file.
fn reference(path: &Path) -> Vec<f32> {
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args(["-map", "0:a", "-f", "f32le", "-"])
        .output()
        .unwrap();
    made.stdout
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect()
}

/// How far apart two sounds are where both are, relative to the second's strength.
fn error(found: &[f32], wanted: &[f32]) -> f64 {
    let power = |sound: &mut dyn Iterator<Item = f64>| sound.map(|x| x * x).sum::<f64>();
    let apart = power(&mut found.iter().zip(wanted).map(|(a, b)| f64::from(a - b)));
    let strength = power(&mut found.iter().zip(wanted).map(|(_, b)| f64::from(*b)));
    (apart / strength.max(1e-12)).sqrt()
}

/// By how many samples the first is late against the second: where they are most alike.
fn lag(found: &Pcm, wanted: &[f32]) -> i64 {
    let channels = usize::from(found.channels);
    let first = |sound: &[f32]| -> Vec<f32> { sound.chunks(channels).map(|c| c[0]).collect() };
    let (found, wanted) = (first(&found.samples), first(wanted));
    let middle = 8_000..found.len().min(wanted.len()) - 8_000;
    (-1_500i64..=1_500)
        .max_by(|&a, &b| {
            let alike = |lag: i64| -> f64 {
                middle
                    .clone()
                    .step_by(7)
                    .map(|at| f64::from(found[(at as i64 + lag) as usize] * wanted[at]))
                    .sum()
            };
            alike(a).total_cmp(&alike(b))
        })
        .unwrap()
}

type File<'a> = (&'a str, Vec<&'a [&'a str]>, &'a str, f64, f64);

#[test]
fn sound_is_what_ffmpeg_decodes_and_lines_up_with_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.wav");
    let written = source.to_str().unwrap();
    let make = ["-f", "lavfi", "-i", NOISE, "-c:a", "pcm_f32le", written];
    if !ffmpeg(&make) {
        return;
    }
    let original = reference(&source);
    let picture = [
        "-f", "lavfi", "-i", PICTURE, "-i", written, "-map", "0:v", "-map", "1:a",
    ];
    let x264 = [
        "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "3", "-g", "24",
    ];
    let fragments = ["-movflags", "frag_keyframe+empty_moov+default_base_moof"];
    let delayed = ["-movflags", "frag_keyframe+delay_moov"];
    let alone = ["-i", written];
    // Name, options, codec, greatest error against ffmpeg's decoder and against the source.
    let files: [File<'_>; 11] = [
        (
            "bframes.mp4",
            vec![&picture, &x264, &["-c:a", "aac", "-b:a", "256k"]],
            "aac",
            1e-3,
            0.5,
        ),
        (
            "fragments.mp4",
            vec![
                &picture,
                &x264,
                &["-c:a", "aac", "-b:a", "256k"],
                &fragments,
            ],
            "aac",
            1e-3,
            0.5,
        ),
        (
            "delayed.mp4",
            vec![&picture, &x264, &["-c:a", "aac", "-b:a", "256k"], &delayed],
            "aac",
            1e-3,
            0.5,
        ),
        (
            "mp3.mp4",
            vec![&picture, &x264, &["-c:a", "libmp3lame", "-b:a", "256k"]],
            "mp3",
            1e-3,
            0.5,
        ),
        (
            "flac.mp4",
            vec![&picture, &x264, &["-c:a", "flac", "-strict", "-2"]],
            "flac",
            1e-6,
            1e-3,
        ),
        (
            "alone.m4a",
            vec![&alone, &["-c:a", "aac", "-b:a", "256k"]],
            "aac",
            1e-3,
            0.5,
        ),
        (
            "alone.mp3",
            vec![&alone, &["-c:a", "libmp3lame", "-b:a", "256k"]],
            "mp3",
            1e-3,
            0.5,
        ),
        (
            "alone.ogg",
            vec![&alone, &["-c:a", "libvorbis", "-q:a", "8"]],
            "vorbis",
            1e-3,
            0.5,
        ),
        (
            "alone.flac",
            vec![&alone, &["-c:a", "flac"]],
            "flac",
            1e-6,
            1e-3,
        ),
        (
            "alone.wav",
            vec![&alone, &["-c:a", "pcm_s16le"]],
            "pcm_s16le",
            1e-6,
            1e-3,
        ),
        (
            "float.wav",
            vec![&alone, &["-c:a", "pcm_f32le"]],
            "pcm_f32le",
            1e-9,
            1e-9,
        ),
    ];
    for (name, options, codec, near, nearer) in files {
        let path = folder.path().join(name);
        let mut arguments = options.concat();
        arguments.push(path.to_str().unwrap());
        ffmpeg(&arguments);
        let bytes = std::fs::read(&path).unwrap();
        let info = audio_info(&bytes).unwrap().unwrap();
        assert_eq!(
            (info.codec.as_str(), info.rate, info.channels),
            (codec, 44_100, 2),
            "{name}"
        );
        let whole = audio(&bytes, 0.0, None).unwrap().unwrap();
        assert_eq!((whole.rate, whole.channels), (44_100, 2));
        let wanted = reference(&path);
        let length = whole.samples.len() as f64 / 88_200.0;
        let (theirs, truth) = (lag(&whole, &wanted), lag(&whole, &original));
        let [apart, lost] = [&wanted, &original].map(|sound| error(&whole.samples, sound));
        println!(
            "{name}: {theirs} samples late against ffmpeg, {truth} against the source; error {apart:.1e} against ffmpeg, {lost:.1e} against the source; {length:.4} s, {:.4} by its headers",
            info.duration
        );
        assert!((length - 3.0).abs() < 0.06, "{name}");
        assert!((info.duration - 3.0).abs() < 0.06, "{name}");
        assert_eq!(truth, 0, "{name}");
        assert!(lost < nearer, "{name}");
        // In fragments ffmpeg plays the priming, which start times or an edit list put before second 0.
        if !matches!(name, "fragments.mp4" | "delayed.mp4") {
            assert_eq!(theirs, 0, "{name}");
            assert!(apart < near, "{name}");
        }
        for (start, seconds) in [(0.0, 0.1), (0.5, 1.0), (1.25, 0.01), (2.9, 5.0)] {
            let part = audio(&bytes, start, Some(seconds)).unwrap().unwrap();
            let from = (start * 44_100.0f64).round() as usize * 2;
            let to = (((start + seconds) * 44_100.0).round() as usize * 2).min(whole.samples.len());
            assert_eq!(
                part.samples.len(),
                to - from,
                "{name}: {seconds} from {start}"
            );
            let apart = error(&part.samples, &whole.samples[from..to]);
            assert!(
                apart < 1e-5,
                "{name}: {seconds} from {start} is off by {apart}"
            );
        }
        let behind = audio(&bytes, 100.0, Some(1.0)).unwrap().unwrap();
        assert!(behind.samples.is_empty(), "{name}");
    }
}

#[test]
fn sound_that_begins_late_or_early_lines_up_with_the_picture() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.wav");
    let written = source.to_str().unwrap();
    if !ffmpeg(&["-f", "lavfi", "-i", NOISE, "-c:a", "pcm_f32le", written]) {
        return;
    }
    let original = reference(&source);
    let path = folder.path().join("shifted.mp4");
    let name = path.to_str().unwrap();
    let codecs = [
        "-map", "0:v", "-map", "1:a", "-c:v", "libx264", "-bf", "2", "-pix_fmt", "yuv420p", "-c:a",
        "aac",
    ];
    let late = [
        "-f",
        "lavfi",
        "-i",
        PICTURE,
        "-itsoffset",
        "0.5",
        "-i",
        written,
    ];
    ffmpeg(&[&late[..], &codecs, &[name]].concat());
    let sound = audio(&std::fs::read(&path).unwrap(), 0.0, None)
        .unwrap()
        .unwrap();
    let shift = 22_050 * 2;
    // The encoder's priming, a packet, may sound before it.
    assert!(sound.samples[..shift - 2 * 1_100].iter().all(|&x| x == 0.0));
    let moved = Pcm {
        samples: sound.samples[shift..].to_vec(),
        ..sound.clone()
    };
    // The gap is written in milliseconds.
    let late_by = lag(&moved, &original);
    assert!(late_by.abs() <= 45, "{late_by}");

    let early = [
        "-itsoffset",
        "0.25",
        "-f",
        "lavfi",
        "-i",
        PICTURE,
        "-i",
        written,
    ];
    // Or else ffmpeg shows the first frame from second 0 on.
    let kept = ["-vsync", "passthrough", name];
    ffmpeg(&[&early[..], &codecs, &kept].concat());
    let sound = audio(&std::fs::read(&path).unwrap(), 0.0, None)
        .unwrap()
        .unwrap();
    let shift = 11_025 * 2;
    let late_by = lag(&sound, &original[shift..]);
    assert!(late_by.abs() <= 45, "{late_by}");
}

#[test]
fn what_has_no_sound_is_none_and_what_is_not_decoded_says_so() {
    assert_eq!(audio(b"", 0.0, None).unwrap(), None);
    assert_eq!(audio_info(b"\x89PNG\r\n\x1a\n").unwrap(), None);
    let silent = kinora_media::Clip {
        frames: 2,
        height: 16,
        width: 16,
        fps: 8.0,
        rgb: vec![9; 2 * 16 * 16 * 3],
    };
    let silent = kinora_media::encode_mp4(&silent).unwrap();
    assert_eq!(audio(&silent, 0.0, Some(1.0)).unwrap(), None);
    assert_eq!(audio_info(&silent).unwrap(), None);
    assert!(audio(&silent, f64::NAN, None).is_err());
    assert!(audio(&silent, 0.0, Some(-1.0)).is_err());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("surround.mp4");
    let name = path.to_str().unwrap();
    let six = "anoisesrc=d=1:r=48000,pan=5.1|c0=c0|c1=c0|c2=c0|c3=c0|c4=c0|c5=c0";
    if !ffmpeg(&["-f", "lavfi", "-i", six, "-c:a", "aac", name]) {
        return;
    }
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(audio_info(&bytes).unwrap().unwrap().channels, 6);
    let error = audio(&bytes, 0.0, None).unwrap_err();
    assert!(
        matches!(&error, MediaError::Unsupported { what, .. } if what.contains("aac sound of 6")),
        "{error}"
    );
}
