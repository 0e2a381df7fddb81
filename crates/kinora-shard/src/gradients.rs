//! Gradients of one rank's parameters: accumulated, summed over the ranks that hold parts of them,
//! measured and clipped.

use crate::{Collective, ParamTable, Sharding};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor};
use kinora_comm::CommError;
use kinora_mesh::MeshAxis;
use std::collections::BTreeMap;

/// One flat gradient a trained parameter, in the order of the [`ParamTable`].
#[derive(Clone, Debug)]
pub struct Gradients {
    flat: Vec<Tensor<1>>,
}

impl Gradients {
    /// Takes the gradients of a module's parameters out of a backward pass.
    ///
    /// A parameter that the loss does not depend on has gradient zero.
    pub fn take(
        module: &impl Module,
        table: &ParamTable,
        from: &mut burn::tensor::Gradients,
    ) -> Self {
        let mut visitor = Take {
            table,
            from,
            flat: vec![None; table.specs().len()],
        };
        module.visit(&mut visitor);
        let missing = visitor.flat.iter().position(Option::is_none);
        if let Some(index) = missing {
            panic!(
                "parameter {} is not a field of the model",
                table.specs()[index].path
            );
        }
        Self {
            flat: visitor.flat.into_iter().flatten().collect(),
        }
    }

    /// Adds the gradients of another micro-batch.
    pub fn plus(self, other: Self) -> Self {
        let flat = self
            .flat
            .into_iter()
            .zip(other.flat)
            .map(|(a, b)| a + b)
            .collect();
        Self { flat }
    }

    /// Sums each gradient over the ranks that hold a part of it, in as few calls as there are kinds.
    ///
    /// # Panics
    /// With a [`CommError`] as payload if the transport fails.
    pub fn reduce(mut self, table: &ParamTable, sharding: &Sharding) -> Self {
        let mut kinds: BTreeMap<&[MeshAxis], Vec<usize>> = BTreeMap::new();
        for (index, spec) in table.specs().iter().enumerate() {
            kinds.entry(&spec.partial).or_default().push(index);
        }
        for (axes, members) in kinds {
            let group = sharding.group(axes);
            if group.size() == 1 {
                continue;
            }
            let parts: Vec<Tensor<1>> = members.iter().map(|&i| self.flat[i].clone()).collect();
            let lens: Vec<usize> = parts.iter().map(|part| part.dims()[0]).collect();
            let sum = Collective::AllReduce.apply(Tensor::cat(parts, 0), &group);
            for (&index, part) in members.iter().zip(sum.split_with_sizes(lens, 0)) {
                self.flat[index] = part;
            }
        }
        self
    }

    /// The Euclidean norm of the whole model's gradient, the same number on every rank.
    ///
    /// # Errors
    /// Those of the transport.
    pub fn norm(&self, table: &ParamTable, sharding: &Sharding) -> Result<f64, CommError> {
        // One number for each parameter: in 64 bits all of them together would be twice the gradients.
        let mut kinds: BTreeMap<Vec<MeshAxis>, Vec<Tensor<1>>> = BTreeMap::new();
        for (spec, flat) in table.specs().iter().zip(&self.flat) {
            let square = flat.clone().cast(DType::F64).square().sum();
            kinds
                .entry(spec.layout.cut_axes())
                .or_default()
                .push(square);
        }
        let mut total = 0.0;
        for (axes, squares) in kinds {
            let local = Tensor::cat(squares, 0).sum().into_scalar::<f64>();
            total += sharding.group(&axes).sum(vec![local], "gradient norm")?[0];
        }
        Ok(total.sqrt())
    }

    /// All gradients times a number.
    pub fn scale(self, factor: f64) -> Self {
        Self {
            flat: self
                .flat
                .into_iter()
                .map(|gradient| gradient * factor)
                .collect(),
        }
    }

    /// The flat gradients, in the order of the table.
    pub fn flat(&self) -> &[Tensor<1>] {
        &self.flat
    }
}

struct Take<'a> {
    table: &'a ParamTable,
    from: &'a mut burn::tensor::Gradients,
    flat: Vec<Option<Tensor<1>>>,
}

impl ModuleVisitor for Take<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(index) = self.table.index(param.id) else {
            return;
        };
        let value = param.val();
        let gradient = value
            .grad_remove(self.from)
            .unwrap_or_else(|| value.inner().zeros_like());
        self.flat[index] = Some(gradient.reshape([-1]));
    }
}
