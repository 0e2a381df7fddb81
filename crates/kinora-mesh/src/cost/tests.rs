use super::*;
use crate::{ContextAttention, Mesh, MeshAxis, Plan};
use std::time::Instant;

pub(super) fn arrangement(mesh: Mesh, attention: ContextAttention) -> Arrangement {
    use MeshAxis::{Cp, Fsdp, Replicate, Tp};
    Arrangement {
        mesh,
        plan: Plan {
            batch: vec![Replicate, Fsdp],
            seq: vec![Cp, Tp],
            heads: vec![Tp],
            hidden: vec![Tp],
            params: vec![Fsdp],
            attention: Some(attention).filter(|_| mesh.cp > 1),
        },
    }
}

pub(super) fn training(tokens: usize, samples: usize) -> Training {
    Training {
        samples,
        batch: 1,
        tokens,
        recompute: Recompute::All,
        dtypes: Dtypes::default(),
        ema: true,
        habits: Habits::default(),
    }
}

// Kinora computes blocks whose weights are cut again, whatever is asked.
const KEPT: Habits = Habits {
    cut_kept: true,
    residual_f32: false,
    qk_f32: false,
    rope_f64: false,
    eager: false,
    outer_kept: false,
    ampere_attention: false,
    conv_copies: false,
    no_overlap: false,
};

fn on(hardware: &str, job: &Job, arrangement: &Arrangement) -> Estimate {
    let hardware = Hardware::named(hardware).unwrap();
    estimate(&Anatomy::movie_gen_30b(), job, &hardware, arrangement, 0).unwrap()
}

/// Its published plan: tp 4, cp 2, sequence parallelism and FSDP on 80 GB.
#[test]
fn movie_gen_30b_fits_by_its_own_plan_and_by_no_smaller_one() {
    let job = Job::Training(training(73_728, 1536));
    let mesh = |fsdp, cp, tp| Mesh {
        fsdp,
        cp,
        tp,
        ..Mesh::default()
    };
    for context in [ContextAttention::Gather, ContextAttention::RING] {
        let own = on("h100-sxm", &job, &arrangement(mesh(768, 2, 4), context));
        assert!(
            own.fits,
            "{} of {}",
            own.memory.peak().total(),
            own.capacity
        );
    }
    let alone = on(
        "h100-sxm",
        &job,
        &arrangement(mesh(2, 1, 4), ContextAttention::Gather),
    );
    assert!(!alone.fits);
    let kept = Job::Training(Training {
        recompute: Recompute::None,
        habits: KEPT,
        ..training(73_728, 1536)
    });
    let kept = on(
        "h100-sxm",
        &kept,
        &arrangement(mesh(768, 2, 4), ContextAttention::Gather),
    );
    assert!(!kept.fits, "all activations of 48 blocks do not fit");
}

/// Every operation is done once, whoever does it. Without text: its keys and values are computed on
/// every rank of `cp`, and its projection on every rank.
#[test]
fn ranks_together_do_the_work_of_one() {
    let anatomy = Anatomy {
        text_tokens: 0,
        ..Anatomy::movie_gen_5b()
    };
    let job = Job::Training(Training {
        recompute: Recompute::None,
        habits: KEPT,
        ..training(4_099, 4)
    });
    let hardware = Hardware::named("h100-sxm").unwrap();
    let flops = |mesh: Mesh, context| -> f64 {
        let plan = arrangement(mesh, context);
        (0..mesh.ranks())
            .map(|rank| {
                estimate(&anatomy, &job, &hardware, &plan, rank)
                    .unwrap()
                    .rank_flops
            })
            .sum()
    };
    let one = flops(Mesh::default(), ContextAttention::RING);
    for (mesh, context) in [
        (
            Mesh {
                fsdp: 4,
                ..Mesh::default()
            },
            ContextAttention::RING,
        ),
        (
            Mesh {
                tp: 4,
                ..Mesh::default()
            },
            ContextAttention::RING,
        ),
        (
            Mesh {
                cp: 3,
                tp: 2,
                ..Mesh::default()
            },
            ContextAttention::Gather,
        ),
        (
            Mesh {
                cp: 4,
                ..Mesh::default()
            },
            ContextAttention::ULYSSES,
        ),
    ] {
        let many = flops(mesh, context);
        assert!((many / one - 1.0).abs() < 1e-9, "{mesh}: {many} {one}");
    }
}

#[test]
fn cut_parameters_are_stored_once_in_all() {
    let anatomy = Anatomy::wan_2_1_14b();
    let job = Job::Training(Training {
        ema: false,
        ..training(1_000, 12)
    });
    let hardware = Hardware::named("h100-sxm").unwrap();
    let plan = arrangement(
        Mesh {
            fsdp: 6,
            ..Mesh::default()
        },
        ContextAttention::RING,
    );
    let stored: usize = (0..6)
        .map(|rank| {
            let estimate = estimate(&anatomy, &job, &hardware, &plan, rank).unwrap();
            estimate.memory.peak().of(Use::Weights)
        })
        .sum();
    assert_eq!(stored, 4 * anatomy.elements());
}

#[test]
fn what_does_not_divide_is_refused_with_the_numbers() {
    let hardware = Hardware::named("h100-sxm").unwrap();
    let anatomy = Anatomy::wan_2_1_14b();
    let refuse = |job: Job, plan: Arrangement| {
        estimate(&anatomy, &job, &hardware, &plan, 0)
            .unwrap_err()
            .to_string()
    };
    let three = arrangement(
        Mesh {
            tp: 3,
            ..Mesh::default()
        },
        ContextAttention::RING,
    );
    let text = refuse(Job::Training(training(1_000, 1)), three);
    assert!(
        text.starts_with("query heads: 40 heads cannot be cut evenly over 3 ranks (tp)"),
        "{text}"
    );
    let sixteen = arrangement(
        Mesh {
            cp: 16,
            ..Mesh::default()
        },
        ContextAttention::ULYSSES,
    );
    let text = refuse(Job::Training(training(1_000, 1)), sixteen);
    assert!(
        text.starts_with("query heads: 40 heads cannot be shared by tp 1 x ulysses 16"),
        "{text}"
    );
    let four = arrangement(
        Mesh {
            fsdp: 4,
            ..Mesh::default()
        },
        ContextAttention::RING,
    );
    let text = refuse(Job::Training(training(1_000, 6)), four);
    assert!(
        text.starts_with("samples: 6 cannot be cut over 4"),
        "{text}"
    );
}

#[test]
fn no_more_is_recomputed_than_memory_asks() {
    let job = |recompute| {
        Job::Training(Training {
            recompute,
            habits: KEPT,
            ..training(73_728, 1536)
        })
    };
    let mesh = Mesh {
        fsdp: 768,
        cp: 2,
        tp: 4,
        ..Mesh::default()
    };
    let plan = arrangement(mesh, ContextAttention::Gather);
    let least = on("h100-sxm", &job(Recompute::Least), &plan);
    assert!(least.fits && least.recomputed > 0, "{}", least.recomputed);
    let fewer = Recompute::Blocks(least.recomputed - 1);
    assert!(!on("h100-sxm", &job(fewer), &plan).fits);
    let roomy = on("gb200", &job(Recompute::Least), &plan);
    assert!(roomy.recomputed < least.recomputed);
}

#[test]
fn a_search_of_6144_devices_takes_less_than_a_second() {
    let anatomy = Anatomy::movie_gen_30b();
    let hardware = Hardware::named("h100-sxm").unwrap();
    let job = Job::Training(Training {
        recompute: Recompute::Least,
        ..training(73_728, 1536)
    });
    let start = Instant::now();
    let found = search(&anatomy, &job, &hardware, 6144);
    let took = start.elapsed();
    eprintln!("{} arrangements in {took:?}", found.len());
    assert!(took.as_secs_f64() < 1.0, "{took:?}");
    assert!(
        found
            .windows(2)
            .all(|two| two[0].1.total_seconds <= two[1].1.total_seconds)
    );
    assert!(found.iter().all(|(_, estimate)| estimate.fits));
    assert!(found.iter().all(|(a, _)| a.mesh.ranks() == 6144));
    let of = |context| found.iter().any(|(a, _)| a.plan.attention == Some(context));
    assert!(
        of(ContextAttention::RING) && of(ContextAttention::Gather) && of(ContextAttention::ULYSSES)
    );
}

/// Slower links and slower kernels never make a step faster.
#[test]
fn time_follows_the_rates() {
    let job = Job::Training(training(73_728, 768));
    let plan = arrangement(
        Mesh {
            fsdp: 96,
            cp: 2,
            tp: 4,
            ..Mesh::default()
        },
        ContextAttention::RING,
    );
    let fast = Hardware::named("h100-sxm").unwrap();
    let anatomy = Anatomy::movie_gen_30b();
    let seconds = |hardware: &Hardware| {
        estimate(&anatomy, &job, hardware, &plan, 0)
            .unwrap()
            .step_seconds
    };
    let whole = seconds(&fast);
    for slow in [
        Hardware {
            inter_gbs: fast.inter_gbs / 50.0,
            ..fast.clone()
        },
        Hardware {
            intra_gbs: fast.intra_gbs / 2.0,
            ..fast.clone()
        },
        Hardware {
            memory_gbs: fast.memory_gbs / 2.0,
            ..fast.clone()
        },
        Hardware {
            bf16_tflops: fast.bf16_tflops / 2.0,
            ..fast.clone()
        },
        Hardware {
            intra_latency_us: fast.intra_latency_us * 10.0,
            ..fast.clone()
        },
    ] {
        assert!(seconds(&slow) > whole * 1.001, "{slow:?}");
    }
}

/// Wan's own way to generate on eight devices is found, and guidance over ranks is another job.
#[test]
fn a_search_for_generation_uses_every_device_on_one_sample() {
    let anatomy = Anatomy::wan_2_1_14b();
    let hardware = Hardware::named("h100-sxm").unwrap();
    let job = |guidance| {
        Job::Generation(Generation {
            batch: 1,
            tokens: 75_600,
            steps: 50,
            guidance,
            transformer: Residence::Resident,
            text_encoder: Some(TextEncoder::umt5_xxl(Residence::Sharded)),
            decode: None,
            dtypes: Dtypes {
                master: Dtype::Bf16,
                ..Dtypes::default()
            },
            habits: Habits::default(),
        })
    };
    let found = search(&anatomy, &job(Guidance::TwoPasses), &hardware, 8);
    let eight =
        |a: &Arrangement| a.mesh.cp == 8 && a.plan.attention == Some(ContextAttention::ULYSSES);
    assert!(found.iter().any(|(a, _)| eight(a)));
    assert!(found.iter().all(|(a, _)| a.mesh.cp * a.mesh.tp == 8));
    let halves = search(&anatomy, &job(Guidance::CfgAxis), &hardware, 8);
    assert!(!halves.is_empty());
    assert!(
        halves
            .iter()
            .all(|(a, _)| a.mesh.cfg == 2 && a.mesh.cp * a.mesh.tp == 4)
    );
    // Half the ranks on each pass have fewer messages among them than all ranks on both.
    assert!(halves[0].1.exposed < found[0].1.exposed);
}
