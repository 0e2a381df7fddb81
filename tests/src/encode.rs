//! Latents written before training: the same for any ranks and after any stop, and what training on
//! them asks for.

use crate::clips::losses;
use crate::program::Place;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The shards and the manifest of a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// A place with the data of `smoke.toml`.
fn place() -> Place {
    let place = Place::new();
    place.succeed(&[
        "data",
        "make",
        "shapes",
        "--out",
        "datasets/smoke",
        "--videos",
        "48",
        "--images",
        "24",
        "-q",
    ]);
    place
}

const ON_LATENTS: [&str; 4] = ["--set", "data.paths=\"lat\"", "--set", "data.latents=true"];

#[test]
fn latents_do_not_know_ranks_and_train_a_model() {
    let place = place();
    let estimate = place.succeed(&[
        "data",
        "encode",
        "smoke.toml",
        "--out",
        "lat",
        "--dry-run",
        "-q",
    ]);
    assert!(estimate.contains("72 samples become"), "{estimate}");
    assert_eq!(
        place.holds(),
        ["datasets", "smoke.toml"],
        "a dry run leaves nothing"
    );
    let out = place.succeed(&["data", "encode", "smoke.toml", "--out", "lat", "-q"]);
    assert!(
        out.contains("encoded 72 samples into lat, 0 left out"),
        "{out}"
    );
    let two = files(&place.at("lat"));
    assert!(two.contains_key("manifest.json"));
    for ranks in ["1", "4"] {
        let plan = format!("mesh.replicate={ranks}");
        let folder = format!("lat{ranks}");
        let on = [
            "data",
            "encode",
            "smoke.toml",
            "--out",
            &folder,
            "-q",
            "--set",
            "mesh.tp=1",
        ];
        let on: Vec<&str> = on.into_iter().chain(["--set", &plan]).collect();
        place.succeed(&on);
        assert_eq!(files(&place.at(&folder)), two, "{ranks} ranks");
    }
    let again = place.succeed(&["data", "encode", "smoke.toml", "--out", "lat", "-q"]);
    assert!(again.contains("already encoded: 72 samples"), "{again}");
    let other = [
        "data",
        "encode",
        "smoke.toml",
        "--out",
        "lat",
        "-q",
        "--set",
        "data.start=\"first\"",
    ];
    place.refuse(&other, &["begun with other data or settings", "help: "]);

    let train: Vec<&str> = ["train", "smoke.toml", "-q"]
        .into_iter()
        .chain(ON_LATENTS)
        .collect();
    place.succeed(&train);
    let first = losses(&place.at("runs/smoke"));
    assert_eq!(first.len(), 6);
    assert!(
        first
            .iter()
            .all(|(_, loss)| loss.is_finite() && *loss > 0.0)
    );
    // The run has taken the autoencoder over, so that it can show what it makes.
    place.succeed(&[
        "generate",
        "runs/smoke",
        "-p",
        "a red circle",
        "-o",
        "out.mp4",
        "-q",
    ]);
}

#[test]
fn a_killed_job_goes_on_to_the_same_files() {
    let place = place();
    let args = ["data", "encode", "smoke.toml", "--out", "lat", "-q"];
    place.succeed(&args);
    let whole = files(&place.at("lat"));
    for delay in [5, 20, 40, 60, 80, 120, 200] {
        fs::remove_dir_all(place.at("lat")).unwrap();
        let running = place.start(&args);
        std::thread::sleep(Duration::from_millis(delay));
        running.kill();
        place.succeed(&args);
        assert_eq!(files(&place.at("lat")), whole, "killed after {delay} ms");
    }
}

#[test]
fn latents_of_another_autoencoder_are_refused() {
    let place = place();
    place.succeed(&["data", "encode", "smoke.toml", "--out", "lat", "-q"]);
    // A run that has an autoencoder of its own.
    place.succeed(&[
        "train",
        "smoke.toml",
        "-q",
        "--set",
        "autoencoder.samples=20",
    ]);
    let checkpoints = place.at("runs/smoke/checkpoints");
    fs::remove_dir_all(&checkpoints).unwrap();
    let train: Vec<&str> = ["train", "smoke.toml", "-q"]
        .into_iter()
        .chain(ON_LATENTS)
        .collect();
    place.refuse(&train, &["made by the autoencoder pca-", "help: "]);
    // Media in place of latents, and latents in place of media.
    let media = ["train", "smoke.toml", "-q", "--set", "data.latents=true"];
    place.refuse(&media, &["holds no latents", "help: "]);
    let run = [
        "train",
        "smoke.toml",
        "-q",
        "--set",
        "run.out=\"runs/other\"",
    ];
    let wider = [
        "--set",
        "data.buckets=[{frames=16,height=64,width=32,batch=8}]",
        "--set",
        "model.max_latent=[4,8,8]",
        "--set",
        "data.image_ratio=0.0",
    ];
    let other: Vec<&str> = run.into_iter().chain(ON_LATENTS).chain(wider).collect();
    place.refuse(
        &other,
        &[
            "holds latents of shape [16, 4, 4, 4], but the bucket",
            "help: ",
        ],
    );
}
