//! The program's whole way: a run from its data to its videos, what the verbs say of it, and what
//! its folder refuses.

use crate::clips::losses;
use crate::program::{Ended, Place, finish};
use serde_json::Value;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A still's or a video's frames, height and width.
fn size(path: &Path) -> [usize; 3] {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let clip = kinora_media::decode(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(clip.rgb.len(), clip.frames * clip.height * clip.width * 3);
    [clip.frames, clip.height, clip.width]
}

/// The values of a video's pixels.
fn pixels(video: &[u8]) -> Vec<u8> {
    kinora_media::decode(video).unwrap().rgb
}

/// What another program thinks of a video: codec, pixel format and frames.
fn probed(path: &Path) -> Option<Value> {
    let entries = "stream=codec_name,pix_fmt,width,height,nb_read_frames";
    let mut probe = Command::new("ffprobe");
    probe.args(["-v", "error", "-count_frames", "-select_streams", "v:0"]);
    probe
        .args(["-show_entries", entries, "-of", "json"])
        .arg(path);
    if Command::new("ffprobe").arg("-version").output().is_err() {
        // Written past the test harness, which hides what a passing test prints.
        let words =
            "SKIPPED: ffprobe is not on this machine, so no other program judged the videos\n";
        drop(io::stderr().write_all(words.as_bytes()));
        return None;
    }
    let Ended { code, out, err } = finish(&mut probe, Duration::from_secs(60));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{}", path.display());
    let found: Value = serde_json::from_str(&out).unwrap();
    Some(found["streams"][0].clone())
}

#[test]
fn a_run_from_its_data_to_its_videos() {
    let place = Place::new();
    let out = place.succeed(&["train", "smoke.toml", "--quiet"]);
    assert!(out.contains("from step 0 to 6"), "{out}");
    assert_eq!(place.holds(), ["datasets", "runs", "smoke.toml"]);
    let run = place.at("runs/smoke");
    let first = losses(&run);
    assert_eq!(
        first.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    assert!(
        first
            .iter()
            .all(|(_, loss)| loss.is_finite() && *loss > 0.0),
        "{first:?}"
    );
    for step in [3, 6] {
        for prompt in [1, 2] {
            let video = run.join(format!("previews/step-{step:08}-{prompt}.mp4"));
            assert_eq!(size(&video), [16, 32, 32]);
        }
        assert_eq!(
            size(&run.join(format!("previews/step-{step:08}.png")))[0],
            1
        );
    }
    let out = place.succeed(&["train", "smoke.toml"]);
    assert!(out.contains("already trained to step 6"), "{out}");
    assert_eq!(losses(&run), first);

    // The other kind of number goes through the same verbs.
    let wide = ["--set", "run.dtype=f64", "--set", "run.out=runs/wide"];
    place.succeed(&[&["train", "smoke.toml", "-q"], &wide[..]].concat());
    let out = [
        "generate",
        "runs/wide",
        "-q",
        "-p",
        "a red circle",
        "-o",
        "wide.mp4",
    ];
    place.succeed(&out);
    assert_eq!(size(&place.at("wide.mp4")), [16, 32, 32]);

    videos(&place);
    reports(&place);
    other_settings(&place);

    // More steps are done behind those that are done.
    let out = place.succeed(&["train", "smoke.toml", "-q", "--set", "train.steps=8"]);
    assert!(out.contains("from step 6 to 8"), "{out}");
    let longer = losses(&run);
    assert_eq!((longer.len(), &longer[..6]), (8, &first[..]));
}

/// Videos and images of a trained run.
fn videos(place: &Place) {
    let generate = |out: &str, more: &[&str]| {
        let args = [
            "generate",
            "runs/smoke",
            "-q",
            "-p",
            "a small red circle moving left",
            "-o",
            out,
        ];
        let said = place.succeed(&[&args[..], more].concat());
        assert!(said.contains(&format!("wrote {out}")), "{said}");
        fs::read(place.at(out)).unwrap()
    };
    let video = generate("one.mp4", &[]);
    assert_eq!(size(&place.at("one.mp4")), [16, 32, 32]);
    let [frames, height, width] = size(&place.at("one.png"));
    assert!(
        frames == 1 && height > 32 && width > 8 * 32,
        "a sheet of {height}x{width}"
    );
    assert!(
        video == generate("same.mp4", &[]),
        "the same seed makes another video"
    );
    // Sums of floats in another order may move a pixel's value by a step, but not the video.
    let (two, one) = (
        pixels(&video),
        pixels(&generate("rank.mp4", &["--set", "mesh.tp=1"])),
    );
    let difference: u64 = two
        .iter()
        .zip(&one)
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum();
    assert!(
        difference < two.len() as u64 / 4,
        "one rank makes another video: {difference}"
    );
    assert!(
        video != generate("other.mp4", &["--seed", "1"]),
        "another seed makes the same video"
    );
    assert!(
        video != generate("other.mp4", &["--guidance", "1"]),
        "guidance has no effect"
    );
    assert!(
        video != generate("other.mp4", &["--steps", "2"]),
        "steps have no effect"
    );

    // Eight frames a second.
    generate("long.mp4", &["--seconds", "5"]);
    assert_eq!(size(&place.at("long.mp4")), [40, 32, 32]);
    generate("short.mp4", &["--seconds", "1"]);
    assert_eq!(size(&place.at("short.mp4")), [8, 32, 32]);
    for still in ["still.png", "still.jpg"] {
        generate(still, &[]);
        assert_eq!(size(&place.at(still)), [1, 32, 32]);
    }
    for (name, frames) in [("one.mp4", "16"), ("long.mp4", "40")] {
        let Some(found) = probed(&place.at(name)) else {
            continue;
        };
        assert_eq!(found["codec_name"], "h264", "{name}: {found}");
        assert_eq!(found["pix_fmt"], "yuv420p", "{name}: {found}");
        assert_eq!(found["nb_read_frames"], frames, "{name}: {found}");
        // Small frames are stored at twice their size, so that no colour is lost.
        assert_eq!(
            (&found["width"], &found["height"]),
            (&64.into(), &64.into()),
            "{name}"
        );
    }

    let before = place.holds();
    let refused = |out: &str, more: &[&str], words: &[&str]| {
        let args = [
            "generate",
            "runs/smoke",
            "-q",
            "-p",
            "a red circle",
            "-o",
            out,
        ];
        place.refuse(&[&args[..], more].concat(), words);
        assert_eq!(place.holds(), before);
    };
    refused(
        "x.png",
        &["--seconds", "2"],
        &["--seconds has no effect on an image", "help: "],
    );
    refused("x.mp4", &["--seconds", "0"], &["--seconds 0", "help: "]);
    refused("x.mp4", &["--steps", "0"], &["steps = 0", "help: "]);
    refused(
        "x.mp4",
        &["--guidance", "-1"],
        &["sample.guidance = -1", "help: "],
    );
    refused("x.gif", &[], &["x.gif has no ending", "help: "]);
    refused("x", &[], &["x has no ending", "help: "]);
    refused("absent/x.mp4", &[], &["absent is no folder", "help: "]);
}

/// What the verbs say of a trained run, as JSON.
fn reports(place: &Place) {
    let inspected = place.json(&["inspect", "runs/smoke", "--json"]);
    assert_eq!(
        (&inspected["steps_done"], &inspected["steps_planned"]),
        (&6.into(), &6.into())
    );
    assert_eq!(inspected["checkpoint"]["step"], 6);
    assert_eq!(inspected["skipped_clips"], 0);
    assert_eq!(inspected["previews"].as_array().unwrap().len(), 6);

    let scores = place.json(&["eval", "runs/smoke", "--prompts", "4", "--json", "--quiet"]);
    assert_eq!(scores["step"], 6);
    for key in ["difficulty", "calibration", "held_out", "seen"] {
        assert!(scores[key].is_object(), "{key}: {scores}");
    }

    let plan = place.json(&["plan", "smoke.toml", "--weights", "--json"]);
    assert_eq!(
        (&plan["ranks"], &plan["data_groups"]),
        (&2.into(), &1.into())
    );
    let weights = plan["weights"].as_array().unwrap();
    let len = |shape: &Value| {
        shape
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_u64().unwrap())
            .product::<u64>()
    };
    let parameters: u64 = weights.iter().map(|weight| len(&weight["shape"])).sum();
    assert_eq!(plan["parameters"], parameters);
    let local: u64 = weights.iter().map(|weight| len(&weight["local"])).sum();
    assert_eq!(plan["ranks_bytes"][0]["elements"], local);
    // Of each weight there are four tensors: itself, its average and two moments.
    assert_eq!(inspected["checkpoint"]["tensors"], 4 * weights.len());

    let data = place.json(&["data", "inspect", "smoke.toml", "--json"]);
    assert_eq!(data["rows"], 72);
    let samples: Vec<&Value> = data["buckets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bucket| &bucket["samples"])
        .collect();
    assert_eq!(samples, [48, 24]);

    let machine = place.json(&["doctor", "--json"]);
    assert!(machine["cores"].as_u64().unwrap() >= 1, "{machine}");
    assert!(
        machine["matmul_gflops"].as_f64().unwrap() > 0.0,
        "{machine}"
    );

    // Without --json the same verbs speak to people.
    for (args, words) in [
        (&["inspect", "runs/smoke"][..], "checksums right"),
        (&["plan", "smoke.toml", "--weights"], "bytes per rank"),
        (&["data", "inspect", "smoke.toml"], "72 rows"),
        (&["doctor"], "cores: "),
    ] {
        let out = place.succeed(args);
        assert!(out.contains(words), "{args:?}: {out}");
    }
}

/// A run's folder takes no other model, and what refuses it changes nothing.
fn other_settings(place: &Place) {
    let read = |path: &str| fs::read(place.at(path)).unwrap();
    let (run, metrics) = (
        read("runs/smoke/run.toml"),
        read("runs/smoke/metrics.jsonl"),
    );
    for (change, words) in [
        (
            "model.dim=48",
            &[
                "runs/smoke holds a run with another [model]",
                "run.out=FOLDER",
            ][..],
        ),
        ("text.ffn=96", &["another [text]", "help: "]),
        (
            "autoencoder.whiten=0.25",
            &["another [autoencoder]", "help: "],
        ),
        ("run.seed=1", &["seed", "help: "]),
        ("shapes.videos=49", &["videos", "48", "49", "help: "]),
        (
            "data.buckets=[{ frames = 16, height = 32, width = 32, batch = 8 }]",
            &["image", "help: "],
        ),
    ] {
        place.refuse(&["train", "smoke.toml", "-q", "--set", change], words);
        assert!(
            read("runs/smoke/run.toml") == run,
            "{change} was written down"
        );
        assert!(
            read("runs/smoke/metrics.jsonl") == metrics,
            "{change} changed the records"
        );
    }
    // Other sizes than the weights were trained in, where their shapes would fit.
    for change in ["model.heads=2", "model.layers=3", "text.windows=0"] {
        place.refuse(
            &[
                "generate",
                "runs/smoke",
                "-q",
                "-p",
                "a",
                "-o",
                "x.mp4",
                "--set",
                change,
            ],
            &["is of another model", "help: "],
        );
    }
    // Another process in the same folder.
    let lock = fs::File::create(place.at("runs/smoke/.lock")).unwrap();
    lock.lock().unwrap();
    place.refuse(
        &["train", "smoke.toml", "-q", "--set", "train.steps=9"],
        &["another process is training into runs/smoke", "help: "],
    );
    drop(lock);
    // Other data than the checkpoint has seen.
    let other = place.at("datasets/other");
    fs::create_dir(&other).unwrap();
    for name in [
        "videos-00000.parquet",
        "images-00000.parquet",
        "dataset.toml",
    ] {
        fs::copy(place.at("datasets/smoke").join(name), other.join(name)).unwrap();
    }
    fs::copy(
        other.join("images-00000.parquet"),
        other.join("more.parquet"),
    )
    .unwrap();
    place.write_own("datasets/other");
    place.refuse(
        &["train", "own.toml", "-q", "--set", "train.steps=9"],
        &["24 of images", "48 of images", "help: "],
    );
    assert!(
        read("runs/smoke/run.toml") == run,
        "other data was written down"
    );
}
