//! A forward and a backward pass on the ranks of a plan.

use crate::golden::{Inputs, values};
use burn::tensor::{DType, Device, Tensor};
use kinora_comm::local::{self, World};
use kinora_mesh::{ContextAttention, Mesh, MeshAxis, Plan, part};
use kinora_models::wan::Wan;
use kinora_shard::{Cx, Gradients, ParamSpec, Recompute, ShardError, Sharding};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Inputs, and what their velocities should be: nothing, if there is no target.
type MakeInputs = dyn Fn(&Device, DType) -> (Inputs, Option<Tensor<5>>) + Send + Sync;

/// A model and what goes into it.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) build: Arc<dyn Fn(&Cx) -> Wan + Send + Sync>,
    pub(crate) inputs: Arc<MakeInputs>,
    pub(crate) dtype: DType,
    pub(crate) recompute: Recompute,
}

/// A way to cut a model.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) mesh: Mesh,
    pub(crate) plan: Plan,
}

/// One rank alone.
pub(crate) fn whole() -> Row {
    row("one rank", [1, 1, 1], true, None)
}

pub(crate) fn rows() -> Vec<Row> {
    let hybrid = ContextAttention::hybrid(2, 2);
    vec![
        row("tp 2, tokens over tp", [1, 1, 2], true, None),
        row("tp 2, tokens whole", [1, 1, 2], false, None),
        row("cp 2, ring", [1, 2, 1], true, Some(ContextAttention::RING)),
        row("cp 4, ulysses 2 x ring 2", [1, 4, 1], true, Some(hybrid)),
        row("fsdp 2 x tp 2", [2, 1, 2], true, None),
        row(
            "cp 2 x tp 2",
            [1, 2, 2],
            true,
            Some(ContextAttention::Gather),
        ),
    ]
}

fn row(
    name: &'static str,
    [fsdp, cp, tp]: [usize; 3],
    over_tp: bool,
    attention: Option<ContextAttention>,
) -> Row {
    let mesh = Mesh {
        fsdp,
        cp,
        tp,
        ..Mesh::default()
    };
    let mut seq = vec![MeshAxis::Cp];
    seq.extend(over_tp.then_some(MeshAxis::Tp));
    let plan = Plan {
        batch: vec![MeshAxis::Fsdp],
        seq,
        heads: vec![MeshAxis::Tp],
        hidden: vec![MeshAxis::Tp],
        params: vec![MeshAxis::Fsdp],
        attention,
    };
    Row { name, mesh, plan }
}

/// What all ranks together computed.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    /// Of the whole batch.
    pub(crate) velocity: Vec<f64>,
    /// The mean square of the distance to the target.
    pub(crate) loss: f64,
    /// The gradient of each whole parameter, and its shape.
    pub(crate) params: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    pub(crate) of_latent: Vec<f64>,
    pub(crate) of_text: Vec<f64>,
}

/// What one rank computed: of its samples, and of its box of each parameter.
struct Part {
    velocity: Vec<f64>,
    loss: f64,
    params: Vec<(ParamSpec, Vec<f64>)>,
    of_latent: Vec<f64>,
    of_text: Vec<f64>,
}

/// Runs a job on all ranks of a row.
pub(crate) fn run(row: &Row, job: &Job) -> Ran {
    let world = World {
        deadline: Duration::from_secs(120),
        ..World::new(row.mesh.ranks(), 1)
    };
    let (mesh, plan, job) = (row.mesh, row.plan.clone(), job.clone());
    let parts = local::run(&world, move |transport| {
        let sharding = Sharding::new(transport, mesh, plan.clone())?;
        Ok::<Part, ShardError>(on_rank(&sharding, &job))
    });
    let parts = parts.unwrap_or_else(|error| panic!("{}: {error}", row.name));
    together(row, parts)
}

fn on_rank(sharding: &Arc<Sharding>, job: &Job) -> Part {
    let device = Device::flex();
    let tracked = device.clone().autodiff();
    let cx = Cx::new(&tracked, job.dtype, 0, sharding).recomputing(job.recompute);
    let model = (job.build)(&cx);
    let (inputs, target) = (job.inputs)(&device, job.dtype);
    let (index, shares) = sharding.share();
    let batch = inputs.latent.dims()[0];
    let mine = part(batch, shares, index);
    let (start, len) = (mine.start, mine.len());
    let latent = inputs.latent.narrow(0, start, len);
    let latent = latent.autodiff().require_grad();
    let text = inputs.text.narrow(0, start, len).autodiff().require_grad();
    let time = inputs.time.narrow(0, start, len);
    let image = inputs.image.map(|image| image.narrow(0, start, len));
    let velocity = model.forward(
        latent.clone(),
        time.autodiff(),
        text.clone(),
        image.map(Tensor::autodiff),
    );
    let elements = velocity.dims().iter().product::<usize>() / len * batch;
    let far = match target {
        Some(target) => velocity.clone() - target.narrow(0, start, len).autodiff(),
        None => velocity.clone(),
    };
    let loss = far.square().sum() / elements as f64;
    let mut gradients = loss.backward();
    let table = cx.table();
    let of_latent = latent.grad_remove(&mut gradients).expect("a gradient");
    let of_text = text.grad_remove(&mut gradients).expect("a gradient");
    let flat = Gradients::take(&model, &table, &mut gradients).reduce(&table, sharding);
    let specs = table.specs().iter().cloned();
    Part {
        velocity: values(velocity.inner()),
        loss: loss.inner().into_scalar(),
        params: specs
            .zip(flat.flat().iter().map(|x| values(x.clone())))
            .collect(),
        of_latent: values(of_latent),
        of_text: values(of_text),
    }
}

fn together(row: &Row, parts: Vec<Part>) -> Ran {
    let at = |rank, axis| row.mesh.coordinate(rank, axis);
    let mut ran = Ran {
        velocity: vec![],
        loss: 0.0,
        params: BTreeMap::new(),
        of_latent: vec![],
        of_text: vec![],
    };
    let mut texts: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (rank, part) in parts.into_iter().enumerate() {
        for (spec, box_of) in part.params {
            let shape = spec.layout.shape.clone();
            let whole = vec![f64::NAN; shape.iter().product()];
            let (_, whole) = ran.params.entry(spec.path).or_insert((shape, whole));
            let mut rest = &box_of[..];
            spec.layout.runs(|start, len| {
                whole[start..start + len].copy_from_slice(&rest[..len]);
                rest = &rest[len..];
            });
        }
        if at(rank, MeshAxis::Tp) > 0 {
            continue;
        }
        // The text is whole everywhere, but each part of the video's tokens has read it for itself.
        let share = at(rank, MeshAxis::Fsdp);
        let sum = texts.entry(share).or_insert(vec![0.0; part.of_text.len()]);
        for (sum, x) in sum.iter_mut().zip(part.of_text) {
            *sum += x;
        }
        if at(rank, MeshAxis::Cp) == 0 {
            ran.loss += part.loss;
            ran.velocity.extend(part.velocity);
            ran.of_latent.extend(part.of_latent);
        }
    }
    ran.of_text = texts.into_values().flatten().collect();
    ran
}
