//! The program before anything is started: help, refusals, plans.

use crate::program::{Ended, Place, finish, program};
use serde_json::Value;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn every_verb_explains_itself() {
    let place = Place::new();
    let overview = place.succeed(&["--help"]);
    for (verb, words) in [
        ("train", &["<CONFIG>", "--set", "--quiet"][..]),
        (
            "generate",
            &[
                "<RUN>",
                "--prompt",
                "--out",
                "--seconds",
                "--seed",
                "--steps",
                "--guidance",
            ],
        ),
        (
            "eval",
            &["<RUN>", "--prompts", "--seed", "--sheet", "--json"],
        ),
        (
            "plan",
            &[
                "<CONFIG>",
                "--set",
                "--gpus",
                "--hardware",
                "--search",
                "--generate",
                "--weights",
                "--json",
            ],
        ),
        ("data", &["ingest", "make", "inspect", "check"]),
        (
            "data ingest",
            &["<SRC>", "--out", "--config", "--kind", "--jobs", "--uri"],
        ),
        ("data check", &["<DATA>", "--json"]),
        ("data make", &["shapes"]),
        (
            "data make shapes",
            &[
                "--out",
                "--videos",
                "--images",
                "--freedom",
                "--frames",
                "--size",
            ],
        ),
        (
            "data inspect",
            &["<DATA>", "--set", "--sheet", "--sample", "--json"],
        ),
        ("inspect", &["<RUN>", "--json"]),
        ("doctor", &["--json"]),
        ("launch", &["--ranks", "--mpi", "--hosts", "mpirun -n 2"]),
    ] {
        let parts: Vec<&str> = verb.split(' ').collect();
        let help = place.succeed(&[&parts[..], &["--help"]].concat());
        assert!(
            help.contains(&format!("Usage: kinora {verb}")),
            "{verb}: {help}"
        );
        for word in words {
            assert!(
                help.contains(word),
                "{verb} does not explain {word}: {help}"
            );
        }
        assert!(
            overview.contains(parts[0]),
            "{verb} is not in the overview: {overview}"
        );
    }
    assert!(overview.contains("Exit codes"), "{overview}");
    assert!(place.succeed(&["--version"]).starts_with("kinora "));
    assert_eq!(place.holds(), ["smoke.toml"]);
}

#[test]
fn mistakes_are_named_before_anything_is_written() {
    let place = Place::new();
    let smoke = fs::read_to_string(place.at("smoke.toml")).unwrap();
    fs::write(
        place.at("typo.toml"),
        smoke.replace("steps = 6", "stepz = 6"),
    )
    .unwrap();
    fs::write(place.at("torn.toml"), &smoke[..smoke.len() / 2 + 3]).unwrap();
    let before = place.holds();
    let unused = ["plan.seq=[]", "plan.heads=[]", "plan.hidden=[]"];
    for (set, words) in [
        (
            &["train.stepz=7"][..],
            &["unknown field `stepz`", "train.stepz"][..],
        ),
        (&["trian.steps=7"], &["unknown field `trian`"]),
        (&["train.steps=many"], &["train.steps", "invalid type"]),
        (&["train.steps=0"], &["train.steps = 0", "help: "]),
        (&["train.steps"], &["train.steps has no value", "help: "]),
        (
            &unused,
            &["mesh.tp = 2", "no entry of [plan] names tp", "help: "],
        ),
        (
            &["mesh.fsdp=2"],
            &["mesh.fsdp = 2", "where stored weights are cut", "help: "],
        ),
        (
            &["train.preview_every=0"],
            &[
                "preview.prompts has no effect",
                "train.preview_every = 0",
                "help: ",
            ],
        ),
        (
            &["preview.prompts=[]"],
            &["train.preview_every has no effect", "help: "],
        ),
        (
            &["mesh.tp=3"],
            &[
                "model.heads: 4 heads",
                "over 3 ranks (tp)",
                "help: set mesh.tp to one of [1, 2, 4]",
            ],
        ),
        (
            &["mesh.replicate=3"],
            &[
                "batch of 8 samples of 16 frames of 32x32",
                "3 data groups",
                "help: ",
                "multiple of 3",
            ],
        ),
        (
            &["train.accumulate=16"],
            &["batch of 8", "16 micro-batches", "help: "],
        ),
        (
            &["model.preset=movie-gen-31b"],
            &["movie-gen-31b", "help: ", "movie-gen-30b"],
        ),
        (
            &["model.max_latent=[2,4,4]"],
            &["[4, 4, 4]", "model.max_latent", "help: "],
        ),
        (
            &["autoencoder.channels=9999"],
            &["autoencoder.channels = 9999", "help: "],
        ),
        (&["data.image_ratio=1.5"], &["image_ratio", "1.5", "help: "]),
        (&["data.paths=nowhere"], &["nowhere", "help: "]),
        (&["shapes.frames=2"], &["frames", "help: "]),
        (&["sample.overlap=4"], &["sample.overlap = 4", "help: "]),
        (&["run.deadline=0"], &["run.deadline = 0", "help: "]),
        (
            &["model.preset=wan-2.1-i2v-14b", "model.heads=4"],
            &["wan-2.1-i2v-14b", "reads a given image", "help: "],
        ),
        (
            &["model.preset=wan-2.2-t2v-a14b", "model.heads=4"],
            &["wan-2.2-t2v-a14b", "pair of experts", "help: "],
        ),
    ] {
        let mut args = vec!["train", "smoke.toml"];
        set.iter().for_each(|change| args.extend(["--set", change]));
        // A folder that is not there is made where [shapes] says how, and missed where not.
        if *set == ["data.paths=nowhere"] {
            place.write_own("datasets/smoke");
            args[1] = "own.toml";
        }
        place.refuse(&args, words);
        drop(fs::remove_file(place.at("own.toml")));
        assert_eq!(place.holds(), before, "{set:?} wrote something");
    }
    for (args, words) in [
        (
            &["train", "absent.toml"][..],
            &["absent.toml cannot be read", "help: "][..],
        ),
        (
            &["train", "typo.toml"],
            &["typo.toml", "unknown field `stepz`", "line "],
        ),
        (
            &["plan", "typo.toml"],
            &["typo.toml", "unknown field `stepz`", "line "],
        ),
        (&["train", "torn.toml"], &["torn.toml"]),
        (
            &["inspect", "."],
            &[". is not the folder of a run", "run.toml", "help: "],
        ),
        (
            &["eval", "nowhere"],
            &["nowhere is not the folder of a run", "help: "],
        ),
        (
            &[
                "generate",
                "nowhere",
                "-p",
                "a red circle",
                "-o",
                "video.mp4",
            ],
            &["nowhere is not the folder of a run", "help: "],
        ),
        (
            &[
                "generate",
                "nowhere",
                "-p",
                "a red circle",
                "-o",
                "video.avi",
            ],
            &["video.avi has no ending", "help: use .mp4"],
        ),
        (&["generate", "nowhere", "-p", "a red circle"], &["--out"]),
        (
            &[
                "data", "make", "shapes", "-o", "made", "--videos", "0", "--images", "0",
            ],
            &["videos", "help"],
        ),
        (
            &["data", "make", "shapes", "-o", "made", "--size", "33"],
            &["33", "help"],
        ),
        (&["trian", "smoke.toml"], &["trian"]),
    ] {
        place.refuse(args, words);
        assert_eq!(place.holds(), before, "{args:?} wrote something");
    }
}

#[cfg(unix)]
#[test]
fn the_30b_plan_takes_seconds_and_little_memory() {
    let place = Place::new();
    let config = xtask::repo::root().join("configs/movie-gen-5b.toml");
    // The weights alone are 117 GB; the shell allows the program 4.
    let limited = |json: &str| {
        let script = format!(
            "ulimit -v 4000000 && exec \"$0\" plan \"$1\" --set model.preset=movie-gen-30b --set mesh.tp=8 --weights {json}"
        );
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &script])
            .arg(program())
            .arg(&config)
            .current_dir(place.at("."));
        let began = Instant::now();
        let Ended { code, out, err } = finish(&mut shell, Duration::from_secs(60));
        assert_eq!(code, Some(0), "{err}");
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            began.elapsed()
        );
        out
    };
    let text = limited("");
    for words in [
        "replicate 2 x tp 8 (16 ranks, 2 data groups)",
        "billion parameters",
        "rank  15: ",
    ] {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    let plan: Value = serde_json::from_str(&limited("--json")).unwrap();
    let parameters = plan["parameters"].as_u64().unwrap();
    // 48 layers of 8 x 6144^2 + 3 x 6144 x 16384, and what is around them.
    let layers = 48 * (8 * 6144 * 6144 + 3 * 6144 * 16384);
    assert!(
        (layers..layers + layers / 50).contains(&parameters),
        "{parameters}"
    );
    let len = |shape: &Value| -> u64 {
        shape
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_u64().unwrap())
            .product()
    };
    let weights = plan["weights"].as_array().unwrap();
    let (cut, whole): (Vec<&Value>, Vec<&Value>) = weights
        .iter()
        .partition(|weight| len(&weight["local"]) < len(&weight["shape"]));
    let sum = |weights: &[&Value]| {
        weights
            .iter()
            .map(|weight| len(&weight["shape"]))
            .sum::<u64>()
    };
    assert_eq!((sum(&cut), sum(&cut) + sum(&whole)), (layers, parameters));
    let ranks = plan["ranks_bytes"].as_array().unwrap();
    assert_eq!(ranks.len(), 16);
    for rank in ranks {
        // Weights, their average, gradients and two moments, of four bytes each.
        assert_eq!(rank["bytes"], 5 * 4 * (layers / 8 + sum(&whole)));
    }
    assert_eq!(place.holds(), ["smoke.toml"]);
}

fn plan(place: &Place, args: &[&str]) -> Value {
    let text = place.succeed(&[&["plan"], args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_plan_shows_memory_messages_and_time() {
    let place = Place::new();
    let text = place.succeed(&["plan", "smoke.toml"]);
    for words in [
        "mesh: tp 2 (2 ranks, 1 data groups)",
        "estimates for cpu",
        "optimizer",
        "fits",
        "tokens into cut layers",
        "reduce-scatter",
        "a step takes",
        "MFU",
        "assumed:",
    ] {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    // Weights, two moments, their average and the gradient, of four bytes each, as --weights counts.
    let weights = plan(&place, &["smoke.toml", "--weights"]);
    let elements = weights["ranks_bytes"][0]["elements"].as_u64().unwrap();
    let report = plan(&place, &["smoke.toml"]);
    let bytes = report["estimate"]["memory"]["phases"][0]["bytes"].as_array();
    let of = |name: &str| {
        let mut bytes = bytes.unwrap().iter();
        let found = bytes.find(|entry| entry[0] == name);
        found.unwrap_or_else(|| panic!("no {name}: {report}"))[1].as_u64()
    };
    for (name, copies) in [
        ("weights", 4),
        ("gradients", 4),
        ("optimizer", 8),
        ("average", 4),
    ] {
        assert_eq!(of(name), Some(copies * elements), "{name}");
    }
    assert_eq!(report["parameters"], weights["parameters"]);
    let sampled = plan(&place, &["smoke.toml", "--generate"]);
    assert_eq!(sampled["job"]["generation"]["steps"], 4);
    assert_eq!(place.holds(), ["smoke.toml"]);
}

#[test]
fn a_plan_is_scaled_to_gpus_or_says_what_fits() {
    let place = Place::new();
    let eight = plan(&place, &["smoke.toml", "--gpus", "8"]);
    assert_eq!(eight["mesh"], "replicate 4 x tp 2");
    assert_eq!(eight["hardware"], "h100-sxm");
    assert_eq!(eight["job"]["training"]["batch"], 2);
    let named = plan(&place, &["smoke.toml", "--gpus", "8", "--hardware", "h20"]);
    assert_eq!(named["hardware"], "h20");
    let file = xtask::repo::root().join("configs/hardware/gb200.toml");
    let file = file.to_str().unwrap();
    let read = plan(&place, &["smoke.toml", "--hardware", file]);
    assert_eq!(read["hardware"], "gb200");
    for (args, words) in [
        (
            &["--gpus", "7"][..],
            &["--gpus 7", "is 2 ranks", "help: use 6 or 8"][..],
        ),
        (&["--gpus", "1"], &["--gpus 1", "help: use 2"]),
        (&["--gpus", "6"], &["batch of 8", "3 data groups", "help: "]),
        (&["--hardware", "h101"], &["h101", "help: ", "h100-sxm"]),
        (
            &["--hardware", "absent.toml"],
            &["absent.toml cannot be read", "help: "],
        ),
        (
            &["--generate", "--gpus", "4"],
            &["--gpus", "help: add --search"],
        ),
    ] {
        place.refuse(&[&["plan", "smoke.toml"], args].concat(), words);
    }
}

/// What a search prints for a configuration is one, and costs what the search said.
#[test]
fn the_tables_of_a_search_can_be_pasted() {
    let place = Place::new();
    let args = ["smoke.toml", "--search", "--gpus", "4"];
    let text = place.succeed(&[&["plan"], &args[..]].concat());
    let tables = &text[text.find("[mesh]").expect("a table")..];
    let tables = &tables[..tables.find("assumed:").expect("what was assumed")];
    let smoke = fs::read_to_string(place.at("smoke.toml")).unwrap();
    let (before, after) = (
        smoke.find("[mesh]").unwrap(),
        smoke.find("[model]").unwrap(),
    );
    let pasted = [&smoke[..before], tables, &smoke[after..]].concat();
    fs::write(place.at("pasted.toml"), pasted).unwrap();
    let found = plan(&place, &args);
    let best = &found["best"][0];
    let own = plan(&place, &["pasted.toml", "--hardware", "h100-sxm"]);
    assert_eq!(own["ranks"], 4, "{tables}");
    for key in ["step_seconds", "memory", "traffic"] {
        assert_eq!(
            own["estimate"][key], best["estimate"][key],
            "{key}: {tables}"
        );
    }
    let seconds = |row: &Value| row["estimate"]["step_seconds"].as_f64().unwrap();
    let times: Vec<f64> = found["best"]
        .as_array()
        .unwrap()
        .iter()
        .map(seconds)
        .collect();
    assert!(times.len() > 1 && times.is_sorted(), "{times:?}");
    place.refuse(
        &["plan", "smoke.toml", "--search", "--gpus", "0"],
        &["--gpus 0", "help: "],
    );
}
