//! What a batch takes of a row: which frames, which caption, which sound, or the latents.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use kinora_data::{
    Bucket, Caption, Catalog, Content, DataConfig, DataError, Encoded, Encoders, Loader, Part, Row,
    Sample, ShardOptions, ShardWriter, Start,
};
use kinora_media::{Clip, encode_mp4, encode_png};
use tempfile::TempDir;

const FPS: f64 = 16.0;

/// A video of which frame `t` has the brightness `6 t`.
fn video(frames: usize) -> Vec<u8> {
    let rgb = (0..frames).flat_map(|t| vec![6 * t as u8; 16 * 16 * 3]);
    let clip = Clip {
        frames,
        height: 16,
        width: 16,
        fps: FPS,
        rgb: rgb.collect(),
    };
    encode_mp4(&clip).unwrap()
}

/// The frames that a clip holds, by their brightness.
fn shown(clip: &Clip) -> Vec<usize> {
    let number = |t: usize| (usize::from(clip.frame(t)[0]) + 3) / 6;
    (0..clip.frames).map(number).collect()
}

/// A sound file of a second of 800 samples a second: a ramp.
fn wav() -> Vec<u8> {
    let samples: Vec<u8> = (0..800i16).flat_map(|i| (i * 40).to_le_bytes()).collect();
    let mut file = b"RIFF".to_vec();
    file.extend((36 + samples.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(800u32.to_le_bytes());
    file.extend(1600u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend((samples.len() as u32).to_le_bytes());
    file.extend(samples);
    file
}

fn write(row: &Row<'_>, options: ShardOptions) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(folder.path(), options).unwrap();
    writer.push(row).unwrap();
    writer.finish().unwrap();
    folder
}

fn config(folder: &Path, bucket: Bucket) -> DataConfig {
    DataConfig {
        workers: 0,
        ..DataConfig::new(vec![folder.to_string_lossy().into_owned()], vec![bucket])
    }
}

/// The samples of the first steps.
fn samples(config: &DataConfig, steps: usize) -> Vec<Sample> {
    let catalog = Arc::new(Catalog::open(config).unwrap());
    let mut loader = Loader::open(catalog, Part::WHOLE, 0).unwrap();
    (0..steps)
        .flat_map(|_| loader.next().unwrap().samples)
        .collect()
}

#[test]
fn captions_come_by_their_weights() {
    let caption = |text: &str, weight| Caption {
        text: text.into(),
        weight,
    };
    let captions = [
        caption("often", 3.0),
        caption("never", 0.0),
        caption("rare", 1.0),
    ];
    let media = encode_png(&[99; 16 * 16 * 3], 16, 16).unwrap();
    let row = Row::new("a", &media, &captions, [1, 16, 16], 0.0);
    let folder = write(&row, ShardOptions::default());
    let config = config(folder.path(), Bucket::new(1, 16, 16, 8));
    let drawn = samples(&config, 100);
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for sample in &drawn {
        *counts.entry(&sample.caption).or_default() += 1;
    }
    // 600 of 800 are expected; four standard deviations are 49.
    assert!(counts["often"].abs_diff(600) < 50, "{counts:?}");
    assert_eq!(counts["often"] + counts["rare"], 800, "{counts:?}");
    let captions = |samples: &[Sample]| -> Vec<String> {
        samples
            .iter()
            .map(|sample| sample.caption.clone())
            .collect()
    };
    assert_eq!(captions(&samples(&config, 100)), captions(&drawn));
}

#[test]
fn frames_come_by_time() {
    let (media, captions) = (video(32), Caption::one("x"));
    let row = Row::new("a", &media, &captions, [32, 16, 16], FPS);
    let folder = write(&row, ShardOptions::default());
    let of = |bucket: Bucket, start| {
        let config = DataConfig {
            start,
            ..config(folder.path(), bucket)
        };
        let sample = samples(&config, 1).remove(0);
        (shown(sample.clip()), sample.clip().fps)
    };
    let bucket = Bucket::new(8, 16, 16, 1);
    let slow = Bucket {
        fps: Some(8.0),
        ..bucket
    };
    let every_other: Vec<usize> = (0..8).map(|t| 2 * t).collect();
    assert_eq!(of(slow, Start::First), (every_other, 8.0));
    // A second of two: the middle one begins at frame 8.
    assert_eq!(of(slow, Start::Centre).0[0], 8);
    let whole = Bucket {
        seconds: Some([1.0, 4.0]),
        ..bucket
    };
    let spread: Vec<usize> = (0..8).map(|t| 4 * t).collect();
    assert_eq!(of(whole, Start::Random), (spread, 4.0));
    assert_eq!(of(bucket, Start::Centre).0, (12..20).collect::<Vec<_>>());
    // Twice as many frames a second as there are would show each twice.
    let fast = Bucket {
        fps: Some(32.0),
        ..bucket
    };
    let error = Catalog::open(&config(folder.path(), fast)).unwrap_err();
    assert!(matches!(error, DataError::EmptyBucket { .. }), "{error}");
}

#[test]
fn a_part_of_a_file_is_a_sample() {
    let (media, captions) = (video(32), Caption::one("x"));
    let row = Row {
        start: 0.5,
        duration: 1.0,
        ..Row::new("a", &media, &captions, [16, 16, 16], FPS)
    };
    let folder = write(&row, ShardOptions::default());
    let all = samples(&config(folder.path(), Bucket::new(16, 16, 16, 1)), 1);
    assert_eq!(shown(all[0].clip()), (8..24).collect::<Vec<_>>());
    let part = config(folder.path(), Bucket::new(4, 16, 16, 4));
    let starts: Vec<usize> = samples(&part, 20)
        .iter()
        .map(|sample| {
            let shown = shown(sample.clip());
            assert_eq!(shown, (shown[0]..shown[0] + 4).collect::<Vec<_>>());
            shown[0]
        })
        .collect();
    assert!(
        starts.iter().all(|start| (8..=20).contains(start)),
        "{starts:?}"
    );
    assert!(starts.iter().min() < starts.iter().max(), "{starts:?}");
}

#[test]
fn sound_belongs_to_the_frames() {
    let (media, captions, sound) = (video(16), Caption::one("x"), wav());
    let row = Row {
        audio: Some(&sound),
        sound: Some((800, 1)),
        ..Row::new("a", &media, &captions, [16, 16, 16], FPS)
    };
    let folder = write(&row, ShardOptions::default());
    let config = DataConfig {
        audio: true,
        ..config(folder.path(), Bucket::new(4, 16, 16, 4))
    };
    for sample in samples(&config, 10) {
        let first = shown(sample.clip())[0];
        let sound = sample.sound.expect("it has sound");
        assert_eq!(
            (sound.rate, sound.channels, sound.samples.len()),
            (800, 1, 200)
        );
        // A frame is 50 samples long.
        let found = (sound.samples[0] * 32768.0 / 40.0).round() as usize;
        assert_eq!(found, 50 * first);
    }
    let silent = DataConfig {
        audio: false,
        ..config
    };
    assert!(
        samples(&silent, 1)
            .iter()
            .all(|sample| sample.sound.is_none())
    );
}

#[test]
fn latents_take_the_place_of_media() {
    let values: Vec<f32> = (0..2 * 4 * 3).map(|i| i as f32 / 4.0 - 1.0).collect();
    let latents = Encoded::round(&values, &[2, 4, 3, 1]);
    let captions = Caption::one("x");
    let row = Row {
        latents: Some(&latents),
        ..Row::new("a", b"no picture", &captions, [4, 16, 16], FPS)
    };
    let by = |name: &str| ShardOptions {
        encoders: Encoders {
            latents: Some(name.into()),
            text: None,
        },
        ..ShardOptions::default()
    };
    let folder = write(&row, by("one"));
    let config = DataConfig {
        latents: true,
        ..config(folder.path(), Bucket::new(4, 16, 16, 2))
    };
    assert_eq!(Catalog::open(&config).unwrap().autoencoder(), Some("one"));
    let drawn = samples(&config, 1);
    let Content::Latents(found) = &drawn[0].content else {
        panic!("latents were asked for");
    };
    assert_eq!((found.values(), &found.shape), (values, &vec![2, 4, 3, 1]));

    let other = write(&row, by("two"));
    let mut both = config.clone();
    both.paths.push(other.path().to_string_lossy().into_owned());
    let error = Catalog::open(&both).unwrap_err().to_string();
    assert!(
        error.contains("autoencoder") && error.contains("one") && error.contains("two"),
        "{error}"
    );
    let none = write(&row, ShardOptions::default());
    let mut without = config;
    without.paths = vec![none.path().to_string_lossy().into_owned()];
    let error = Catalog::open(&without).unwrap_err().to_string();
    assert!(error.contains("holds no latents"), "{error}");
}
