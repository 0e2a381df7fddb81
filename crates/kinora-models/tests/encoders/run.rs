//! One way to run a model of read weights: on one rank, and on the ranks of a plan.

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use kinora_ckpt::{CkptError, Foreign, Renamed};
use kinora_comm::local::{self, World};
use kinora_golden::{File, Set, rms};
use kinora_mesh::{Mesh, MeshAxis, Plan};
use kinora_shard::{Cx, ParamSpec, ShardError, Sharding, Source, load};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// The largest root mean square of the difference to 64 bits, relative.
pub(crate) const NEAR: f64 = 1e-6;
/// The same of computation in 64 bits, from the same weights.
pub(crate) const SAME: f64 = 1e-12;

/// A model read from a file of the set, under the names that `keys` gives.
pub(crate) fn read<M>(
    cx: &Cx,
    set: &Set,
    file: &str,
    keys: impl Fn(&str, &[usize]) -> Foreign,
    build: impl Fn(&Cx) -> M,
) -> Option<M> {
    let weights = set.weights(file)?;
    let open = |params: &[(String, Vec<usize>)]| -> Result<Source, CkptError> {
        Ok(Arc::new(Renamed::new(weights, params, keys)?))
    };
    Some(load(cx, open, build).unwrap_or_else(|error| panic!("{file}: {error}")))
}

/// A `config.json` as the class of the set has it.
pub(crate) fn config(set: &Set) -> Value {
    let whole = set.config();
    let mut config = whole["config"].clone();
    let class = whole["model"].as_str().unwrap().split(' ').next();
    config["architectures"] = Value::from(vec![class.unwrap()]);
    config
}

/// The names of a set's cases, without its weights.
pub(crate) fn cases(set: &Set) -> Vec<String> {
    let config = set.config();
    let names = config["cases"].as_object().unwrap().keys();
    names
        .filter(|name| !name.starts_with("weights"))
        .cloned()
        .collect()
}

pub(crate) fn ids(file: &File, name: &str) -> Tensor<2, Int> {
    let ids: Vec<i32> = file.f64(name).into_iter().map(|id| id as i32).collect();
    Tensor::from_data(TensorData::new(ids, file.shape(name)), &Device::flex())
}

pub(crate) fn mask(file: &File, name: &str) -> Option<Tensor<2, Bool>> {
    let mask = || {
        file.f64(name)
            .into_iter()
            .map(|on| on != 0.0)
            .collect::<Vec<_>>()
    };
    let data = file
        .has(name)
        .then(|| TensorData::new(mask(), file.shape(name)));
    data.map(|data| Tensor::from_data(data, &Device::flex()))
}

pub(crate) fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// Compares by name what a model made with what the set holds, in the names of 64 bits; those that it
/// has only in 32 bits are compared with these.
pub(crate) fn compare(what: &str, file: &File, got: &[(&str, Vec<f64>)], near: f64) {
    let mut compared = 0;
    for (name, got) in got {
        let wide = format!("{name}_f64");
        let (name, near) = if file.has(&wide) {
            (wide.as_str(), near)
        } else {
            (*name, 2e-6)
        };
        if file.has(name) {
            let far = rms(got, &file.f64(name));
            assert!(far < near, "{what}, {name}: {far:e} from the original");
            compared += 1;
        }
    }
    assert!(compared > 0, "{what}: nothing to compare");
}

/// A builder of one rank with everything, in a dtype.
pub(crate) fn whole(dtype: DType) -> Cx {
    Cx::new(&Device::flex(), dtype, 0, &Sharding::single())
}

/// Runs `make` on the ranks of plans and compares with one rank, in 64 bits, where only the order of
/// sums differs. Each rank stores part of the weights.
pub(crate) fn every_plan(
    what: &str,
    make: impl Fn(&Cx) -> Vec<f64> + Send + Sync + Clone + 'static,
) {
    let cx = whole(DType::F64);
    let (one, all) = (make(&cx), stored(&cx));
    assert!(
        one.iter().any(|&x| x != 0.0),
        "{what}: one rank makes nothing"
    );
    for [fsdp, cp, tp] in [[1, 1, 2], [2, 1, 1], [2, 1, 2], [1, 2, 2]] {
        let mesh = Mesh {
            fsdp,
            cp,
            tp,
            ..Mesh::default()
        };
        let used = |axis: MeshAxis, size: usize| (size > 1).then_some(axis);
        let seq = [used(MeshAxis::Cp, cp), used(MeshAxis::Tp, tp)];
        let plan = Plan {
            batch: used(MeshAxis::Fsdp, fsdp).into_iter().collect(),
            seq: seq.into_iter().flatten().collect(),
            heads: used(MeshAxis::Tp, tp).into_iter().collect(),
            hidden: used(MeshAxis::Tp, tp).into_iter().collect(),
            params: used(MeshAxis::Fsdp, fsdp).into_iter().collect(),
            attention: None,
        };
        let world = World {
            deadline: Duration::from_secs(120),
            ..World::new(mesh.ranks(), 1)
        };
        let make = make.clone();
        let ranks = local::run(&world, move |transport| {
            let sharding = Sharding::new(transport, mesh, plan.clone())?;
            let cx = Cx::new(&Device::flex(), DType::F64, 0, &sharding);
            let got = make(&cx);
            Ok::<_, ShardError>((got, stored(&cx)))
        })
        .unwrap_or_else(|error| panic!("{what}, {mesh}: {error}"));
        for (rank, (got, stored)) in ranks.iter().enumerate() {
            let far = rms(got, &one);
            assert!(
                far < SAME,
                "{what}, {mesh}, rank {rank}: {far:e} from one rank"
            );
            assert!(
                stored * 4 < all * 3,
                "{what}, {mesh}, rank {rank}: {stored} of {all}"
            );
        }
    }
}

/// The numbers that a rank stores.
fn stored(cx: &Cx) -> usize {
    cx.table().specs().iter().map(ParamSpec::local_len).sum()
}
