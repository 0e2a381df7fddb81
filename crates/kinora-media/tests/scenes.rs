//! Scenes of clips whose cuts, speeds and pictures are known.

use kinora_media::{Analysis, Clip, Scene, analyse, encode_jpeg, encode_mp4, encode_png};

const SIZE: [usize; 2] = [96, 128];

/// A number from 0 to 1 that belongs to a place.
fn random(seed: u64, place: u64) -> f64 {
    let mut x =
        seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ place.wrapping_mul(0xD1B5_4A32_D192_ED03);
    x = (x ^ x >> 31).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 29).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x >> 11) as f64 / (1u64 << 53) as f64
}

/// One frame of a scene: waves of random lengths, directions and colours, seen from a place that
/// moves to the right, as bright as said.
fn frame(seed: u64, [height, width]: [usize; 2], moved: f64, light: f64) -> Vec<u8> {
    let waves: Vec<[f64; 6]> = (0..10)
        .map(|wave| std::array::from_fn(|k| random(seed, wave * 6 + k as u64)))
        .collect();
    let mut out = Vec::with_capacity(height * width * 3);
    for y in 0..height {
        for x in 0..width {
            // Sizes are relative to the height, so that the same picture comes in any size.
            let scale = height as f64 / 96.0;
            let (y, x) = (y as f64 / scale, x as f64 / scale + moved);
            let mut rgb = [110.0; 3];
            for [a, b, c, red, green, blue] in &waves {
                let wave =
                    (y * (a - 0.5) * 0.35 + x * (b - 0.5) * 0.35 + c * std::f64::consts::TAU).sin();
                for (level, weight) in rgb.iter_mut().zip([red, green, blue]) {
                    *level += 70.0 * (weight - 0.35) * wave;
                }
            }
            out.extend(rgb.map(|level| (level * light).round().clamp(0.0, 255.0) as u8));
        }
    }
    out
}

fn clip(fps: f64, frames: Vec<Vec<u8>>) -> Clip {
    Clip {
        frames: frames.len(),
        height: SIZE[0],
        width: SIZE[1],
        fps,
        rgb: frames.concat(),
    }
}

fn scenes(clip: &Clip) -> Vec<Scene> {
    let footage = analyse(&encode_mp4(clip).unwrap(), &Analysis::default()).unwrap();
    let scenes = footage.scenes;
    let frames: usize = scenes.iter().map(|scene| scene.frames).sum();
    assert_eq!(frames, clip.frames);
    assert_eq!(scenes[0].start, 0.0);
    let end = clip.frames as f64 / clip.fps;
    assert!((scenes.last().unwrap().end - end).abs() < 1e-3);
    for pair in scenes.windows(2) {
        assert_eq!(pair[0].end, pair[1].start);
    }
    scenes
}

/// The first frame of each scene but the first.
fn cuts(scenes: &[Scene]) -> Vec<usize> {
    let starts = scenes.iter().scan(0, |at, scene| {
        *at += scene.frames;
        Some(*at)
    });
    let starts: Vec<usize> = starts.collect();
    starts[..starts.len() - 1].to_vec()
}

#[test]
fn hard_cuts_are_found_to_the_frame_and_nothing_else_is() {
    for set in 0..4u64 {
        let seed = |k: u64| 1000 * set + k;
        let still = (0..30).map(|_| frame(seed(1), SIZE, 0.0, 1.0));
        // From 3 to 9 pixels a frame: a fast pan, that sets in and ends at once.
        let speed = 3.0 + 2.0 * set as f64;
        let pan = (0..60).map(|t| {
            let moved = f64::from((t - 10).clamp(0, 40)) * speed;
            frame(seed(2), SIZE, moved, 1.0)
        });
        let flash = (0..60).map(|t| {
            // One frame, and one that dies away.
            let light = match t {
                20 => 2.5,
                40 => 3.0,
                41 => 2.0,
                42 => 1.4,
                43 => 1.15,
                _ => 1.0,
            };
            frame(seed(3), SIZE, f64::from(t) * 0.3, light)
        });
        let dim = (0..90).map(|t| {
            let light = 0.6 + 0.4 * (f64::from(t) / 90.0 * std::f64::consts::TAU).cos();
            frame(seed(4), SIZE, f64::from(t) * 0.5, light)
        });
        let last = (0..45).map(|t| frame(seed(5), SIZE, -f64::from(t), 1.0));
        let frames = still
            .chain(pan)
            .chain(flash)
            .chain(dim)
            .chain(last)
            .collect();
        let mut clip = clip(24.0, frames);
        for fps in [12.0, 24.0, 30000.0 / 1001.0, 60.0] {
            clip.fps = fps;
            let found = scenes(&clip);
            assert_eq!(cuts(&found), [30, 90, 150, 240], "{fps} fps, set {set}");
        }
    }
}

#[test]
fn a_fade_through_black_is_one_cut_and_long_black_a_scene() {
    let fade = |black: usize| {
        let out = (0..48).map(|t| {
            frame(
                1,
                SIZE,
                f64::from(t),
                (1.0 - f64::from(t - 24) / 23.0).clamp(0.0, 1.0),
            )
        });
        let dark = (0..black).map(|_| vec![0; SIZE[0] * SIZE[1] * 3]);
        let back = (0..48).map(|t| frame(2, SIZE, f64::from(t), (f64::from(t) / 23.0).min(1.0)));
        scenes(&clip(24.0, out.chain(dark).chain(back).collect()))
    };
    let short = cuts(&fade(4));
    assert!(matches!(short[..], [50..=54]), "{short:?}");
    let long = cuts(&fade(48));
    assert!(matches!(long[..], [46..=48, 96..=98]), "{long:?}");
    let scenes = fade(48);
    assert!(
        scenes[1].brightness < 0.03 && scenes[1].motion < 1e-3,
        "{:?}",
        scenes[1]
    );
    // A frame that dropped out is no cut.
    let frames = (0..60).map(|t| match t {
        30 => vec![0; SIZE[0] * SIZE[1] * 3],
        _ => frame(3, SIZE, f64::from(t) * 0.2, 1.0),
    });
    let dropped = self::scenes(&clip(24.0, frames.collect()));
    assert_eq!(cuts(&dropped), []);
    // Nor is fading in at the beginning and out at the end.
    let ends = (0..96).map(|t: i32| {
        frame(
            4,
            SIZE,
            0.0,
            (f64::from(t.min(95 - t) - 3) / 20.0).clamp(0.0, 1.0),
        )
    });
    assert_eq!(cuts(&self::scenes(&clip(24.0, ends.collect()))), []);
}

#[test]
fn cuts_keep_their_distance() {
    let shots = |length: usize| {
        let frames = (0..96).map(|t| frame((t / length) as u64, SIZE, 0.0, 1.0));
        cuts(&scenes(&clip(24.0, frames.collect())))
    };
    assert_eq!(shots(12), [12, 24, 36, 48, 60, 72, 84]);
    // Half a second is 12 frames: of cuts every 8 frames, every other one is left out.
    assert_eq!(shots(8), [16, 32, 48, 64, 80]);
}

#[test]
fn motion_is_nothing_in_a_still_grows_with_speed_and_does_not_depend_on_the_rate() {
    let motion = |fps: f64, speed: f64| {
        let frames = (0..(3.0 * fps) as usize).map(|t| frame(6, SIZE, t as f64 / fps * speed, 1.0));
        let found = scenes(&clip(fps, frames.collect()));
        assert_eq!(found.len(), 1, "{fps} fps at {speed}");
        found[0].motion
    };
    assert!(motion(24.0, 0.0) < 1e-3, "{}", motion(24.0, 0.0));
    let mut before = motion(24.0, 0.0);
    for speed in [4.0, 8.0, 16.0, 32.0] {
        let at = [12.0, 24.0, 30.0, 60.0].map(|fps| motion(fps, speed));
        println!("{speed} pixels a second: motion {at:.4?} at 12, 24, 30 and 60 fps");
        assert!(at[1] > 1.4 * before, "{before} then {}", at[1]);
        for other in at {
            assert!((other / at[1] - 1.0).abs() < 0.12, "{at:?}");
        }
        before = at[1];
    }
}

#[test]
fn a_hash_survives_resizing_and_coding_and_tells_pictures_apart() {
    let hash = |bytes: &[u8]| analyse(bytes, &Analysis::default()).unwrap().scenes[0].hash;
    let mut originals = Vec::new();
    let (mut worst_same, mut same) = (0, Vec::new());
    for seed in 0..60 {
        let picture = |size: [usize; 2]| Clip {
            frames: 1,
            height: size[0],
            width: size[1],
            fps: 8.0,
            rgb: frame(seed, size, 0.0, 1.0),
        };
        let original = picture([192, 256]);
        let wanted = hash(&encode_png(&original.rgb, 192, 256).unwrap());
        let small = original.fit(72, 96);
        let tiny = original.fit(48, 64);
        let large = original.fit(480, 640);
        for bytes in [
            encode_mp4(&original).unwrap(),
            encode_jpeg(&original.rgb, 192, 256, 30).unwrap(),
            encode_jpeg(&small.rgb, 72, 96, 60).unwrap(),
            encode_mp4(&small).unwrap(),
            encode_mp4(&tiny).unwrap(),
            encode_mp4(&large).unwrap(),
            // Brighter, and squeezed to another shape.
            encode_png(&frame(seed, [192, 256], 0.0, 1.15), 192, 256).unwrap(),
        ] {
            let apart = (hash(&bytes) ^ wanted).count_ones();
            worst_same = worst_same.max(apart);
            same.push(apart);
        }
        originals.push(wanted);
    }
    let mut different: Vec<u32> = Vec::new();
    for (index, a) in originals.iter().enumerate() {
        different.extend(originals[..index].iter().map(|b| (a ^ b).count_ones()));
    }
    different.sort_unstable();
    same.sort_unstable();
    println!(
        "bits apart: the same picture {} in the median, {worst_same} at most; other pictures {} in the median, {} at least",
        same[same.len() / 2],
        different[different.len() / 2],
        different[0]
    );
    assert!(worst_same <= Scene::NEAR, "{worst_same}");
    assert!(different[0] > Scene::NEAR, "{}", different[0]);
}

#[test]
fn an_image_is_one_scene() {
    let rgb = frame(9, SIZE, 0.0, 1.0);
    let image = encode_png(&rgb, SIZE[0], SIZE[1]).unwrap();
    let scenes = analyse(&image, &Analysis::default()).unwrap().scenes;
    let [scene] = scenes[..] else {
        panic!("{scenes:?}");
    };
    assert_eq!(
        (scene.start, scene.end, scene.frames, scene.motion),
        (0.0, 0.0, 1, 0.0)
    );
    let mean = rgb.iter().map(|&level| f64::from(level)).sum::<f64>() / rgb.len() as f64 / 255.0;
    assert!((scene.brightness - mean).abs() < 0.05 && scene.contrast > 0.03);
    let wrong = Analysis {
        fps: 0.0,
        ..Analysis::default()
    };
    assert!(analyse(&image, &wrong).is_err());
    assert!(analyse(&image[..40], &Analysis::default()).is_err());
}
