//! The registry of plans: every one must do what one rank does, with every model.

use crate::models::{Joint, WanNorms, text};
use burn::tensor::{DType, Device};
use kinora_comm::Transport;
use kinora_comm::local::{self, World};
use kinora_flow::{Schedule, Solver};
use kinora_generate::SampleConfig;
use kinora_mesh::{ContextAttention, Mesh, MeshAxis, Plan};
use kinora_models::bytes::BytesConfig;
use kinora_models::movie_gen::{MovieGenConfig, TextInput};
use kinora_models::{Denoiser, TextToVideo};
use kinora_shard::{Adapters, Cx, Precision, Recompute, Sharding};
use kinora_verify::{Case, Difference, Record, Tolerance, compare, record, train_config};
use std::sync::Arc;
use std::time::Duration;

/// One plan.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) mesh: Mesh,
    pub(crate) plan: Plan,
    pub(crate) recompute: Recompute,
}

impl Row {
    fn recompute(self, recompute: Recompute, name: &str) -> Self {
        Self {
            name: format!("{}, {name}", self.name),
            recompute,
            ..self
        }
    }

    fn plan(mut self, name: &str, change: impl FnOnce(&mut Plan)) -> Self {
        change(&mut self.plan);
        self.name = format!("{}, {name}", self.name);
        self
    }
}

/// A mesh of `[replicate, fsdp, cp, tp]` with the usual plan: sequence parallelism, and stored weights
/// cut over `fsdp`.
fn row([replicate, fsdp, cp, tp]: [usize; 4], attention: Option<ContextAttention>) -> Row {
    let mesh = Mesh {
        replicate,
        fsdp,
        cp,
        tp,
        ..Mesh::default()
    };
    let plan = Plan {
        batch: vec![MeshAxis::Replicate, MeshAxis::Fsdp],
        seq: vec![MeshAxis::Cp, MeshAxis::Tp],
        heads: vec![MeshAxis::Tp],
        hidden: vec![MeshAxis::Tp],
        params: vec![MeshAxis::Fsdp],
        attention,
    };
    let how = attention.map_or(String::new(), |attention| format!(" ({attention})"));
    Row {
        name: format!("{mesh}{how}"),
        mesh,
        plan,
        recompute: Recompute::None,
    }
}

/// All plans; the first is one rank, with which the others are compared.
pub(crate) fn registry() -> Vec<Row> {
    const RING: Option<ContextAttention> = Some(ContextAttention::RING);
    const ULYSSES: Option<ContextAttention> = Some(ContextAttention::ULYSSES);
    const GATHER: Option<ContextAttention> = Some(ContextAttention::Gather);
    let hybrid = |ulysses, ring| Some(ContextAttention::hybrid(ulysses, ring));
    let whole_tokens = |row: Row| row.plan("tokens whole over tp", |p| p.seq = vec![MeshAxis::Cp]);
    // The two passes of guidance on two ranks, which train alike.
    let guided = |mut row: Row| {
        row.mesh.cfg = 2;
        row.name = format!("{}, cfg 2", row.name);
        row
    };
    let params_over_cp = |row: Row| {
        row.plan("params over fsdp and cp", |p| {
            p.params = vec![MeshAxis::Fsdp, MeshAxis::Cp];
        })
    };
    let mut rows = vec![row([1, 1, 1, 1], None)];
    for n in [2, 3, 4] {
        rows.push(row([n, 1, 1, 1], None));
        rows.push(row([1, n, 1, 1], None));
        rows.push(row([1, 1, 1, n], None));
        rows.push(whole_tokens(row([1, 1, 1, n], None)));
        for attention in [RING, ULYSSES, GATHER] {
            rows.push(row([1, 1, n, 1], attention));
        }
    }
    rows.extend([
        row([1, 1, 1, 2], None).plan("heads only", |p| {
            p.hidden = vec![];
            p.seq = vec![];
        }),
        row([1, 1, 1, 2], None).plan("hidden only", |p| {
            p.heads = vec![];
            p.seq = vec![];
        }),
        row([1, 1, 4, 1], hybrid(2, 2)),
        row([1, 1, 6, 1], hybrid(2, 3)),
        row([1, 1, 6, 1], hybrid(3, 2)),
        params_over_cp(row([1, 1, 2, 1], RING)),
        row([1, 1, 1, 1], None).recompute(Recompute::All, "recomputed"),
        row([1, 1, 1, 2], None).recompute(Recompute::First(1), "first block recomputed"),
        row([1, 1, 2, 1], RING).recompute(Recompute::All, "recomputed"),
        row([2, 2, 1, 1], None),
        row([2, 1, 2, 1], RING),
        row([2, 1, 1, 2], None),
        params_over_cp(row([1, 2, 2, 1], ULYSSES)),
        row([1, 2, 1, 2], None),
        row([1, 1, 2, 2], RING),
        whole_tokens(row([1, 1, 2, 2], GATHER)),
        row([1, 1, 3, 2], ULYSSES),
        row([1, 1, 2, 3], GATHER),
        row([2, 2, 1, 2], None),
        row([2, 1, 2, 2], ULYSSES),
        params_over_cp(row([1, 2, 2, 2], RING)),
        params_over_cp(row([2, 2, 2, 1], GATHER)),
        row([1, 1, 4, 2], hybrid(2, 2)).recompute(Recompute::All, "recomputed"),
        params_over_cp(row([2, 2, 2, 2], RING)),
        guided(row([1, 1, 1, 1], None)),
        guided(row([1, 1, 2, 2], ULYSSES)),
        guided(params_over_cp(row([1, 2, 2, 1], GATHER))),
        row([2, 2, 2, 2], ULYSSES).plan("params over all copies", |p| {
            p.params = vec![MeshAxis::Replicate, MeshAxis::Fsdp, MeshAxis::Cp];
        }),
    ]);
    rows
}

/// Twelve samples, which two, three and four data groups can share; latents of an odd number of tokens
/// and of an even one.
pub(crate) fn case<M>(
    precision: impl Into<Precision>,
    build: impl Fn(&Cx) -> M + Send + Sync + 'static,
) -> Case<M> {
    Case {
        config: train_config(),
        precision: precision.into(),
        device: Device::flex(),
        global: 12,
        latents: vec![[3, 5, 7, 3], [3, 4, 4, 2]],
        steps: 5,
        sample: Some(SampleConfig {
            schedule: Schedule::Linear { steps: 2 },
            solver: Solver::default(),
            guidance: 3.0,
            negative: String::new(),
            overlap: 1,
        }),
        build: Arc::new(build),
    }
}

pub(crate) fn movie_gen() -> MovieGenConfig {
    MovieGenConfig {
        layers: 2,
        dim: 48,
        ffn: 37,
        heads: 12,
        channels: 3,
        patch: [1, 1, 1],
        max_latent: [5, 7, 3],
        position_scale: 1.0,
        texts: vec![TextInput {
            name: "bytes".into(),
            width: text().width,
        }],
    }
}

fn run<M: Denoiser>(row: &Row, case: &Case<M>) -> Vec<Record> {
    run_on(row, case, |transport| transport)
}

/// What every rank of a row computes of a case, over transports wrapped by `wrap`.
pub(crate) fn run_on<M: Denoiser>(
    row: &Row,
    case: &Case<M>,
    wrap: impl Fn(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + Sync + 'static,
) -> Vec<Record> {
    let world = World {
        deadline: Duration::from_secs(120),
        ..World::new(row.mesh.ranks(), 1)
    };
    let (mesh, plan, mut case) = (row.mesh, row.plan.clone(), case.clone());
    case.config.recompute = row.recompute;
    // An entry that has no effect on a mesh of this size is left out.
    let attention = plan.attention.filter(|_| mesh.cp > 1);
    let plan = Plan { attention, ..plan };
    local::run(&world, move |transport| {
        record(&case, &Sharding::new(wrap(transport), mesh, plan.clone())?)
    })
    .unwrap_or_else(|error| panic!("{}: {error}", row.name))
}

/// What a row gets wrong, worst first.
fn wrong<M: Denoiser>(
    row: &Row,
    case: &Case<M>,
    whole: &Record,
    tolerance: Tolerance,
) -> Vec<Difference> {
    let ranks = run(row, case);
    let all = ranks
        .iter()
        .enumerate()
        .flat_map(|(rank, got)| compare(whole, rank, got, tolerance));
    let mut wrong: Vec<Difference> = all.filter(|d| d.exceeds(tolerance)).collect();
    wrong.sort_by(|a, b| b.rms.total_cmp(&a.rms));
    for (rank, got) in ranks.iter().enumerate() {
        for (other, peer) in ranks.iter().enumerate() {
            let same = got.batches == peer.batches;
            assert_eq!(
                same,
                got.share == peer.share,
                "{}: samples of ranks {rank} and {other}",
                row.name
            );
            assert_eq!(got.steps, peer.steps, "{}: ranks {rank}, {other}", row.name);
        }
    }
    wrong
}

/// `unheard` are the parameters that no output depends on.
fn all_rows<M: Denoiser>(case: &Case<M>, tolerance: Tolerance, unheard: &[&str]) {
    let rows = registry();
    let whole = run(&rows[0], case).remove(0);
    for pass in &whole.passes {
        for (spec, gradient) in &pass.gradients {
            let silent = gradient.iter().all(|&x| x == 0.0);
            let expected = unheard.iter().any(|path| spec.path.starts_with(path));
            assert_eq!(silent, expected, "{} has no gradient", spec.path);
        }
    }
    let losses: Vec<f64> = whole.steps.iter().map(|[loss, _]| *loss).collect();
    let clipped = whole
        .steps
        .iter()
        .all(|[_, norm]| *norm > case.config.optim.clip);
    assert!(clipped, "clipping has no part in it: {:?}", whole.steps);
    assert!(losses[4] < losses[0], "nothing is learned: {losses:?}");
    for row in &rows[1..] {
        let wrong = wrong(row, case, &whole, tolerance);
        let lines: Vec<String> = wrong.iter().take(5).map(ToString::to_string).collect();
        assert!(wrong.is_empty(), "{}:\n{}", row.name, lines.join("\n"));
    }
}

fn movie_gen_case(dtype: DType) -> Case<TextToVideo> {
    case(dtype, |cx| {
        TextToVideo::new(cx, &movie_gen().into(), Some(&text()))
    })
}

/// Layers so narrow that stored weights are cut on one rank of tp, and could be whole on the other.
#[test]
fn uneven_boxes_are_stored_alike_on_all_ranks() {
    let case = case(DType::F64, |cx| {
        let narrow = MovieGenConfig {
            dim: 4,
            heads: 2,
            ffn: 9,
            texts: vec![TextInput {
                name: "bytes".into(),
                width: 4,
            }],
            ..movie_gen()
        };
        let text = BytesConfig {
            width: 4,
            heads: 2,
            ffn: 9,
            ..text()
        };
        TextToVideo::new(cx, &narrow.into(), Some(&text))
    });
    let case = Case { global: 10, ..case };
    let whole = run(&registry()[0], &case).remove(0);
    let wrong = wrong(&row([1, 5, 1, 2], None), &case, &whole, Tolerance::F64);
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn movie_gen_is_that_of_one_rank_in_f64() {
    all_rows(&movie_gen_case(DType::F64), Tolerance::F64, &[]);
}

#[test]
fn movie_gen_is_that_of_one_rank_in_f32() {
    all_rows(&movie_gen_case(DType::F32), Tolerance::F32, &[]);
}

/// Every linear layer has an adapter, and nothing else is trained.
fn adapters_case(dtype: DType) -> Case<TextToVideo> {
    case(dtype, move |cx| {
        let adapters = Adapters {
            rank: 3,
            alpha: 6.0,
            targets: vec!["video".into()],
            within: "video",
            frozen: dtype,
        };
        TextToVideo::new(
            &cx.clone().adapting(adapters),
            &movie_gen().into(),
            Some(&text()),
        )
    })
}

#[test]
fn adapters_are_those_of_one_rank_in_f64() {
    all_rows(&adapters_case(DType::F64), Tolerance::F64, &[]);
}

#[test]
fn norms_across_heads_are_those_of_one_rank_in_f64() {
    all_rows(&case(DType::F64, WanNorms::new), Tolerance::F64, &[]);
}

#[test]
fn norms_across_heads_are_those_of_one_rank_in_f32() {
    all_rows(&case(DType::F32, WanNorms::new), Tolerance::F32, &[]);
}

/// The text's last state is read by nobody.
const LAST_TEXT: [&str; 4] = [
    "blocks.1.attn.text.query",
    "blocks.1.attn.text.out",
    "blocks.1.text_norm2",
    "blocks.1.text_mlp",
];

#[test]
fn joint_attention_is_that_of_one_rank_in_f64() {
    all_rows(&case(DType::F64, Joint::new), Tolerance::F64, &LAST_TEXT);
}

#[test]
fn joint_attention_is_that_of_one_rank_in_f32() {
    all_rows(&case(DType::F32, Joint::new), Tolerance::F32, &LAST_TEXT);
}
