//! Stopping and going on: a resumed run is the run that was never stopped, on any mesh.

use crate::clips::{Clips, Hook, losses};
use crate::fixture::{Cut, batch, cut, on_ranks, text, train_config, trainer, video};
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_ckpt::{Checkpoint, CkptError, TensorSource, latest};
use kinora_models::movie_gen::MovieGenConfig;
use kinora_models::{Condition, Denoiser, TextToVideo};
use kinora_shard::Sharding;
use kinora_train::{TrainError, Trainer};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Trains from the newest checkpoint under `root`, if there is one, to step `to`, and saves.
fn leg(cut: &Cut, dtype: DType, root: &Path, to: u64) -> Vec<f64> {
    let root = root.to_path_buf();
    let all: Vec<Vec<f64>> = on_ranks(cut, dtype, train_config(), move |mut trainer, sharding| {
        if let Some(path) = latest(&root)? {
            trainer.restore(&Checkpoint::open(&path)?)?;
        }
        sharding.world().barrier("checkpoint read")?;
        let steps = trainer.step()..to;
        let losses = steps.map(|step| Ok(trainer.train(&batch(step, &sharding))?.loss));
        let losses = losses.collect::<Result<Vec<f64>, TrainError>>()?;
        trainer.save(&root, &json!({}), 2)?;
        Ok(losses)
    })
    .unwrap_or_else(|error| panic!("{}: {error}", cut.name));
    all[0].clone()
}

/// The bytes of every tensor of the newest checkpoint.
fn tensors(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let path = latest(root).unwrap().expect("a checkpoint was saved");
    let checkpoint = Checkpoint::open(&path).unwrap();
    checkpoint.verify().unwrap();
    let names = checkpoint.names();
    let read = |name: &str| (name.to_string(), checkpoint.read_whole(name).unwrap());
    names.into_iter().map(read).collect()
}

fn assert_same(got: &BTreeMap<String, Vec<u8>>, want: &BTreeMap<String, Vec<u8>>, what: &str) {
    assert!(got.keys().eq(want.keys()), "{what}: other tensors");
    for (name, bytes) in got {
        assert!(bytes == &want[name], "{what}: {name} differs");
    }
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    for cut in [
        cut("one rank", 1, 1, false),
        cut("tp 2 with seq", 1, 2, true),
        cut("replicate 2", 2, 1, false),
        cut("tp 2 with seq x replicate 2", 2, 2, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let straight = folder.path().join("straight");
        let want = leg(&cut, DType::F32, &straight, 20);
        assert_eq!(want.len(), 20);
        for stops in [&[7, 20][..], &[7, 12, 20]] {
            let root = folder.path().join(format!("{stops:?}"));
            let got: Vec<f64> = stops
                .iter()
                .flat_map(|&to| leg(&cut, DType::F32, &root, to))
                .collect();
            let bits = |losses: &[f64]| losses.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(
                bits(&got),
                bits(&want),
                "{}, stopped at {stops:?}",
                cut.name
            );
            let what = format!("{}, stopped at {stops:?}", cut.name);
            assert_same(&tensors(&root), &tensors(&straight), &what);
        }
    }
}

#[test]
fn a_run_goes_on_on_other_meshes() {
    let folder = tempfile::tempdir().unwrap();
    let one = cut("one rank", 1, 1, false);
    let want = leg(&one, DType::F64, &folder.path().join("straight"), 20);
    let root = folder.path().join("moved");
    let mut got = leg(&cut("tp 2 with seq", 1, 2, true), DType::F64, &root, 7);
    got.extend(leg(&cut("replicate 2", 2, 1, false), DType::F64, &root, 13));
    got.extend(leg(&one, DType::F64, &root, 20));
    assert_eq!(got.len(), 20);
    for (step, (got, want)) in got.iter().zip(&want).enumerate() {
        let error = (got - want).abs() / want.abs();
        assert!(
            error < 1e-9,
            "step {}: {got} instead of {want} ({error:.1e})",
            step + 1
        );
    }
}

/// What a model makes of a batch.
fn output(model: &TextToVideo, sharding: &Sharding) -> Vec<f64> {
    let batch = batch(0, sharding);
    let times = TensorData::new(vec![0.3; batch.captions.len()], [batch.captions.len()]);
    let times = Tensor::from_data(times, (&batch.latents.device(), DType::F32));
    let output = model.velocity(
        batch.latents,
        times,
        &Condition::of_prompts(&batch.captions),
    );
    output.into_data().iter::<f64>().collect()
}

#[test]
fn weights_average_and_moments_are_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let root = first.clone();
    let four = cut("tp 2 with seq x replicate 2", 2, 2, true);
    on_ranks(
        &four,
        DType::F32,
        train_config(),
        move |mut trained, sharding| {
            for step in 0..3 {
                trained.train(&batch(step, &sharding))?;
            }
            trained.save(&root, &json!({}), 1)?;
            let fresh = || trainer(&train_config(), DType::F32, &sharding);
            let mut restored = fresh();
            restored.restore(&Checkpoint::open(&latest(&root)?.expect("just saved"))?)?;
            assert_eq!(restored.step(), 3);
            let (was, is) = (
                output(&trained.averaged(), &sharding),
                output(&restored.averaged(), &sharding),
            );
            assert_eq!(is, was, "the average");
            assert_ne!(
                is,
                output(&fresh().averaged(), &sharding),
                "nothing was learned"
            );
            let flat = |of: &Trainer<TextToVideo>| output_in_training(of, &sharding);
            assert_eq!(flat(&restored), flat(&trained), "the weights");
            assert_ne!(flat(&restored), is, "the average is the weights");
            Ok(())
        },
    )
    .unwrap();

    // What one rank reads of four ranks' boxes, it writes again as it was.
    let (from, to) = (first.clone(), second.clone());
    on_ranks(
        &cut("one rank", 1, 1, false),
        DType::F32,
        train_config(),
        move |mut trainer, _| {
            trainer.restore(&Checkpoint::open(&latest(&from)?.expect("saved before"))?)?;
            trainer.save(&to, &json!({}), 1)?;
            Ok(())
        },
    )
    .unwrap();
    let saved = tensors(&first);
    assert_same(&tensors(&second), &saved, "through one rank");
    let kinds = ["model/", "average/", "adamw.first/", "adamw.second/"];
    let of = |kind: &str| {
        saved
            .iter()
            .filter(|(name, _)| name.starts_with(kind))
            .collect::<Vec<_>>()
    };
    let count = of(kinds[0]).len();
    for (i, kind) in kinds.iter().enumerate() {
        assert_eq!(of(kind).len(), count, "{kind} is whole");
        let bytes = |kind| {
            of(kind)
                .into_iter()
                .map(|(_, bytes)| bytes.clone())
                .collect::<Vec<_>>()
        };
        assert!(
            bytes(kind).concat().iter().any(|&byte| byte != 0),
            "{kind} is all zero"
        );
        for other in &kinds[..i] {
            assert_ne!(
                bytes(kind),
                bytes(other),
                "{kind} and {other} hold the same"
            );
        }
    }
}

/// As [`output`], of the weights in training.
fn output_in_training(trainer: &Trainer<TextToVideo>, sharding: &Sharding) -> Vec<f64> {
    let (loss, gradients) = trainer.gradients(&batch(0, sharding));
    let flat = gradients
        .flat()
        .iter()
        .flat_map(|x| x.to_data().iter::<f64>().collect::<Vec<_>>());
    std::iter::once(loss).chain(flat).collect()
}

#[test]
fn another_models_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    leg(&cut("tp 2", 1, 2, false), DType::F32, folder.path(), 1);
    let checkpoint = Checkpoint::open(&latest(folder.path()).unwrap().unwrap()).unwrap();
    let refusal = |video: &MovieGenConfig| {
        let device = (&Device::flex(), DType::F32);
        let mut trainer = Trainer::new(&train_config(), 3, device, &Sharding::single(), |cx| {
            TextToVideo::new(cx, &video.clone().into(), Some(&text()))
        });
        let error = trainer
            .restore(&checkpoint)
            .expect_err("another model was restored");
        assert_eq!(trainer.step(), 0);
        error
    };
    let wider = refusal(&MovieGenConfig { ffn: 41, ..video() });
    let TrainError::Checkpoint(CkptError::Shape {
        name,
        wanted,
        found,
    }) = &wider
    else {
        panic!("{wider}");
    };
    assert!(wanted.contains(&41) && found.contains(&37), "{wider}");
    let message = wider.to_string();
    for part in [
        name.clone(),
        format!("{wanted:?}"),
        format!("{found:?}"),
        "help: ".to_string(),
    ] {
        assert!(message.contains(&part), "{part} is not in: {message}");
    }
    let deeper = refusal(&MovieGenConfig {
        layers: 3,
        ..video()
    });
    let TrainError::Checkpoint(CkptError::Missing { name, .. }) = &deeper else {
        panic!("{deeper}");
    };
    assert!(name.contains("blocks.2"), "{deeper}");
}

#[test]
fn a_run_on_real_data_goes_on_where_it_stopped() {
    let clips = Clips::make();
    let cut = cut("tp 2 with seq", 1, 2, true);
    let straight = clips
        .train("straight", &cut, DType::F32, Hook::None)
        .unwrap();
    assert_eq!((straight.from, straight.step), (0, 12));
    // It stops behind step 8, after the checkpoint of step 5.
    let error = clips
        .train("stopped", &cut, DType::F32, Hook::Stop(8))
        .unwrap_err();
    assert!(error.to_string().contains("enough for now"), "{error}");
    assert_eq!(losses(&clips.run("stopped")).len(), 8);
    let resumed = clips
        .train("stopped", &cut, DType::F32, Hook::None)
        .unwrap();
    assert_eq!((resumed.from, resumed.step), (5, 12));
    let (got, want) = (
        losses(&clips.run("stopped")),
        losses(&clips.run("straight")),
    );
    assert_eq!(got, want);
    let steps: Vec<u64> = got.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
    let checkpoints = |name| tensors(&kinora_train::checkpoints(&clips.run(name)));
    assert_same(
        &checkpoints("stopped"),
        &checkpoints("straight"),
        "real data",
    );

    let again = clips
        .train("stopped", &cut, DType::F32, Hook::None)
        .unwrap();
    assert_eq!(
        (again.from, again.step),
        (12, 12),
        "a finished run stays as it is"
    );
    assert_eq!(losses(&clips.run("stopped")), want);
}

#[test]
fn a_run_on_real_data_goes_on_on_another_mesh() {
    let clips = Clips::make();
    clips
        .train(
            "straight",
            &cut("one rank", 1, 1, false),
            DType::F64,
            Hook::None,
        )
        .unwrap();
    let two = cut("tp 2 with seq", 1, 2, true);
    let one = cut("one rank", 1, 1, false);
    let replicas = cut("replicate 2", 2, 1, false);
    let want = losses(&clips.run("straight"));
    // Latents are f32, and how they are rounded may depend on how many clips are encoded at once,
    // which only the batch's cut changes.
    for (name, cuts, tolerance) in [
        ("tp", [&two, &one], 1e-9),
        ("batch", [&two, &replicas], 1e-6),
    ] {
        clips
            .train(name, cuts[0], DType::F64, Hook::Stop(8))
            .unwrap_err();
        let outcome = clips.train(name, cuts[1], DType::F64, Hook::None).unwrap();
        assert_eq!(outcome.from, 5);
        let got = losses(&clips.run(name));
        assert_eq!(got.len(), want.len());
        for ((step, got), (_, want)) in got.iter().zip(&want) {
            let error = (got - want).abs() / want;
            assert!(
                error < tolerance,
                "{name}, step {step}: {got}, not {want} ({error:.1e})"
            );
        }
    }
}
