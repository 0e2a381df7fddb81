//! The memory that a backward pass takes, measured in processes of their own: 8 blocks of width 512 with
//! 1,408 hidden units, 4 x 512 tokens, 32-bit floats.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_comm::Transport;
use kinora_comm::tcp::Rendezvous;
use kinora_mesh::rng::Stream;
use kinora_mesh::{Axis, Mesh, MeshAxis, Plan};
use kinora_nn::{Attention, AttentionConfig, QkNorm, RmsNorm, SwiGlu};
use kinora_shard::{Cx, Gradients, Recompute, Sharding, Stack};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LAYERS: usize = 8;
const WIDTH: usize = 512;
const FFN: usize = 1408;
const HEADS: usize = 8;
const SAMPLES: usize = 4;
const TOKENS: usize = 512;
const MB: f64 = 1e6;

/// The block that the proof of recomputation had: attention and a feed-forward network.
#[derive(Module, Debug)]
struct Block {
    norm1: RmsNorm,
    attn: Attention,
    norm2: RmsNorm,
    mlp: SwiGlu,
}

fn stack(cx: &Cx) -> Stack<Block> {
    let width = Axis::Embed.of(WIDTH);
    Stack::new(cx, LAYERS, |cx| Block {
        norm1: RmsNorm::new(&cx.at("norm1"), width),
        attn: AttentionConfig {
            width,
            heads: HEADS,
            norm: QkNorm::None,
            residual: 1.0,
        }
        .init(&cx.at("attn")),
        norm2: RmsNorm::new(&cx.at("norm2"), width),
        mlp: SwiGlu::new(&cx.at("mlp"), width, FFN, 1.0),
    })
}

/// Bytes of the process, now and at most.
fn resident() -> [f64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux says");
    ["VmRSS:", "VmHWM:"].map(|key| {
        let line = status
            .lines()
            .find(|line| line.starts_with(key))
            .expect(key);
        let kib: f64 = line
            .split_whitespace()
            .nth(1)
            .expect(key)
            .parse()
            .expect(key);
        kib * 1024.0
    })
}

/// One forward and backward pass of this rank's samples; prints what it took.
fn measure(sharding: &Arc<Sharding>, recompute: Recompute, samples: usize) {
    let [start, _] = resident();
    let device = Device::flex().autodiff();
    let cx = Cx::new(&device, DType::F32, 1, sharding).recomputing(recompute);
    let stack = stack(&cx);
    let table = cx.table().clone();
    let stored: usize = table.specs().iter().map(|spec| 4 * spec.local_len()).sum();
    let whole: usize = table
        .specs()
        .iter()
        .map(|spec| 4 * spec.compute_len())
        .sum();
    let data = Stream::new(2, "x").normals(0..(samples * TOKENS * WIDTH) as u64);
    let data = TensorData::new(data, [samples, TOKENS, WIDTH]);
    let x = Tensor::<3>::from_data(data, (&Device::flex(), DType::F32));
    let x = x.autodiff().require_grad();
    let [ready, _] = resident();
    let out = stack.forward([x], |block, [x]| {
        let x = x.clone() + block.attn.forward(block.norm1.forward(x), None, TOKENS);
        x.clone() + block.mlp.forward(block.norm2.forward(x), TOKENS)
    });
    let [forward, _] = resident();
    let loss = out.square().mean();
    let gradients = Gradients::take(&stack, &table, &mut loss.backward());
    let gradients = gradients.reduce(&table, sharding);
    let norm = gradients.norm(&table, sharding).expect("no peer fails");
    assert!(norm.is_finite() && norm > 0.0, "{norm}");
    let [_, peak] = resident();
    println!("measured {start} {ready} {forward} {peak} {stored} {whole}");
}

/// What a child measured: bytes at its start, before the pass, after the forward pass, and at most; of
/// stored parameters and of whole ones.
#[derive(Clone, Copy, Debug)]
struct Measured {
    start: f64,
    peak: f64,
    stored: f64,
    whole: f64,
}

fn child(test: &str, env: &[(&str, String)]) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("RAYON_NUM_THREADS", "2")
        .envs(env.iter().map(|(key, value)| (*key, value)))
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child can be started")
}

fn result(child: Child) -> Measured {
    let output = child.wait_with_output().expect("the child ends");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split_once("measured "));
    let (_, line) = line.unwrap_or_else(|| panic!("a child measured nothing: {text}"));
    let numbers: Vec<f64> = line
        .split(' ')
        .map(|n| n.parse().expect("a number"))
        .collect();
    let [start, ready, forward, peak, stored, whole] = numbers[..] else {
        panic!("six numbers, not {line}");
    };
    println!(
        "start {:.0} MB, ready {:.0}, after forward {:.0}, peak {:.0}; stored parameters {:.1} of {:.1} MB",
        start / MB,
        ready / MB,
        forward / MB,
        peak / MB,
        stored / MB,
        whole / MB
    );
    Measured {
        start,
        peak,
        stored,
        whole,
    }
}

#[test]
#[ignore = "a child of the test below"]
fn keep_all() {
    measure(&Sharding::single(), Recompute::None, SAMPLES);
}

#[test]
#[ignore = "a child of the test below"]
fn keep_inputs() {
    measure(&Sharding::single(), Recompute::All, SAMPLES);
}

#[test]
#[ignore = "a child of the test below"]
fn keep_inputs_of_one_sample() {
    measure(&Sharding::single(), Recompute::All, 1);
}

#[test]
fn a_backward_pass_stays_within_its_memory() {
    let none = result(child("keep_all", &[]));
    let all = result(child("keep_inputs", &[]));
    assert!(none.peak <= 1200.0 * MB, "{:.0} MB", none.peak / MB);
    assert!(all.peak <= 480.0 * MB, "{:.0} MB", all.peak / MB);
}

#[test]
#[ignore = "a child of the test below"]
fn rank_of_eight() {
    let env = |key| std::env::var(key).expect("the parent says");
    let rank: usize = env("KINORA_TEST_RANK").parse().expect("a number");
    let deadline = Duration::from_secs(120);
    let rendezvous = Rendezvous::new(&env("KINORA_TEST_ADDRESS"), rank, 8, deadline);
    let process = rendezvous.join().expect("all eight come");
    let mesh = Mesh {
        fsdp: 8,
        ..Mesh::default()
    };
    let plan = Plan {
        batch: vec![MeshAxis::Fsdp],
        params: vec![MeshAxis::Fsdp],
        ..Plan::default()
    };
    let transport: Arc<dyn Transport> = process.transport();
    let sharding = Sharding::new(transport, mesh, plan).expect("the groups form");
    measure(&sharding, Recompute::All, 1);
}

#[test]
fn eight_ranks_store_an_eighth_each() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("a port").to_string();
    drop(free);
    let rank = |rank: usize| {
        let rank = ("KINORA_TEST_RANK", rank.to_string());
        child(
            "rank_of_eight",
            &[rank, ("KINORA_TEST_ADDRESS", address.clone())],
        )
    };
    let children: Vec<Child> = (0..8).map(rank).collect();
    let ranks: Vec<Measured> = children.into_iter().map(result).collect();
    let one = result(child("keep_inputs_of_one_sample", &[]));
    let block = one.whole / LAYERS as f64;
    // Of one rank alone: everything but its weights and their gradients.
    let activations = one.peak - one.start - 2.0 * one.whole;
    for rank in ranks {
        // At most a row more of each tensor than an eighth.
        let padding = 4.0 * (LAYERS * 9 * FFN) as f64;
        assert!(rank.stored <= one.whole / 8.0 + padding, "{rank:?}");
        let bound = 2.0 * rank.stored + 2.0 * block + activations;
        println!(
            "a rank's peak above its start: {:.1} MB; stored weights and gradients, two blocks and activations: {:.1} MB",
            (rank.peak - rank.start) / MB,
            bound / MB
        );
        // Messages under way come on top: what peers that are ahead have sent of the next block, and
        // what is on its way to those that are behind. A weight or gradient kept whole would be more.
        let under_way = 2.0 * block;
        assert!(rank.peak - rank.start <= bound + under_way, "{rank:?}");
    }
}
