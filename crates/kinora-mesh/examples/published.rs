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

use kinora_mesh::cost::{
    Anatomy, Arrangement, Context, Decode, Decoder, Dtype, Dtypes, Estimate, Generation, Guidance,
    Habits, Hardware, Job, Recompute, Residence, TextEncoder, Training, Use, estimate,
};
use kinora_mesh::{Mesh, MeshAxis, Plan};

const GIB: f64 = (1_u64 << 30) as f64;

fn hardware(name: &str) -> Hardware {
    Hardware::named(name).expect("a file of configs/hardware")
}

/// One of Wan 2.1's table: device, model, and (seconds, GiB) on 1, 2, 4 and 8 devices.
struct Wan {
    device: &'static str,
    anatomy: Anatomy,
    latent: [usize; 3],
    steps: usize,
    // The image encoder and its text half, 1.19 billion numbers of 16 bits; 0 for text to video.
    other: usize,
    context: Context,
    published: [(f64, f64); 4],
}

fn wan_table() -> Vec<Wan> {
    let clip = 2 * 1_190_000_000;
    let hd = [21, 90, 160];
    let large = |device, published| Wan {
        device,
        anatomy: Anatomy::wan_2_1_14b(),
        latent: hd,
        steps: 50,
        other: 0,
        context: Context::Ulysses,
        published,
    };
    let image = |device, published| Wan {
        anatomy: Anatomy::wan_2_1_i2v_14b(),
        steps: 40,
        other: clip,
        ..large(device, published)
    };
    vec![
        large(
            "h100-sxm",
            [(1837.9, 69.1), (945.1, 53.9), (497.0, 37.9), (287.9, 29.9)],
        ),
        large(
            "h20",
            [
                (6935.5, 69.1),
                (3488.4, 53.9),
                (1775.8, 37.9),
                (980.5, 29.9),
            ],
        ),
        large(
            "a100-80g",
            [(3342.6, 69.1), (1722.0, 52.5), (886.1, 36.6), (469.9, 28.6)],
        ),
        image(
            "h100-sxm",
            [(1491.6, 76.7), (753.9, 59.8), (403.9, 41.9), (238.8, 32.9)],
        ),
        image(
            "h20",
            [
                (5494.8, 76.7),
                (2756.6, 59.8),
                (1417.0, 41.9),
                (778.2, 32.9),
            ],
        ),
        image(
            "a100-80g",
            [(2715.5, 76.7), (1371.7, 58.5), (716.1, 40.6), (389.7, 31.6)],
        ),
        Wan {
            device: "rtx-4090",
            anatomy: Anatomy::wan_2_1_1_3b(),
            latent: [21, 60, 104],
            steps: 50,
            other: 0,
            // Twelve heads do not divide among eight.
            context: Context::Ring,
            published: [(261.4, 8.19), (188.5, 18.1), (120.8, 14.1), (112.3, 12.2)],
        },
    ]
}

impl Wan {
    /// Its generation on `gpus` devices: alone with the text encoder and the transformer offloaded,
    /// together with both cut over all ranks.
    fn estimate(&self, gpus: usize, habits: Habits, stored: Dtype) -> Estimate {
        let alone = gpus == 1;
        let residence = if alone {
            Residence::Offloaded
        } else {
            Residence::Sharded
        };
        let [t, h, w] = self.latent;
        let job = Job::Generation(Generation {
            batch: 1,
            tokens: t * (h / 2) * (w / 2),
            steps: self.steps,
            guidance: Guidance::TwoPasses,
            transformer: if alone {
                Residence::Offloaded
            } else {
                Residence::Resident
            },
            text_encoder: Some(TextEncoder::umt5_xxl(residence)),
            decode: Some(Decode {
                decoder: Decoder::wan_2_1(),
                latent: self.latent,
                other: if alone { 0 } else { self.other },
            }),
            dtypes: Dtypes {
                master: stored,
                ..Dtypes::default()
            },
            habits,
        });
        let arrangement = Arrangement {
            mesh: Mesh {
                cp: gpus,
                ..Mesh::default()
            },
            plan: Plan {
                seq: vec![MeshAxis::Cp],
                params: vec![MeshAxis::Cp],
                ..Plan::default()
            },
            context: self.context,
        };
        estimate(&self.anatomy, &job, &hardware(self.device), &arrangement, 0)
            .expect("Wan's own plan")
    }
}

/// The peak in GiB. On one device the text encoder's moment is left out where it ran on the host.
fn peak(estimate: &Estimate, text_on_host: bool) -> (f64, &'static str) {
    let phases = estimate.memory.phases.iter();
    let phases = phases.filter(|phase| !(text_on_host && phase.name == "text"));
    let fullest = phases
        .max_by_key(|phase| phase.total())
        .expect("a job has a moment");
    (fullest.total() as f64 / GIB, fullest.name)
}

fn off(model: f64, published: f64) -> String {
    format!("{:+.1} %", 100.0 * (model / published - 1.0))
}

fn print_wan() {
    println!("## Wan 2.1, its own code\n");
    println!("| device | model | GPUs | GiB | published | off | fullest | s | published | off |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for row in wan_table() {
        for (gpus, (seconds, gib)) in [1, 2, 4, 8].into_iter().zip(row.published) {
            let estimate = row.estimate(gpus, Habits::wan(), Dtype::F32);
            // The 4090's single row ran the text encoder on the host.
            let (peak, phase) = peak(&estimate, row.device == "rtx-4090" && gpus == 1);
            let time = estimate.total_seconds;
            println!(
                "| {} | {} | {gpus} | {peak:.1} | {gib} | {} | {phase} | {time:.0} | {seconds} | {} |",
                row.device,
                row.anatomy.name,
                off(peak, gib),
                off(time, seconds),
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
        ("all: Kinora's plan", Habits::default(), Dtype::Bf16),
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

/// One of DFM's rates: a training step of Wan 2.1 14B at 37,440 tokens.
struct Dfm {
    name: &'static str,
    device: &'static str,
    mesh: Mesh,
    params: Vec<MeshAxis>,
    samples: usize,
    recompute: Recompute,
    eager: bool,
    ampere: bool,
    published: f64,
}

fn dfm_table() -> Vec<Dfm> {
    use MeshAxis::{Cp, Fsdp};
    let one = Mesh::default();
    vec![
        Dfm {
            name: "Megatron, tp 2, sp, cp 4",
            device: "h100-sxm",
            mesh: Mesh {
                fsdp: 16,
                cp: 4,
                tp: 2,
                ..one
            },
            // Its distributed optimizer cuts the state over what the gradients are summed over.
            params: vec![Fsdp, Cp],
            samples: 128,
            recompute: Recompute::Blocks(8),
            eager: true,
            ampere: false,
            published: 325.77,
        },
        Dfm {
            name: "Megatron FSDP, cp 2",
            device: "b200",
            mesh: Mesh {
                fsdp: 16,
                cp: 2,
                ..one
            },
            params: vec![Fsdp, Cp],
            samples: 64,
            recompute: Recompute::None,
            eager: true,
            ampere: false,
            published: 804.0,
        },
        Dfm {
            name: "Megatron FSDP, cp 2",
            device: "gb200",
            mesh: Mesh {
                fsdp: 16,
                cp: 2,
                ..one
            },
            params: vec![Fsdp, Cp],
            samples: 64,
            recompute: Recompute::None,
            eager: true,
            ampere: false,
            published: 899.6,
        },
        Dfm {
            name: "Automodel FSDP",
            device: "h100-sxm",
            mesh: Mesh { fsdp: 64, ..one },
            params: vec![Fsdp],
            samples: 64,
            recompute: Recompute::All,
            eager: true,
            ampere: true,
            published: 228.85,
        },
        Dfm {
            name: "Automodel FSDP",
            device: "h100-sxm",
            mesh: Mesh { fsdp: 8, ..one },
            params: vec![Fsdp],
            samples: 8,
            recompute: Recompute::All,
            eager: true,
            ampere: true,
            published: 175.88,
        },
    ]
}

impl Dfm {
    fn estimate(&self, habits: Habits, recompute: Recompute) -> Estimate {
        use MeshAxis::{Cp, Fsdp, Tp};
        let job = Job::Training(Training {
            samples: self.samples,
            batch: 1,
            tokens: 37_440,
            recompute,
            dtypes: Dtypes::default(),
            ema: false,
            habits,
        });
        let arrangement = Arrangement {
            mesh: self.mesh,
            plan: Plan {
                batch: vec![Fsdp],
                seq: vec![Cp, Tp],
                heads: vec![Tp],
                hidden: vec![Tp],
                params: self.params.clone(),
            },
            context: Context::Ring,
        };
        let anatomy = Anatomy::wan_2_1_14b();
        estimate(&anatomy, &job, &hardware(self.device), &arrangement, 0).expect("DFM's own plan")
    }
}

fn print_dfm() {
    println!("\n## NVIDIA DFM, Wan 2.1 14B pre-training at 37,440 tokens, model TFLOP/s a GPU\n");
    println!(
        "| run | device | GPUs | published | model | off | with fused kernels | without recomputation | with Kinora's habits | GiB | exposed |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in dfm_table() {
        let ranks = row.mesh.ranks();
        let habits = Habits {
            eager: row.eager,
            residual_f32: row.ampere,
            qk_f32: row.ampere,
            ampere_attention: row.ampere,
            ..Habits::default()
        };
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
        println!(
            "| {} | {} | {ranks} | {} | {:.0} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} % |",
            row.name,
            row.device,
            row.published,
            rate(&own),
            off(rate(&own), row.published),
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
    let job = |samples, batch, tokens| {
        Job::Training(Training {
            samples,
            batch,
            tokens,
            recompute: Recompute::All,
            dtypes: Dtypes::default(),
            ema: true,
            habits: Habits::default(),
        })
    };
    let plan = |mesh| Arrangement {
        mesh,
        plan: Plan {
            batch: vec![Fsdp],
            seq: vec![Cp, Tp],
            heads: vec![Tp],
            hidden: vec![Tp],
            params: vec![Fsdp, Cp],
        },
        context: Context::Gather,
    };
    println!("\n## Movie Gen 30B, tp 4, cp 2, SP and FSDP on 6,144 H100, 73,728 tokens\n");
    let mesh = Mesh {
        fsdp: 768,
        cp: 2,
        tp: 4,
        ..Mesh::default()
    };
    let own =
        estimate(&anatomy, &job(1536, 1, 73_728), &h100, &plan(mesh), 0).expect("its own plan");
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
    println!("| stage | tokens | samples | plan | MFU | H100-hours |");
    println!("|---|---|---|---|---|---|");
    // Stages by samples (table 3); the tokens of a clip follow from its size at 8 x 8 x 8 and a
    // patch of 2 x 2: 256 px images 16 x 16, clips 32 x 16 x 16, the last stage 32 x 48 x 48.
    // Image samples of the joint stages, one in eleven, are counted as clips.
    let mut hours = 0.0;
    for (name, tokens, samples, global, batch, mesh) in [
        (
            "256 px images",
            256,
            1.94e9,
            9216,
            6,
            Mesh {
                fsdp: 1536,
                ..Mesh::default()
            },
        ),
        (
            "256 px joint",
            8_192,
            394.8e6,
            3072,
            1,
            Mesh {
                fsdp: 768,
                tp: 4,
                ..Mesh::default()
            },
        ),
        ("768 px joint", 73_728, 73.8e6, 1536, 1, mesh),
    ] {
        let stage = estimate(&anatomy, &job(global, batch, tokens), &h100, &plan(mesh), 0)
            .expect("its plan");
        let steps = samples / global as f64;
        let cost = steps * stage.step_seconds * mesh.ranks() as f64 / 3600.0;
        hours += cost;
        println!(
            "| {name} | {tokens} | {:.1} M | {mesh} | {:.1} % | {cost:.0} |",
            samples / 1e6,
            100.0 * stage.mfu
        );
    }
    println!(
        "| all | | | | | {hours:.0} ({} of 1.25 M) |",
        off(hours, 1.25e6)
    );
}

fn print_search() {
    println!(
        "\n## Movie Gen 30B on 6,144 H100: the ten fastest arrangements of {}\n",
        "all that fit"
    );
    let job = Job::Training(Training {
        samples: 1536,
        batch: 1,
        tokens: 73_728,
        recompute: Recompute::All,
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
    println!("| mesh | context | parameters over | GiB | step s | exposed s | MFU |");
    println!("|---|---|---|---|---|---|---|");
    for (arrangement, estimate) in found.iter().take(10) {
        let params: Vec<String> = arrangement
            .plan
            .params
            .iter()
            .map(ToString::to_string)
            .collect();
        println!(
            "| {} | {} | {} | {:.1} | {:.2} | {:.2} | {:.1} % |",
            arrangement.mesh,
            arrangement.context,
            params.join(" x "),
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
