//! What the cost model says that a rank sends is what it sends: calls, bytes passed in and bytes of the
//! usual algorithms, of every kind of collective, on every rank of every plan of the registry.

use crate::models::{WanNorms, text};
use crate::parallel::{Row, case, movie_gen, registry};
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_comm::local::{self, World};
use kinora_comm::{Traced, Traffic, Transport};
use kinora_flow::{Schedule, Solver};
use kinora_generate::{Asked, SampleConfig, Sampler};
use kinora_mesh::cost::{
    Anatomy, Arrangement, BytesSizes, Dtype, Dtypes, Estimate, Generation, Guidance, Habits,
    Hardware, Job, MovieGenSizes, Norms, Outside, QkNorm, Recompute, Residence, Training, Use,
    estimate,
};
use kinora_mesh::{ContextAttention, Mesh, MeshAxis, Plan};
use kinora_models::{Denoiser, TextToVideo};
use kinora_shard::{Cx, ParamSpec, Precision, Sharding};
use kinora_train::{LatentBatch, TrainError, Trainer};
use kinora_verify::Case;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const SEED: u64 = 7;

type Counts = BTreeMap<String, [u64; 3]>;

/// What one rank did in its steps, one for each latent shape.
struct Counted {
    steps: Vec<Counts>,
    specs: Vec<ParamSpec>,
}

fn world(mesh: &Mesh) -> World {
    World {
        deadline: Duration::from_secs(120),
        ..World::new(mesh.ranks(), 1)
    }
}

/// What has been counted since `before`.
fn since(before: &BTreeMap<&'static str, Traffic>, traced: &Traced) -> Counts {
    let now = traced.traffic().into_iter().map(|(kind, now)| {
        let before = before.get(kind).copied().unwrap_or_default();
        let more = [
            now.calls - before.calls,
            now.payload - before.payload,
            now.ring - before.ring,
        ];
        (kind.to_string(), more)
    });
    now.filter(|(_, [calls, ..])| *calls > 0).collect()
}

/// What the model says of a step whose batch is already on every rank.
fn said(estimate: &Estimate) -> Counts {
    let mut all = Counts::new();
    for row in estimate.traffic.iter().filter(|row| row.what != "latents") {
        let sum = all.entry(row.collective.to_string()).or_default();
        for (sum, more) in sum.iter_mut().zip([row.calls, row.payload, row.ring]) {
            *sum += more;
        }
    }
    all
}

/// Words of the captions of a data group: they differ from group to group.
fn words(group: usize) -> usize {
    group + 2
}

fn batch(step: u64, shape: [usize; 4], (group, of): (usize, usize), global: usize) -> LatentBatch {
    let each = global / of;
    let [c, t, h, w] = shape;
    let data: Vec<f32> = (0..each * c * t * h * w).map(|i| (i % 7) as f32).collect();
    LatentBatch {
        step,
        global,
        first: (group * each) as u64,
        latents: Tensor::from_data(TensorData::new(data, [each, c, t, h, w]), &Device::flex()),
        captions: vec!["word ".repeat(words(group)); each],
        image: t == 1,
        epoch: 0,
        skipped: 0,
    }
}

/// One training step of each latent shape, on every rank of a row.
fn train<M: Denoiser>(row: &Row, case: &Case<M>) -> Vec<Counted> {
    let (mesh, plan, case) = (row.mesh, row.plan.clone(), case.clone());
    let counted = local::run(&world(&mesh), move |transport| {
        let traced = Traced::new(transport);
        let ranks: Arc<dyn Transport> = Arc::new(traced.clone());
        let sharding = Sharding::new(ranks, mesh, plan.clone())?;
        let build = |cx: &Cx| (case.build)(cx);
        let device = (&case.device, case.precision);
        let mut trainer = Trainer::new(&case.config, SEED, device, &sharding, build);
        let mut steps = vec![];
        for (step, &shape) in case.latents.iter().enumerate() {
            let batch = batch(step as u64, shape, sharding.share(), case.global);
            let before = traced.traffic();
            trainer.train(&batch)?;
            steps.push(since(&before, &traced));
        }
        let specs = trainer.table().specs().to_vec();
        Ok::<_, TrainError>(Counted { steps, specs })
    });
    counted.unwrap_or_else(|error| panic!("{}: {error}", row.name))
}

fn dtypes(precision: Precision) -> Dtypes {
    let of = |dtype| match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::BF16 => Dtype::Bf16,
        other => panic!("no run computes in {other:?}"),
    };
    Dtypes {
        master: of(precision.stored),
        compute: of(precision.computed),
        gather: of(precision.computed),
        reduce: of(precision.stored),
    }
}

fn movie_gen_anatomy(text_tokens: usize) -> Anatomy {
    let (config, text) = (movie_gen(), text());
    Anatomy::movie_gen(&MovieGenSizes {
        name: "tiny".into(),
        layers: config.layers,
        width: config.dim,
        ffn: config.ffn,
        heads: config.heads,
        token: config.patch_len(),
        grid: config.grid(config.max_latent),
        texts: config
            .texts
            .into_iter()
            .map(|text| (text.name, text.width))
            .collect(),
        text_tokens,
        bytes: Some(BytesSizes {
            width: text.width,
            layers: text.layers,
            heads: text.heads,
            ffn: text.ffn,
            windows: text.windows,
            max_words: text.max_words,
        }),
    })
}

/// The model with norms across heads: no positions, other norms, and one linear for the text.
fn wan_anatomy(text_tokens: usize) -> Anatomy {
    let mut anatomy = Anatomy {
        qk_norm: QkNorm::AcrossHeads,
        norms: Norms::Affine,
        ..movie_gen_anatomy(text_tokens)
    };
    anatomy.outside.retain(|outside| {
        let positions = outside.name.starts_with("positions.");
        let text_norm = outside.text && outside.name.contains(".norm.");
        !positions && !text_norm
    });
    anatomy.outside.push(Outside {
        name: "project.bias".into(),
        shape: vec![anatomy.width],
        text: true,
    });
    anatomy
}

/// The shapes of all parameters, in order of size.
fn shapes(anatomy: &Anatomy) -> Vec<Vec<usize>> {
    let stacks = [Some(anatomy), anatomy.encoder.as_deref()];
    let mut shapes: Vec<Vec<usize>> = vec![];
    for anatomy in stacks.into_iter().flatten() {
        let block = anatomy.block();
        for _ in 0..anatomy.layers {
            shapes.extend(block.iter().map(|weight| weight.shape()));
        }
        shapes.extend(anatomy.outer().iter().map(|weight| weight.shape()));
    }
    shapes.sort();
    shapes
}

/// Holds what the model says of a row's training against what its ranks sent.
fn compare<M: Denoiser>(row: &Row, case: &Case<M>, anatomy: fn(usize) -> Anatomy) {
    let attention = row.plan.attention.filter(|_| row.mesh.cp > 1);
    let row = Row {
        plan: Plan {
            attention,
            ..row.plan.clone()
        },
        ..row.clone()
    };
    let mut case = case.clone();
    case.config.caption_dropout = 0.0;
    case.config.recompute = row.recompute;
    let arrangement = Arrangement {
        mesh: row.mesh,
        plan: row.plan.clone(),
    };
    let hardware = Hardware::named("cpu").unwrap();
    let groups = arrangement.span(kinora_mesh::Axis::Batch);
    for (rank, counted) in train(&row, &case).into_iter().enumerate() {
        let group = row.mesh.index(rank, &row.plan.batch);
        // The mark that opens a text is a token too.
        let anatomy = anatomy(words(group) + 1);
        let mut built: Vec<Vec<usize>> = counted
            .specs
            .iter()
            .map(|spec| spec.layout.shape.clone())
            .collect();
        built.sort();
        assert_eq!(shapes(&anatomy), built, "the anatomy is another model's");
        for (&[_, t, h, w], counts) in case.latents.iter().zip(&counted.steps) {
            let job = Job::Training(Training {
                samples: case.global,
                batch: case.global / groups / case.config.accumulate,
                tokens: t * h * w,
                recompute: match row.recompute {
                    kinora_shard::Recompute::None => Recompute::None,
                    kinora_shard::Recompute::All => Recompute::All,
                    kinora_shard::Recompute::First(count) => Recompute::Blocks(count),
                },
                dtypes: dtypes(case.precision),
                ema: true,
                habits: Habits::default(),
            });
            let estimate = estimate(&anatomy, &job, &hardware, &arrangement, rank)
                .unwrap_or_else(|error| panic!("{}: {error}", row.name));
            let silent = counts.is_empty();
            // Ranks along cfg train alike.
            let alone = row.mesh.ranks() == row.mesh.cfg;
            assert_eq!(silent, alone, "{}: nothing sent", row.name);
            assert_eq!(
                said(&estimate),
                *counts,
                "{}: said and sent by rank {rank} for {t}x{h}x{w}",
                row.name
            );
            let stored: usize = counted.specs.iter().map(ParamSpec::local_len).sum();
            assert_eq!(
                estimate.memory.peak().of(Use::Weights),
                stored * dtypes(case.precision).master.size(),
                "{}: bytes of rank {rank}'s weights",
                row.name
            );
        }
    }
}

fn movie_gen_case(precision: impl Into<Precision>) -> Case<TextToVideo> {
    case(precision, |cx| {
        TextToVideo::new(cx, &movie_gen().into(), Some(&text()))
    })
}

#[test]
fn movie_gen_sends_what_the_model_says() {
    for row in registry() {
        compare(&row, &movie_gen_case(DType::F32), movie_gen_anatomy);
    }
}

#[test]
fn norms_across_heads_send_what_the_model_says() {
    for row in registry() {
        compare(&row, &case(DType::F32, WanNorms::new), wan_anatomy);
    }
}

/// Rows of each kind of message, in the other precisions.
#[test]
fn numbers_of_every_width_are_counted() {
    let names = [
        "fsdp 2 x cp 2 x tp 2 (ring), params over fsdp and cp",
        "cp 3 x tp 2 (ulysses)",
        "replicate 2 x fsdp 2 x cp 2 (gather), params over fsdp and cp",
    ];
    for name in names {
        let rows = registry();
        let row = rows.iter().find(|row| row.name == name);
        let row = row.unwrap_or_else(|| panic!("{name} is no row of the registry"));
        for precision in [Precision::MIXED, DType::F64.into()] {
            compare(row, &movie_gen_case(precision), movie_gen_anatomy);
        }
        compare(row, &case(DType::F64, WanNorms::new), wan_anatomy);
    }
}

#[test]
fn micro_batches_send_what_the_model_says() {
    let mut case = movie_gen_case(DType::F32);
    case.config.accumulate = 3;
    for row in registry().iter().filter(|row| row.mesh.ranks() == 8) {
        compare(row, &case, movie_gen_anatomy);
    }
}

/// One step of the sampler, with guidance over two ranks or in one pass of twice the batch.
#[test]
fn sampling_sends_what_the_model_says() {
    let mesh = |cfg, cp, tp| Mesh {
        cfg,
        cp,
        tp,
        ..Mesh::default()
    };
    let rows = [
        (mesh(2, 1, 1), None, vec![]),
        (mesh(1, 2, 1), Some(ContextAttention::RING), vec![]),
        (
            mesh(2, 2, 2),
            Some(ContextAttention::ULYSSES),
            vec![MeshAxis::Cp],
        ),
        (
            mesh(1, 3, 2),
            Some(ContextAttention::Gather),
            vec![MeshAxis::Cp],
        ),
    ];
    for (mesh, attention, params) in rows {
        let plan = Plan {
            batch: vec![],
            seq: vec![MeshAxis::Cp, MeshAxis::Tp],
            heads: vec![MeshAxis::Tp],
            hidden: vec![MeshAxis::Tp],
            params,
            attention,
        };
        let (shape, prompts) = (
            [3, 5, 7, 3],
            ["a red circle".to_string(), "one".to_string()],
        );
        let asked = (plan.clone(), prompts.clone());
        let counted = local::run(&world(&mesh), move |transport| {
            let (plan, prompts) = asked.clone();
            let traced = Traced::new(transport);
            let ranks: Arc<dyn Transport> = Arc::new(traced.clone());
            let sharding = Sharding::new(ranks, mesh, plan)?;
            let device = Device::flex();
            let cx = Cx::new(&device, DType::F32, SEED, &sharding);
            let sampler = Sampler {
                model: &TextToVideo::new(&cx, &movie_gen().into(), Some(&text())),
                config: &SampleConfig {
                    schedule: Schedule::Linear { steps: 1 },
                    solver: Solver::default(),
                    guidance: 3.0,
                    negative: String::new(),
                    overlap: 1,
                },
                device: &device,
                dtype: DType::F32,
                cfg: sharding.group(&[MeshAxis::Cfg]),
            };
            let before = traced.traffic();
            sampler.sample(&Asked::new(&prompts, "", None), shape, (0, 0), |_| {});
            Ok::<_, TrainError>(since(&before, &traced))
        });
        let counted = counted.unwrap_or_else(|error| panic!("{mesh}: {error}"));
        for (rank, counts) in counted.into_iter().enumerate() {
            let over_ranks = mesh.cfg == 2;
            let without = over_ranks && mesh.coordinate(rank, MeshAxis::Cfg) == 1;
            let text_tokens = if without { 1 } else { 4 };
            let job = Job::Generation(Generation {
                batch: prompts.len(),
                tokens: 5 * 7 * 3,
                steps: 1,
                guidance: if over_ranks {
                    Guidance::CfgAxis
                } else {
                    Guidance::Batched
                },
                transformer: Residence::Resident,
                text_encoder: None,
                decode: None,
                dtypes: dtypes(DType::F32.into()),
                habits: Habits::default(),
            });
            let (anatomy, plan) = (movie_gen_anatomy(text_tokens), plan.clone());
            let hardware = Hardware::named("cpu").unwrap();
            let arrangement = Arrangement { mesh, plan };
            let estimate = estimate(&anatomy, &job, &hardware, &arrangement, rank)
                .unwrap_or_else(|error| panic!("{mesh}: {error}"));
            assert_eq!(
                said(&estimate),
                counts,
                "{mesh}: said and sent by rank {rank}"
            );
        }
    }
}
