//! The cost model beside figures that others published, as Markdown.
//!
//! ```text
//! cargo run --release -p kinora-mesh --example published
//! ```
//!
//! Each program's habits are counted by name (see `Habits`), and each habit's share is shown by
//! leaving it out; no row has a factor of its own. Sources: Wan 2.1's README (times and peak memory;
//! its "GB" are taken as GiB), NVIDIA DFM's performance summary, and Open-Sora 2.0's estimate for
//! Movie Gen.

mod rows;

use kinora_mesh::cost::{
    Anatomy, Arrangement, Convention, Dtype, Dtypes, Estimate, Habits, Job, Recompute, Training,
    Use, estimate,
};
use kinora_mesh::{ContextAttention, Mesh, MeshAxis, Plan};
use rows::{GIB, dfm_table, hardware, peak, wan_table};

fn off(model: f64, published: f64) -> String {
    format!("{:+.1} %", 100.0 * (model / published - 1.0))
}

fn print_wan() {
    println!("## Wan 2.1, its own code\n");
    println!(
        "| device | model | GPUs | GiB | published | off | fullest | s | published | off | off if no message is hidden |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in wan_table() {
        for (gpus, (seconds, gib)) in [1, 2, 4, 8].into_iter().zip(row.published) {
            let estimate = row.estimate(gpus, Habits::wan(), Dtype::F32);
            // The 4090's single row ran the text encoder on the host.
            let (peak, phase) = peak(&estimate, row.device == "rtx-4090" && gpus == 1);
            let time = estimate.total_seconds;
            let waiting = Habits {
                no_overlap: true,
                ..Habits::wan()
            };
            let waiting = row.estimate(gpus, waiting, Dtype::F32);
            println!(
                "| {} | {} | {gpus} | {peak:.1} | {gib} | {} | {phase} | {time:.0} | {seconds} | {} | {} |",
                row.device,
                row.anatomy.name,
                off(peak, gib),
                off(time, seconds),
                off(waiting.total_seconds, seconds),
            );
        }
    }
}

/// One habit left out at a time, and all of them.
fn print_habits() {
    println!("\n## What each habit of Wan's code costs, T2V 14B at 720p on H100\n");
    println!("| left out | GiB, 1 GPU | GiB, 8 GPUs | s, 1 GPU | s, 8 GPUs |");
    println!("|---|---|---|---|---|");
    let all = Habits::wan();
    let wan = &wan_table()[0];
    let f32 = Dtype::F32;
    for (name, habits, stored) in [
        ("nothing", all, f32),
        ("weights stored in f32", all, Dtype::Bf16),
        (
            "residual stream in f32",
            Habits {
                residual_f32: false,
                ..all
            },
            f32,
        ),
        (
            "queries and keys in f32",
            Habits {
                qk_f32: false,
                ..all
            },
            f32,
        ),
        (
            "positions in f64",
            Habits {
                rope_f64: false,
                ..all
            },
            f32,
        ),
        (
            "one kernel an operation",
            Habits {
                eager: false,
                rope_f64: false,
                ..all
            },
            f32,
        ),
        (
            "outer parameters kept gathered",
            Habits {
                outer_kept: false,
                ..all
            },
            f32,
        ),
        (
            "FlashAttention-2",
            Habits {
                ampere_attention: false,
                ..all
            },
            f32,
        ),
        (
            "copies of convolutions",
            Habits {
                conv_copies: false,
                ..all
            },
            f32,
        ),
        (
            "overlap of messages",
            Habits {
                no_overlap: true,
                ..all
            },
            f32,
        ),
        ("all but overlap: Kinora", Habits::default(), Dtype::Bf16),
    ] {
        let [one, eight] = [1, 8].map(|gpus| wan.estimate(gpus, habits, stored));
        println!(
            "| {name} | {:.1} | {:.1} | {:.0} | {:.0} |",
            peak(&one, false).0,
            peak(&eight, false).0,
            one.total_seconds,
            eight.total_seconds
        );
    }
}

fn print_dfm() {
    println!("\n## NVIDIA DFM, Wan 2.1 14B pre-training at 37,440 tokens, model TFLOP/s a GPU\n");
    println!(
        "| run | device | GPUs | published | model | off | attention counted as causal | off | with fused kernels | without recomputation | with Kinora's habits | GiB | exposed |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let anatomy = Anatomy::wan_2_1_14b();
    let [full, causal] =
        [Convention::Full, Convention::Causal].map(|by| anatomy.model_flops(37_440, by));
    for row in dfm_table() {
        let ranks = row.mesh.ranks();
        let habits = row.habits();
        let own = row.estimate(habits, row.recompute);
        let fused = row.estimate(
            Habits {
                eager: false,
                ..habits
            },
            row.recompute,
        );
        let kept = row.estimate(habits, Recompute::None);
        let kinora = row.estimate(Habits::default(), row.recompute);
        let rate = |estimate: &Estimate| estimate.model_tflops(ranks);
        let half = rate(&own) * causal / full;
        println!(
            "| {} | {} | {ranks} | {} | {:.0} | {} | {half:.0} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} % |",
            row.name,
            row.device,
            row.published,
            rate(&own),
            off(rate(&own), row.published),
            off(half, row.published),
            rate(&fused),
            rate(&kept),
            rate(&kinora),
            own.memory.peak().total() as f64 / GIB,
            100.0 * own.exposed / own.step_seconds,
        );
    }
}

fn print_movie_gen() {
    use MeshAxis::{Cp, Fsdp, Tp};
    let anatomy = Anatomy::movie_gen_30b();
    let h100 = hardware("h100-sxm");
    let job = |samples, batch, tokens, recompute| {
        Job::Training(Training {
            samples,
            batch,
            tokens,
            recompute,
            dtypes: Dtypes::default(),
            ema: true,
            // Kinora computes blocks with cut weights again; what is compared need not.
            habits: Habits {
                cut_kept: true,
                ..Habits::default()
            },
        })
    };
    let plan = |mesh: Mesh| Arrangement {
        mesh,
        plan: Plan {
            batch: vec![Fsdp],
            seq: vec![Cp, Tp],
            heads: vec![Tp],
            hidden: vec![Tp],
            params: vec![Fsdp, Cp],
            attention: Some(ContextAttention::Gather).filter(|_| mesh.cp > 1),
        },
    };
    println!("\n## Movie Gen 30B, tp 4, cp 2, SP and FSDP on 6,144 H100, 73,728 tokens\n");
    let mesh = Mesh {
        fsdp: 768,
        cp: 2,
        tp: 4,
        ..Mesh::default()
    };
    let own = estimate(
        &anatomy,
        &job(1536, 1, 73_728, Recompute::All),
        &h100,
        &plan(mesh),
        0,
    )
    .expect("its own plan");
    let peak = own.memory.peak();
    println!("| use | GiB |\n|---|---|");
    for which in Use::ALL {
        println!("| {which} | {:.2} |", peak.of(which) as f64 / GIB);
    }
    println!(
        "| all, of {:.0} | {:.2} |",
        own.capacity / GIB,
        peak.total() as f64 / GIB
    );
    println!(
        "\nstep of 1,536 samples: {:.1} s; MFU {:.1} %; messages {:.1} s, of which exposed {:.1} s\n",
        own.step_seconds,
        100.0 * own.mfu,
        own.communication,
        own.exposed
    );
    println!("| message | collective | axes | ranks | calls | GB sent | s | exposed |");
    println!("|---|---|---|---|---|---|---|---|");
    for row in &own.traffic {
        let axes: Vec<String> = row.axes.iter().map(ToString::to_string).collect();
        println!(
            "| {} | {} | {} | {} | {} | {:.2} | {:.3} | {:.3} |",
            row.what,
            row.collective,
            axes.join(" x "),
            row.ranks,
            row.calls,
            row.ring as f64 / 1e9,
            row.seconds,
            row.exposed
        );
    }
    println!("\n### Its recipe in H100-hours (published estimate: 1.25 million)\n");
    println!("| counted | 256 px images | 256 px joint | 768 px joint | all | off |");
    println!("|---|---|---|---|---|---|");
    // Clips of 16, 24 and 32 latent frames (table 2) and images, of 16 x 16 and then 48 x 48 tokens a
    // frame; one sample in eleven of the joint stages is an image. More than half of the clips are
    // the longest; that the others are shared evenly is an assumption.
    let longest = [(32, 1.0)];
    let mixed = [
        (32, 5.0 / 11.0),
        (24, 2.5 / 11.0),
        (16, 2.5 / 11.0),
        (1, 1.0 / 11.0),
    ];
    let small = Mesh {
        fsdp: 768,
        tp: 4,
        ..Mesh::default()
    };
    let images = Mesh {
        fsdp: 1536,
        ..Mesh::default()
    };
    for (name, lengths, recompute) in [
        (
            "all clips of 16 s, all blocks recomputed",
            &longest[..],
            Recompute::All,
        ),
        ("lengths as in its buckets", &mixed[..], Recompute::All),
        (
            "and only so many blocks recomputed as memory asks, which Kinora cannot where weights are cut",
            &mixed[..],
            Recompute::Least,
        ),
    ] {
        let stages = [
            (256, &[(1, 1.0)][..], 1.94e9, 9216, 6, images),
            (256, lengths, 394.8e6, 3072, 1, small),
            (2304, lengths, 73.8e6, 1536, 1, mesh),
        ];
        let hours = stages.map(|(frame, lengths, samples, global, batch, mesh)| {
            let of = |&(frames, share): &(usize, f64)| {
                let job = job(global, batch, frames * frame, recompute);
                let arrangement = plan(mesh);
                let stage = estimate(&anatomy, &job, &h100, &arrangement, 0).expect("its plan");
                let steps = samples * share / global as f64;
                steps * stage.step_seconds * mesh.ranks() as f64 / 3600.0
            };
            lengths.iter().map(of).sum::<f64>()
        });
        let all: f64 = hours.iter().sum();
        let [a, b, c] = hours;
        println!(
            "| {name} | {a:.0} | {b:.0} | {c:.0} | {all:.0} | {} |",
            off(all, 1.25e6)
        );
    }
}

fn print_search() {
    println!("\n## Movie Gen 30B on 6,144 H100: the ten fastest arrangements\n");
    let job = Job::Training(Training {
        samples: 1536,
        batch: 1,
        tokens: 73_728,
        recompute: Recompute::Least,
        dtypes: Dtypes::default(),
        ema: true,
        habits: Habits::default(),
    });
    let start = std::time::Instant::now();
    let found =
        kinora_mesh::cost::search(&Anatomy::movie_gen_30b(), &job, &hardware("h100-sxm"), 6144);
    println!(
        "{} fit, found in {:.2} s.\n",
        found.len(),
        start.elapsed().as_secs_f64()
    );
    println!("| mesh | context | parameters over | recomputed | GiB | step s | exposed s | MFU |");
    println!("|---|---|---|---|---|---|---|---|");
    for (arrangement, estimate) in found.iter().take(10) {
        let params: Vec<String> = arrangement
            .plan
            .params
            .iter()
            .map(ToString::to_string)
            .collect();
        println!(
            "| {} | {} | {} | {} of 48 | {:.1} | {:.2} | {:.2} | {:.1} % |",
            arrangement.mesh,
            arrangement
                .plan
                .attention
                .map_or("-".into(), |attention| attention.to_string()),
            params.join(" x "),
            estimate.recomputed,
            estimate.memory.peak().total() as f64 / GIB,
            estimate.step_seconds,
            estimate.exposed,
            100.0 * estimate.mfu
        );
    }
}

fn main() {
    print_wan();
    print_habits();
    print_dfm();
    print_movie_gen();
    print_search();
}
