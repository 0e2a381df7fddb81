//! Training autoencoders: the same steps on any mesh and after a resumption.

use burn::tensor::{DType, Device, Tensor};
use kinora_ckpt::{Checkpoint, Dtype, latest};
use kinora_comm::CommError;
use kinora_comm::local::{self, World as Ranks};
use kinora_data::{Bucket, Catalog, DataConfig};
use kinora_mesh::{Mesh, MeshAxis, Plan};
use kinora_models::autoencoder::Autoencoder;
use kinora_models::autoencoder::temporal::{LossConfig, TemporalVae, TemporalVaeConfig};
use kinora_shapes::{ShapesConfig, make};
use kinora_shard::{Cx, Sharding};
use kinora_train::{
    AutoencoderReport, AutoencoderTraining, Decay, Decays, OptimConfig, checkpoints,
    read_autoencoder, train_autoencoder, write_autoencoder,
};
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn training() -> AutoencoderTraining {
    AutoencoderTraining {
        model: TemporalVaeConfig {
            base: 4,
            multipliers: vec![1, 2],
            blocks: 1,
            channels: 3,
            halves_frames: 1,
            halves_sides: 1,
            patch: 2,
            tile: 8,
            overlap: 4,
            mean: vec![],
            std: vec![],
        },
        loss: LossConfig {
            outliers: 0.1,
            radius: 1.0,
            ..LossConfig::default()
        },
        steps: 6,
        accumulate: 1,
        measured: 8,
        checkpoint_every: 3,
        keep: 2,
        optim: OptimConfig {
            lr: 1e-2,
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            weight_decay: 0.01,
            decays: Decays::Matrices,
            clip: 1.0,
            warmup: 2,
            decay: Decay { from: 0.5, to: 0.1 },
            ema: 0.9,
            ema_warmup: true,
        },
    }
}

/// Some clips and images, of sizes that are soon trained on.
fn catalog(folder: &Path) -> Arc<Catalog> {
    let shapes = ShapesConfig {
        videos: 12,
        images: 8,
        ..ShapesConfig::default()
    };
    make(&shapes, folder, |_, _| {}).unwrap();
    let toml = format!(
        "paths = {:?}\nimage_ratio = 0.25\nworkers = 0\n",
        folder.to_str().unwrap()
    );
    let mut config: DataConfig = toml::from_str(&toml).unwrap();
    config.buckets = vec![Bucket::new(6, 16, 16, 4), Bucket::new(1, 16, 16, 4)];
    Arc::new(Catalog::open(&config).unwrap())
}

/// The reports of all steps, and latents' statistics.
fn train(
    training: &AutoencoderTraining,
    catalog: &Arc<Catalog>,
    sharding: &Arc<Sharding>,
    dir: &Path,
) -> (Vec<AutoencoderReport>, TemporalVae) {
    let mut reports = vec![];
    let vae = train_autoencoder(
        training,
        5,
        (catalog, sharding),
        (&Device::flex(), DType::F64),
        dir,
        |report| reports.push(*report),
    );
    (reports, vae.unwrap_or_else(|error| panic!("{error}")))
}

fn near(got: &[AutoencoderReport], want: &[AutoencoderReport], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert_eq!(
            (got.step.step, got.images),
            (want.step.step, want.images),
            "{what}"
        );
        let numbers = |r: &AutoencoderReport| {
            [
                r.step.loss,
                r.step.norm,
                r.reconstruction,
                r.divergence,
                r.outliers,
            ]
        };
        for (a, b) in numbers(got).into_iter().zip(numbers(want)) {
            assert!((a / b - 1.0).abs() < 1e-9, "{what}: {got:?}, but {want:?}");
        }
    }
}

#[test]
fn steps_depend_neither_on_the_mesh_nor_on_micro_batches() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(&folder.path().join("data"));
    let single = folder.path().join("single");
    let (want, vae) = train(&training(), &catalog, &Sharding::single(), &single);
    let images = want.iter().filter(|report| report.images).count();
    assert!(images > 0 && images < want.len(), "both kinds are seen");
    assert!(want[5].step.loss < want[1].step.loss, "{want:?}");

    let micro = AutoencoderTraining {
        accumulate: 2,
        ..training()
    };
    let dir = folder.path().join("micro");
    near(
        &train(&micro, &catalog, &Sharding::single(), &dir).0,
        &want,
        "micro-batches",
    );

    use MeshAxis::{Cp, Fsdp, Replicate};
    let one = Mesh::default();
    let none = Plan::default();
    let batch = |axis| vec![axis];
    let layouts = [
        (
            "replicate",
            Mesh {
                replicate: 2,
                ..one
            },
            Plan {
                batch: batch(Replicate),
                ..none.clone()
            },
        ),
        (
            "fsdp",
            Mesh { fsdp: 2, ..one },
            Plan {
                batch: batch(Fsdp),
                params: vec![Fsdp],
                ..none.clone()
            },
        ),
        (
            "stripes",
            Mesh { cp: 2, ..one },
            Plan {
                seq: vec![Cp],
                ..none.clone()
            },
        ),
    ];
    for (name, mesh, plan) in layouts {
        let (catalog, dir) = (catalog.clone(), folder.path().join(name));
        let ranks = local::run(&Ranks::new(2, 1), move |transport| {
            let sharding = Sharding::new(transport, mesh, plan.clone()).expect("a plan that fits");
            let (reports, vae) = train(&training(), &catalog, &sharding, &dir);
            Ok::<_, CommError>((reports, vae.config().clone()))
        });
        for (reports, config) in ranks.unwrap_or_else(|error| panic!("{name}: {error}")) {
            near(&reports, &want, name);
            for (a, b) in config.std.iter().zip(&vae.config().std) {
                assert!((a / b - 1.0).abs() < 1e-9, "{name}: {config:?}");
            }
        }
    }
}

#[test]
fn what_is_resumed_and_written_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(&folder.path().join("data"));
    let dir = folder.path().join("run");
    let (want, vae) = train(&training(), &catalog, &Sharding::single(), &dir);
    let newest = || latest(&checkpoints(&dir)).unwrap().unwrap();
    fs::remove_dir_all(newest()).unwrap();
    let (rest, again) = train(&training(), &catalog, &Sharding::single(), &dir);
    assert_eq!(rest, want[3..]);
    assert_eq!(vae.config(), again.config());

    let written = folder.path().join("written");
    write_autoencoder(Checkpoint::open(&newest()).unwrap(), Dtype::F64, &written).unwrap();
    let cx = Cx::new(&Device::flex(), DType::F64, 0, &Sharding::single());
    let read = read_autoencoder(&written, &cx).unwrap();
    let video = Tensor::<5>::ones([1, 3, 5, 8, 8], (&Device::flex(), DType::F64)) * 0.3;
    assert_eq!(
        read.encode(video.clone()).into_data(),
        vae.encode(video).into_data()
    );
    // An unfinished training has no statistics to write.
    fs::remove_dir_all(newest()).unwrap();
    let other = folder.path().join("other");
    let error = write_autoencoder(Checkpoint::open(&newest()).unwrap(), Dtype::F64, &other);
    assert!(error.unwrap_err().to_string().contains("latents.mean"));
    let error = read_autoencoder(&other, &cx).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");

    let mut wider = training();
    wider.model.base = 5;
    let error = train_autoencoder(
        &wider,
        5,
        (&catalog, &Sharding::single()),
        (&Device::flex(), DType::F64),
        &dir,
        |_| {},
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("of another model"), "{error}");
}
