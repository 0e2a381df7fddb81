//! `kinora data ingest`, `inspect` and `check` as a user runs them.

use crate::program::Place;
use kinora_media::{Clip, encode_mp4, encode_png};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn picture(seed: usize, side: usize) -> Vec<u8> {
    let value = |at: usize| ((at * (seed % 89 + 1) + seed * 7) % 256) as u8;
    let rgb: Vec<u8> = (0..side * side * 3).map(value).collect();
    encode_png(&rgb, side, side).expect("a picture can be written")
}

fn film(seed: usize) -> Vec<u8> {
    let (height, width, each) = (48, 64, 12);
    let mut rgb = Vec::new();
    for scene in 0..3 {
        for frame in 0..each {
            for at in 0..height * width {
                let lit = (at % width + frame) % 16 < 4;
                let ground = [(seed * 40 + scene * 90) as u8, (scene * 120) as u8, 90];
                rgb.extend(if lit { [255, 255, 255] } else { ground });
            }
        }
    }
    let clip = Clip {
        frames: 3 * each,
        height,
        width,
        fps: 12.0,
        rgb,
    };
    encode_mp4(&clip).expect("a clip can be written")
}

fn put(path: PathBuf, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder can be made");
    fs::write(path, bytes).expect("a file can be written");
}

/// A folder with everything that folders have.
fn folder(root: &Path, images: usize) {
    for index in 0..images {
        let stem = root.join(format!("part {}/{index:04}", index % 3));
        put(stem.with_extension("png"), picture(index, 40));
        put(
            stem.with_extension("txt"),
            format!("picture number {index}"),
        );
    }
    for index in 0..4 {
        put(root.join(format!("films/{index}.mp4")), film(index));
        put(
            root.join(format!("films/{index}.txt")),
            format!("film number {index}"),
        );
    }
    put(root.join("zz \u{e4}\u{1f600}.png"), picture(500, 40));
    put(root.join("zz \u{e4}\u{1f600}.txt"), "an odd name");
    put(root.join("zz text.mp4"), "this is a text");
    put(root.join("zz text.txt"), "a text called .mp4");
    put(root.join("zz zero.png"), "");
    put(root.join("zz zero.txt"), "no bytes");
}

fn shown(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be listed"))
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .filter(|(name, _)| !name.starts_with('.'))
        .map(|(name, path)| (name, fs::read(path).expect("it can be read")))
        .collect();
    files.sort();
    files
}

#[test]
fn a_folder_goes_in_and_is_shown_and_checked() {
    let place = Place::new();
    folder(&place.at("my media"), 20);
    let text = place.succeed(&["data", "ingest", "my media", "--out", "set", "--jobs", "2"]);
    for words in [
        "33  kept: 21 images, 12 videos",
        "2  broken",
        "zz zero.png: it is empty",
        "zz text.mp4",
        "scenes of 4 clips",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let again = place.succeed(&["data", "ingest", "my media", "--out", "set"]);
    assert!(again.contains("already done"), "{again}");
    let refused = place.run(&[
        "data",
        "ingest",
        "my media",
        "--out",
        "set",
        "--min-side",
        "9",
    ]);
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(
        refused
            .err
            .contains("ingest.filters.min_side was 0, and is 9"),
        "{}",
        refused.err
    );

    let text = place.succeed(&[
        "data",
        "inspect",
        "set",
        "--sheet",
        "sheet.png",
        "--samples",
        "5",
    ]);
    for words in [
        "33 rows",
        "kinora's schema, version 1",
        "shorter side",
        "seconds of videos",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let sheet = fs::read(place.at("sheet.png")).expect("the sheet is there");
    assert!(
        kinora_media::decode(&sheet)
            .expect("it is a picture")
            .height
            > 5 * 128
    );
    let numbers: Value =
        serde_json::from_str(&place.succeed(&["data", "inspect", "set", "--json"])).expect("JSON");
    assert_eq!(
        (&numbers["rows"], &numbers["videos"]),
        (&33.into(), &12.into()),
        "{numbers}"
    );
    let row = place.succeed(&[
        "data",
        "inspect",
        "set",
        "--sample",
        "films/2.mp4#001",
        "--out",
        "one",
    ]);
    assert!(row.contains("film number 2"), "{row}");
    let clip = fs::read(place.at("one/films_2.mp4_001.mp4")).expect("its media are there");
    assert!(kinora_media::probe(&clip).expect("it is a clip").frames >= 12);
    let missing = place.run(&["data", "inspect", "set", "--sample", "nothing"]);
    assert_eq!(missing.code, Some(2), "{}", missing.err);

    assert!(
        place
            .succeed(&["data", "check", "set"])
            .contains("all is well")
    );
    let shard = place.at("set/shard-00000.parquet");
    let mut bytes = fs::read(&shard).expect("the shard is there");
    let at = bytes
        .windows(4)
        .position(|window| window == b"IDAT")
        .expect("there is a picture");
    bytes[at + 20] ^= 1;
    fs::write(&shard, bytes).expect("it can be written");
    let bad = place.run(&["data", "check", "set"]);
    assert_eq!(bad.code, Some(1), "{}", bad.err);
    assert!(
        bad.out.contains("shard-00000.parquet: its hash is"),
        "{}",
        bad.out
    );
    assert!(bad.out.contains("and the row says"), "{}", bad.out);
}

#[test]
fn a_killed_ingest_goes_on_to_the_same_bytes() {
    let place = Place::new();
    folder(&place.at("in"), 150);
    let settings = "[ingest]\nshards = { rows_per_group = 4, rows_per_shard = 8 }\n";
    put(place.at("small.toml"), settings);
    let common = [
        "data",
        "ingest",
        "in",
        "--config",
        "small.toml",
        "--jobs",
        "2",
        "--quiet",
        "--out",
    ];
    let whole = [&common[..], &["whole"]].concat();
    let killed = [&common[..], &["killed"]].concat();
    place.succeed(&whole);
    let expected = shown(&place.at("whole"));
    assert!(expected.len() > 15, "there are many shards");
    let mut kills = 0;
    for round in 0..8 {
        let running = place.start(&killed);
        std::thread::sleep(Duration::from_millis(10 + round * 17));
        kills += u32::from(running.kill_if_running());
    }
    assert!(kills > 0, "it was killed at least once");
    let text = place.succeed(&killed);
    assert!(text.contains("kept"), "{text}");
    assert!(
        shown(&place.at("killed")) == expected,
        "killed {kills} times"
    );
}

#[test]
fn what_cannot_be_taken_in_is_said() {
    let place = Place::new();
    fs::create_dir(place.at("empty")).expect("a folder can be made");
    put(place.at("a.zip"), "zip");
    put(place.at("bad.toml"), "[ingest]\nscenes = { cutt = true }\n");
    put(place.at("one/a.png"), picture(1, 40));
    for (words, said) in [
        (&["missing"][..], "missing"),
        (&["empty"], "holds no pictures and no videos"),
        (&["a.zip"], "is compressed"),
        (&["one", "--config", "bad.toml"], "cutt"),
        (&["one", "--near", "40"], "duplicates.near is Some(40)"),
        (&["one", "--kind", "tar"], "holds no .tar file"),
    ] {
        let command = [&["data", "ingest", "--out", "out"][..], words].concat();
        let ended = place.run(&command);
        assert_eq!(ended.code, Some(2), "{words:?}: {}", ended.err);
        assert!(ended.err.contains(said), "{words:?}: {}", ended.err);
        assert!(!place.at("out").exists(), "{words:?} left something behind");
    }
    let ended = place.run(&["data", "inspect", "empty"]);
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(
        ended.err.contains("no Parquet file at empty"),
        "{}",
        ended.err
    );
}
