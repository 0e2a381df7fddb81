//! What others published, and the jobs and plans that they ran.

use kinora_mesh::cost::{
    Anatomy, Arrangement, Decode, Decoder, Dtype, Dtypes, Estimate, Generation, Guidance, Habits,
    Hardware, Job, Recompute, Residence, TextEncoder, Training, estimate,
};
use kinora_mesh::{ContextAttention, Mesh, MeshAxis, Plan};

pub(crate) const GIB: f64 = (1_u64 << 30) as f64;

pub(crate) fn hardware(name: &str) -> Hardware {
    Hardware::named(name).expect("a file of configs/hardware")
}

/// One of Wan 2.1's table: device, model, and (seconds, GiB) on 1, 2, 4 and 8 devices.
pub(crate) struct Wan {
    pub(crate) device: &'static str,
    pub(crate) anatomy: Anatomy,
    pub(crate) latent: [usize; 3],
    pub(crate) steps: usize,
    // The image encoder and its text half, 1.19 billion numbers of 16 bits; 0 for text to video.
    pub(crate) other: usize,
    pub(crate) attention: ContextAttention,
    pub(crate) published: [(f64, f64); 4],
}

pub(crate) fn wan_table() -> Vec<Wan> {
    let clip = 2 * 1_190_000_000;
    let hd = [21, 90, 160];
    let large = |device, published| Wan {
        device,
        anatomy: Anatomy::wan_2_1_14b(),
        latent: hd,
        steps: 50,
        other: 0,
        attention: ContextAttention::ULYSSES,
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
            attention: ContextAttention::RING,
            published: [(261.4, 8.19), (188.5, 18.1), (120.8, 14.1), (112.3, 12.2)],
        },
    ]
}

impl Wan {
    /// Its generation on `gpus` devices: alone with the text encoder and the transformer offloaded,
    /// together with both cut over all ranks.
    pub(crate) fn estimate(&self, gpus: usize, habits: Habits, stored: Dtype) -> Estimate {
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
                attention: Some(self.attention).filter(|_| gpus > 1),
                ..Plan::default()
            },
        };
        estimate(&self.anatomy, &job, &hardware(self.device), &arrangement, 0)
            .expect("Wan's own plan")
    }
}

/// The peak in GiB. On one device the text encoder's moment is left out where it ran on the host.
pub(crate) fn peak(estimate: &Estimate, text_on_host: bool) -> (f64, &'static str) {
    let phases = estimate.memory.phases.iter();
    let phases = phases.filter(|phase| !(text_on_host && phase.name == "text"));
    let fullest = phases
        .max_by_key(|phase| phase.total())
        .expect("a job has a moment");
    (fullest.total() as f64 / GIB, fullest.name)
}

/// One of DFM's rates: a training step of Wan 2.1 14B at 37,440 tokens.
pub(crate) struct Dfm {
    pub(crate) name: &'static str,
    pub(crate) device: &'static str,
    pub(crate) mesh: Mesh,
    pub(crate) params: Vec<MeshAxis>,
    pub(crate) samples: usize,
    pub(crate) recompute: Recompute,
    /// Whether it ran on transformers of the diffusers library, rather than on Megatron's.
    pub(crate) automodel: bool,
    pub(crate) published: f64,
}

pub(crate) fn dfm_table() -> Vec<Dfm> {
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
            automodel: false,
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
            automodel: false,
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
            automodel: false,
            published: 899.6,
        },
        Dfm {
            name: "Automodel FSDP",
            device: "h100-sxm",
            mesh: Mesh { fsdp: 64, ..one },
            params: vec![Fsdp],
            samples: 64,
            recompute: Recompute::All,
            automodel: true,
            published: 228.85,
        },
        Dfm {
            name: "Automodel FSDP",
            device: "h100-sxm",
            mesh: Mesh { fsdp: 8, ..one },
            params: vec![Fsdp],
            samples: 8,
            recompute: Recompute::All,
            automodel: true,
            published: 175.88,
        },
    ]
}

impl Dfm {
    /// Its habits: eager elementwise kernels in both, f32 residuals and FlashAttention-2 in Automodel's.
    pub(crate) fn habits(&self) -> Habits {
        Habits {
            eager: true,
            residual_f32: self.automodel,
            qk_f32: self.automodel,
            ampere_attention: self.automodel,
            cut_kept: true,
            ..Habits::default()
        }
    }

    pub(crate) fn estimate(&self, habits: Habits, recompute: Recompute) -> Estimate {
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
                attention: None,
            },
        };
        let anatomy = Anatomy::wan_2_1_14b();
        estimate(&anatomy, &job, &hardware(self.device), &arrangement, 0).expect("DFM's own plan")
    }
}
