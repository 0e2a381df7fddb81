//! Plans of two ranks with a thread each beside one rank with two threads: seconds of a forward and
//! backward pass of 4 Movie Gen blocks of width 512, 2 x 512 tokens, 32-bit floats. Takes the number of
//! passes.

use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_comm::local::{self, World};
use kinora_mesh::{ContextAttention, Mesh, MeshAxis, Plan};
use kinora_models::bytes::BytesConfig;
use kinora_models::movie_gen::{MovieGenConfig, TextInput};
use kinora_models::{Condition, Denoiser, TextToVideo};
use kinora_shard::{Cx, Gradients, Sharding};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let passes = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let passes: usize = passes.unwrap_or(5);
    let cp = |attention| Plan {
        seq: vec![MeshAxis::Cp],
        attention: Some(attention),
        ..Plan::default()
    };
    let tp = |seq: Vec<MeshAxis>| Plan {
        seq,
        heads: vec![MeshAxis::Tp],
        hidden: vec![MeshAxis::Tp],
        ..Plan::default()
    };
    let rows = [
        ("one rank, one thread", 1, 1, 1, Plan::default()),
        ("one rank, two threads", 1, 1, 2, Plan::default()),
        ("tp 2", 1, 2, 1, tp(vec![])),
        ("tp 2, tokens cut", 1, 2, 1, tp(vec![MeshAxis::Tp])),
        ("cp 2, ring", 2, 1, 1, cp(ContextAttention::RING)),
        ("cp 2, ulysses", 2, 1, 1, cp(ContextAttention::ULYSSES)),
        ("cp 2, gather", 2, 1, 1, cp(ContextAttention::Gather)),
    ];
    // In turns, so that a busy minute of the machine is everybody's.
    let mut best = [f64::MAX; 7];
    for _ in 0..3 {
        for (best, (_, cp, tp, threads, plan)) in best.iter_mut().zip(&rows) {
            let mesh = Mesh {
                cp: *cp,
                tp: *tp,
                ..Mesh::default()
            };
            *best = best.min(seconds(mesh, plan.clone(), *threads, passes));
        }
    }
    println!("| plan | seconds a pass |\n|---|---|");
    for ((name, ..), best) in rows.iter().zip(best) {
        println!("| {name} | {best:.3} |");
    }
}

/// The fastest pass.
fn seconds(mesh: Mesh, plan: Plan, threads: usize, passes: usize) -> f64 {
    let world = World::new(mesh.ranks(), threads);
    let all = local::run(&world, move |transport| {
        let sharding = Sharding::new(transport, mesh, plan.clone()).map_err(|e| e.to_string())?;
        let device = Device::flex().autodiff();
        let cx = Cx::new(&device, DType::F32, 1, &sharding);
        let model = TextToVideo::new(&cx, &video().into(), Some(&text()));
        let table = cx.table().clone();
        let latents = TensorData::new(vec![0.5_f32; 2 * 16 * 512], [2, 16, 8, 8, 8]);
        let mut best = f64::MAX;
        for _ in 0..passes {
            let started = Instant::now();
            let x = Tensor::<5>::from_data(latents.clone(), &Device::flex());
            let time = Tensor::<1>::from_data([0.3, 0.7], &Device::flex());
            let prompts = ["a red circle".to_string(), "a blue square".to_string()];
            let out = model.velocity(
                x.autodiff(),
                time.autodiff(),
                &Condition::of_prompts(&prompts),
            );
            let gradients = &mut out.square().mean().backward();
            let gradients = Gradients::take(&model, &table, gradients);
            let gradients = gradients.reduce(&table, &sharding);
            std::hint::black_box(gradients);
            best = best.min(started.elapsed().as_secs_f64());
        }
        Ok::<f64, String>(best)
    });
    let all = all.unwrap_or_else(|error| panic!("{error}"));
    all.into_iter().fold(0.0, f64::max)
}

fn video() -> MovieGenConfig {
    MovieGenConfig {
        layers: 4,
        dim: 512,
        ffn: 1408,
        heads: 8,
        channels: 16,
        patch: [1, 1, 1],
        max_latent: [8, 8, 8],
        position_scale: 1.0,
        texts: vec![TextInput {
            name: "bytes".into(),
            width: 64,
        }],
    }
}

fn text() -> BytesConfig {
    BytesConfig {
        width: 64,
        layers: 1,
        heads: 8,
        ffn: 160,
        windows: 256,
        max_words: 16,
    }
}
